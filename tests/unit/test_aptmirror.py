"""The builder's own mirror stands in for host names in a definition."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from engine.errors import InputError
from installer import aptmirror
from installer.definition import AptSource

DEB822 = """\
Types: deb
URIs: http://mirror.invalid/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /keys/debian.gpg

Types: deb
URIs: http://mirror.invalid/security
Suites: bookworm-security
Components: main
Signed-By: /keys/debian.gpg
"""


def etc(tmp_path: Path, text: str = DEB822, name: str = "debian.sources") -> Path:
    (tmp_path / "sources.list.d").mkdir()
    (tmp_path / "sources.list.d" / name).write_text(text)
    return tmp_path


def wanted(*suites: str, **more: str) -> AptSource:
    return AptSource(builders=True, suites=suites, components=("main", "non-free"), **more)


def test_every_suite_is_found_where_the_builder_has_its_pocket(tmp_path: Path) -> None:
    found = aptmirror.expand([wanted("trixie", "trixie-updates", "trixie-security")], etc(tmp_path), "debian")
    assert [(s.uri, s.suites, s.components, s.signed_by, s.builders) for s in found] == [
        ("http://mirror.invalid/debian", ("trixie", "trixie-updates"), ("main", "non-free"), "/keys/debian.gpg", False),
        ("http://mirror.invalid/security", ("trixie-security",), ("main", "non-free"), "/keys/debian.gpg", False),
    ]


def test_a_pocket_that_the_builder_lacks_lies_beside_the_release_except_security(tmp_path: Path) -> None:
    place = etc(tmp_path, "deb http://mirror.invalid/debian bookworm main\n", "debian.list")
    (found,) = aptmirror.expand([wanted("trixie-backports")], place, "debian")
    assert found.uri == "http://mirror.invalid/debian"
    assert found.signed_by == "/usr/share/keyrings/debian-archive-keyring.gpg"
    with pytest.raises(InputError, match=r"trixie-security"):
        aptmirror.expand([wanted("trixie-security")], place, "debian")


def test_the_definitions_keyring_wins_and_a_source_by_address_stays_as_it_is(tmp_path: Path) -> None:
    other = AptSource(uri="https://vendor.invalid/x", suites=("./",), signed_by="vendor.asc")
    found = aptmirror.expand([other, wanted("trixie", signed_by="own.gpg")], etc(tmp_path), "debian")
    assert found[0] is other
    assert found[1].signed_by == "own.gpg"


@pytest.mark.parametrize("suite", ["stable", "trixy", "jammy", "../x", "trixie/"])
def test_an_unknown_suite_is_named_with_the_ones_there_are(suite: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a suite of debian") as error:
        aptmirror.expand([wanted(suite)], etc(tmp_path), "debian")
    assert suite in str(error.value)
    assert "trixie" in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        DEB822.replace("Types: deb", "Types: deb-src"),
        DEB822.replace("Types: deb", "Enabled: no\nTypes: deb"),
        DEB822.replace("Components: main", "Components: stable"),  # a vendor's repository for bookworm
    ],
)
def test_without_a_source_of_the_family_the_remedy_names_the_other_form(text: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no source of debian") as error:
        aptmirror.expand([wanted("trixie")], etc(tmp_path, text), "debian")
    assert "signed_by" in error.value.remedy


def test_debians_mirror_is_not_taken_for_ubuntus(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no source of ubuntu to find jammy"):
        aptmirror.expand([wanted("jammy")], etc(tmp_path), "ubuntu")


def test_a_builder_that_has_ubuntu_serves_all_its_pockets(tmp_path: Path) -> None:
    place = etc(tmp_path, "deb [signed-by=/keys/u.gpg] http://mirror.invalid/ubuntu noble main\n", "u.list")
    place.joinpath("sources.list").write_text("deb http://security.invalid/ubuntu noble-security main\n")
    found = aptmirror.expand([wanted("jammy", "jammy-updates", "jammy-security")], place, "ubuntu")
    assert [(s.uri, s.suites, s.signed_by) for s in found] == [
        ("http://mirror.invalid/ubuntu", ("jammy", "jammy-updates"), "/keys/u.gpg"),
        ("http://security.invalid/ubuntu", ("jammy-security",), "/usr/share/keyrings/ubuntu-archive-keyring.gpg"),
    ]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({}, "either uri or builders"),
        ({"uri": "http://x.invalid", "builders": True, "signed_by": "k"}, "either uri or builders"),
        ({"uri": "http://x.invalid"}, "signed_by"),
    ],
)
def test_a_source_has_one_place_and_a_keyring(fields: dict[str, object], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        AptSource.model_validate({"suites": ["trixie"], **fields})
