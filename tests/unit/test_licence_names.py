"""Declared words, Debian's copyright files and licence texts become SPDX expressions where they mean one licence, and only there."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import pytest
from packaging.licenses import canonicalize_license_expression

from installer.evidence import dep5, knowntexts, licences, spdx
from installer.evidence.texts import Text

TREE = Path(__file__).resolve().parents[2]


def filled(spdx_id: str, name: str = "the copyright holder") -> str:
    """A known text as a project would carry it: names filled in, items numbered, what may be absent left in."""
    text = (knowntexts.DIRECTORY / f"{spdx_id}.txt").read_text()
    text = text.replace("<<any>>", name).replace("<<optional>>", "").replace("<<end>>", "")
    for number in "123":
        text = text.replace("<<mark>>", f"{number}.", 1)
    return text


@pytest.mark.parametrize(
    ("declared", "expected"),
    [
        ("MIT", "MIT"), ("MIT License", "MIT"), ("The MIT License (MIT)", "MIT"), ("Expat license", "MIT"),
        ("Apache 2.0", "Apache-2.0"), ("Apache License 2.0", "Apache-2.0"), ("Apache License, Version 2.0", "Apache-2.0"),
        ("Apache Software License 2.0", "Apache-2.0"), ("Apache Software License, Version 2.0", "Apache-2.0"),
        ("apache-2.0", "Apache-2.0"), ("ASL 2.0", "Apache-2.0"), ("https://www.apache.org/licenses/LICENSE-2.0", "Apache-2.0"),
        ("3-Clause BSD License", "BSD-3-Clause"), ("BSD 3-Clause", "BSD-3-Clause"), ("new BSD", "BSD-3-Clause"),
        ("ISC License (ISCL)", "ISC"), ("Mozilla Public License 2.0 (MPL 2.0)", "MPL-2.0"),
        ("GNU General Public License v3 or later (GPLv3+)", "GPL-3.0-or-later"),
        ("MIT OR Apache-2.0", "Apache-2.0 OR MIT"), ("Apache-2.0 OR MIT", "Apache-2.0 OR MIT"),
        ("Apache Software License 2.0 OR MIT License", "Apache-2.0 OR MIT"),
        ("LicenseRef-NVIDIA-Proprietary", "LicenseRef-NVIDIA-Proprietary"),
        ("Apache-2.0 WITH LLVM-exception", "Apache-2.0 WITH LLVM-exception"),
        ("MIT AND (Apache-2.0 OR BSD-2-Clause)", "MIT AND (Apache-2.0 OR BSD-2-Clause)"),
    ],
)  # fmt: skip
def test_words_that_mean_one_licence_become_its_expression(declared: str, expected: str) -> None:
    assert spdx.normalise(declared) == expected


@pytest.mark.parametrize(
    "declared",
    ["", "BSD", "BSD License", "Apache Software License", "Apache", "GPL", "GNU General Public License (GPL)", "PSFL", "MIT-style",
     "GNU General Public License v3 (GPLv3)", "Other/Proprietary License", "BSD OR MIT License", "MIT License with changes",
     "Some <b>words</b>", "(" * 5000, "MIT AND " * 400 + "MIT", " OR ", "MIT OR"],
)  # fmt: skip
def test_words_that_may_mean_several_licences_stay_what_they_are(declared: str) -> None:
    assert spdx.normalise(declared) == ""


def test_an_expression_names_each_licence_once() -> None:
    assert spdx.single("(MIT OR GPL-2.0-only) AND MIT AND Apache-2.0 WITH LLVM-exception") == (
        "Apache-2.0 WITH LLVM-exception", "GPL-2.0-only", "MIT",
    )  # fmt: skip


@pytest.mark.parametrize("spdx_id", sorted(p.stem for p in knowntexts.DIRECTORY.glob("*.txt")))
@pytest.mark.parametrize("width", [50, 76])
def test_a_known_text_is_recognised_in_any_layout(spdx_id: str, width: int) -> None:
    paragraphs = [p if p.startswith(" " * 20) else textwrap.fill(p, width) for p in filled(spdx_id).split("\n\n")]
    text = "\n\n".join(paragraphs)
    holders = "Copyright (c) 2019-2026 Ann Example <ann@example.test>\n   2024 Others\nAll rights reserved.\n\n"
    assert knowntexts.recognise((holders + text).encode()) == spdx_id
    assert knowntexts.recognise(text.replace("\n", "\r\n").encode()) == spdx_id


@pytest.mark.parametrize("spdx_id", sorted(p.stem for p in knowntexts.DIRECTORY.glob("*.txt")))
def test_a_text_with_one_word_more_less_or_other_is_not_recognised(spdx_id: str) -> None:
    text = filled(spdx_id)
    words = re.findall(r"\S+", text)
    middle = len(words) // 2
    for changed in (
        [*words, "except", "on", "Sundays"],
        [*words[:middle], "not", *words[middle:]],
        [*words[: middle + 8], *words[middle + 9 :]],
        ["Commercial", "use", "needs", "permission.\n", *words],
    ):
        assert knowntexts.recognise(" ".join(changed).encode()) == ""


@pytest.mark.parametrize("spdx_id", ["MIT", "ISC", "BSD-2-Clause", "BSD-3-Clause"])
def test_no_place_of_a_text_takes_a_word_that_turns_its_meaning(spdx_id: str) -> None:
    words = filled(spdx_id, "Ann Example and contributors").split()
    assert knowntexts.recognise(" ".join(words).encode()) == spdx_id
    for place in range(len(words) + 1):
        assert knowntexts.recognise(" ".join([*words[:place], "not", *words[place:]]).encode()) == ""


def test_a_line_of_a_holder_that_limits_the_licence_is_not_passed_over() -> None:
    text = filled("MIT")
    assert knowntexts.recognise(f"Copyright 2026 Ann\n\n{text}".encode()) == "MIT"
    limited = f"Copyright 2026 Ann, licensed to schools only\n\n{text}"
    assert knowntexts.recognise(limited.encode()) == ""


def test_the_licence_of_this_repository_is_recognised() -> None:
    assert knowntexts.recognise((TREE / "LICENSE").read_bytes()) == "Apache-2.0"


def test_texts_that_differ_say_neither_and_nor_or() -> None:
    mit, bsd = filled("MIT").encode(), filled("BSD-3-Clause", "Example Inc.").encode()
    assert knowntexts.only([mit, b"Copyright 2026 A\n" + mit]) == "MIT"
    assert knowntexts.only([mit, bsd]) == knowntexts.only([mit, b"something else"]) == knowntexts.only([]) == ""


def test_a_text_without_end_is_read_in_time() -> None:
    start = filled("BSD-3-Clause").split("THIS SOFTWARE")[0]
    assert knowntexts.recognise((start + "this software is provided by " + "a " * 1_000_000).encode()) == ""


def copyright_file(*names: str) -> bytes:
    stanzas = [f"Files: {n}\nCopyright: 2026 Ann\nLicense: {name}\n text\n" for n, name in enumerate(names)]
    head = "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n"
    return "\n".join([head, *stanzas]).encode()


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("GPL-2+",), "GPL-2.0-or-later"), (("GPL-3",), "GPL-3.0-only"), (("LGPL-2.1+",), "LGPL-2.1-or-later"), (("Expat",), "MIT"),
        (("LGPL-2+", "LGPL-2.0+"), "LGPL-2.0-or-later"), (("AGPL-3.0+",), "AGPL-3.0-or-later"), (("Apache-2.0",), "Apache-2.0"),
        (("Expat", "GPL-2+", "Expat"), "GPL-2.0-or-later AND MIT"), (("GPL-2 or BSD-3-clause",), "BSD-3-Clause OR GPL-2.0-only"),
        (("GPL-2 or BSD-3-clause", "ISC"), "(BSD-3-Clause OR GPL-2.0-only) AND ISC"),
        (("BSD-3-clause and GPL-2", "ISC"), "BSD-3-Clause AND GPL-2.0-only AND ISC"),
        (("public-domain",), "LicenseRef-Debian-public-domain"), (("GPL-2.7+",), "LicenseRef-Debian-GPL-2.7-or-later"),
        (("GPL-3+ with Bison exception",), "LicenseRef-Debian-GPL-3-or-later-with-Bison-exception"),
        (("GPL-1+ or Artistic, and MIT",), "LicenseRef-Debian-GPL-1-or-later-or-Artistic-and-MIT"), (("Artistic",), "LicenseRef-Debian-Artistic"),
        (("<script>",), "LicenseRef-Debian-script"), (("§§",), "LicenseRef-Debian-unnamed"),
    ],
)  # fmt: skip
def test_the_names_of_a_debian_copyright_file_become_one_expression(names: tuple[str, ...], expected: str) -> None:
    found = dep5.expression([copyright_file(*names)])
    assert found == expected
    assert canonicalize_license_expression(found)


def test_prose_and_nothing_are_not_classified() -> None:
    prose = b"This package was debianized by Ann.\n\nLicense: GPL-2\nSee /usr/share/common-licenses/GPL-2.\n"
    assert dep5.expression([prose]) == dep5.expression([]) == dep5.expression([copyright_file("ISC"), prose]) == ""
    assert dep5.expression([copyright_file("ISC"), copyright_file("GPL-2")]) == "GPL-2.0-only AND ISC"


@pytest.mark.parametrize(
    ("kind", "declared", "found", "expected"),
    [
        ("wheels", "MIT License", [], ("MIT", "declared")),
        ("wheels", "MIT", [filled("ISC")], ("MIT", "declared")),
        ("wheels", "BSD License", [filled("BSD-3-Clause")], ("BSD-3-Clause", "declared and text")),
        ("wheels", "Apache Software License", [filled("Apache-2.0")], ("Apache-2.0", "declared and text")),
        ("wheels", "BSD License", [filled("MIT")], ("", "")),
        ("wheels", "BSD License", [filled("BSD-3-Clause"), "another text"], ("", "")),
        ("wheels", "Ours alone", [filled("MIT")], ("", "")),
        ("wheels", "", [filled("ISC")], ("ISC", "text")),
        ("wheels", "", ["prose"], ("", "")),
        ("wheels", "", [], ("", "")),
        ("debs", "", [copyright_file("GPL-2+").decode()], ("GPL-2.0-or-later", "copyright file")),
        ("wheels", "", [copyright_file("GPL-2+").decode()], ("", "")),
        ("debs", "", ["prose"], ("", "")),
    ],
)  # fmt: skip
def test_what_a_licence_follows_from_is_said(
    kind: str, declared: str, found: list[str], expected: tuple[str, str]
) -> None:
    texts = [Text(f"licenses/{n}", t.encode()) for n, t in enumerate(found)]
    assert licences.classified(kind, declared, texts) == expected


def test_a_notice_beside_a_licence_text_changes_nothing() -> None:
    texts = [
        Text("licenses/LICENSE", filled("Apache-2.0").encode()),
        Text("licenses/NOTICE.txt", b"Example\nCopyright Ann"),
    ]
    assert licences.classified("wheels", "", texts) == ("Apache-2.0", "text")
