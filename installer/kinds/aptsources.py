"""apt sources and configuration as text: from the definition, or the builder's own without whatever switches verification off."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from engine.errors import InputError
from installer.definition import AptSource

# Options of a source that make apt accept what nobody signed. Values do not matter: the default is what we want.
UNSAFE = frozenset({"trusted", "allow-insecure", "allow-weak", "allow-downgrade-to-insecure"})


def deb822(sources: Sequence[AptSource], keyrings: Sequence[Path], arch: str) -> str:
    """The definition's sources, each bound to its keyring.

    Args:
        keyrings: where apt finds the keyring of each source, in the same order.
        arch: as dpkg names it.

    Raises:
        InputError: a value would break out of its line.
    """
    return "\n".join(_stanza(s, k, arch) for s, k in zip(sources, keyrings, strict=True))


def _stanza(source: AptSource, keyring: Path, arch: str) -> str:
    for value in (source.uri, *source.suites, *source.components):
        if not value or re.search(r"\s|[\x00-\x1f\x7f]", value):
            raise InputError(
                f"debs.sources: {value!r} has a space or a control character",
                remedy="Give one address, suite or component an entry.",
            )
    flat = [s for s in source.suites if s.endswith("/")]
    if flat and len(flat) != len(source.suites):
        raise InputError(
            f"debs.sources: {source.uri} mixes suites and directories ({flat[0]})",
            remedy="A suite that ends with / is a directory without components; make it a source of its own.",
        )
    lines = ["Types: deb", f"URIs: {source.uri}", f"Suites: {' '.join(source.suites)}"]
    if not flat:
        lines.append(f"Components: {' '.join(source.components)}")
    return "\n".join([*lines, f"Architectures: {arch}", f"Signed-By: {keyring}", ""])


def without_unsafe(name: str, text: str) -> tuple[str, list[str]]:
    """A builder's ``.list`` or ``.sources`` file without the sources that switch verification off, and these sources."""
    if name.endswith(".list"):
        parts, glue = text.splitlines(), "\n"
        unsafe = [p for p in parts if _unsafe_line(p)]
    else:
        parts, glue = re.split(r"\n[ \t]*\n", text), "\n\n"
        unsafe = [p for p in parts if _unsafe_stanza(p)]
    kept = glue.join(p for p in parts if p not in unsafe)
    return kept.rstrip("\n") + "\n", [" ".join(u.split()) for u in unsafe]


def _unsafe_line(line: str) -> bool:
    options = re.match(r"\s*deb(?:-src)?\s+\[([^]]*)\]", line)
    names = re.findall(r"([\w-]+?)[+-]?\s*=", options.group(1)) if options else []
    return any(n.lower() in UNSAFE for n in names)


def _unsafe_stanza(stanza: str) -> bool:
    return any(n.lower() in UNSAFE for n in re.findall(r"^([\w-]+?)[ \t]*:", stanza, re.MULTILINE))


def configuration(path: Path, arch: str) -> str:
    """The configuration of an apt with its own directory ``path``, for a target of processor ``arch`` (dpkg's name)."""
    return f"""\
Dir::State "{path}/state";
Dir::State::status "{path}/state/status";
Dir::Cache "{path}/cache";
Dir::Etc "{path}/etc";
Dir::Log "{path}/log";
APT::Architecture "{arch}";
APT::Architectures {{ "{arch}"; }};
APT::Install-Recommends "false";
APT::Install-Suggests "false";
// A name is a name: no package whose name merely matches.
APT::Cmd::Pattern-Only "true";
// Phasing depends on the machine's identity; two builders shall agree.
APT::Get::Never-Include-Phased-Updates "true";
APT::Update::Error-Mode "any";
Acquire::AllowInsecureRepositories "false";
Acquire::AllowWeakRepositories "false";
Acquire::AllowDowngradeToInsecureRepositories "false";
Acquire::Languages "none";
Acquire::IndexTargets::deb-src::Sources::DefaultEnabled "false";
Acquire::Retries "2";
// With the delay, apt 2.6 waits forever when a host answers on one port and not on another.
Acquire::Retries::Delay "false";
Acquire::http::Timeout "20";
Acquire::https::Timeout "20";
// Which hash --print-uris prints; the default of apt 2.6 is MD5.
Acquire::ForceHash "SHA256";
"""
