"""What artifacts say of their licences: words, copyright files and texts that anybody may have written."""

from __future__ import annotations

from packaging.licenses import canonicalize_license_expression

from installer.evidence import dep5, knowntexts, licences, spdx
from installer.evidence.texts import Text
from tests.fuzz.targets import FuzzTarget


def licence_names(data: bytes) -> None:
    """Whatever is declared or found, the answer is nothing or an expression that SPDX's grammar takes, and the same when asked again."""
    said = data.decode(errors="replace")
    for kind, declared in (("wheels", said), ("wheels", ""), ("debs", "")):
        expression, basis = licences.classified(kind, declared, [Text("LICENSE", data)])
        assert bool(expression) == bool(basis)
        if expression:
            assert canonicalize_license_expression(expression)
            assert spdx.normalise(expression)
            assert spdx.single(expression)


def _seeds() -> list[bytes]:
    texts = [f.read_bytes() for f in sorted(knowntexts.DIRECTORY.glob("[BIM]*.txt")) if f.stem != "MPL-2.0"]
    named = [b"MIT", b"Apache License 2.0", b"MIT OR (ISC AND Apache-2.0)", b"BSD License", b"LicenseRef-x WITH y"]
    form = b"Format: x\nLicense: GPL-2+ or Artistic\n\nLicense: Expat and ISC\n"
    return [*texts, *named, form]


assert dep5.expression([_seeds()[-1]])  # a seed that no parser takes would prove nothing
TARGETS = {"licence_names": FuzzTarget(licence_names, _seeds)}
