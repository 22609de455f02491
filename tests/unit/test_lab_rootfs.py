"""The root file system is made from the builder's own Debian sources and from nothing else it has."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine.errors import InputError
from engine.report import Silent
from installer.lab import rootfs

DEB822 = """\
# the mirror
Types: deb deb-src
URIs: http://mirror.invalid/debian
Suites: bookworm bookworm-updates
# in between
Components: main contrib
Signed-By:
 /usr/share/keyrings/a.gpg

Types: deb
URIs: http://mirror.invalid/security
Suites: bookworm-security
Components: main
"""


def apt(tmp_path: Path, **files: str) -> Path:
    (tmp_path / "sources.list.d").mkdir()
    for name, text in files.items():
        (tmp_path / "sources.list.d" / name.replace("__", ".")).write_text(text)
    return tmp_path


def test_a_deb822_source_is_turned_to_the_release(tmp_path: Path) -> None:
    text = rootfs.sources(apt(tmp_path, debian__sources=DEB822), "bookworm", "trixie")
    assert "Suites: trixie trixie-updates\n" in text
    assert "Suites: trixie-security\n" in text
    assert "bookworm" not in text
    assert "deb-src" not in text
    assert "/usr/share/keyrings/a.gpg" in text


def test_a_one_line_source_is_taken_with_its_keyring(tmp_path: Path) -> None:
    line = "deb [arch=amd64 signed-by=/k.gpg] http://mirror.invalid/debian bookworm main contrib # ours\n"
    text = rootfs.sources(apt(tmp_path, debian__list=line), "bookworm", "bookworm")
    assert text.split("\n") == [
        "Types: deb",
        "Uris: http://mirror.invalid/debian",
        "Suites: bookworm",
        "Components: main contrib",
        "Signed-By: /k.gpg",
        "",
    ]


@pytest.mark.parametrize(
    "foreign",
    [
        "deb http://vendor.invalid/x bookworm stable\n",  # a vendor's suite of the same name has other components
        "deb http://vendor.invalid/x vendor-bookworm main\n",
        "deb http://vendor.invalid/x bookworm-backports main\n",
        "deb-src http://mirror.invalid/debian bookworm main\n",
        "# deb http://mirror.invalid/debian bookworm main\n",
    ],
)
def test_other_sources_of_the_builder_are_left_out(tmp_path: Path, foreign: str) -> None:
    place = apt(tmp_path, foreign__list=foreign)
    with pytest.raises(InputError, match="no source of Debian bookworm main"):
        rootfs.sources(place, "bookworm", "bookworm")


def test_a_disabled_source_or_file_is_left_out(tmp_path: Path) -> None:
    place = apt(tmp_path, a__sources="Enabled: no\n" + DEB822.split("\n\n")[1], b__disabled=DEB822)
    with pytest.raises(InputError):
        rootfs.sources(place, "bookworm", "bookworm")


def test_the_cache_key_changes_with_release_recipe_and_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {rootfs.key("bookworm"), rootfs.key("trixie")}
    monkeypatch.setattr(rootfs, "RECIPE", rootfs.RECIPE + 1)
    keys.add(rootfs.key("bookworm"))
    monkeypatch.setattr(rootfs, "PACKAGES", (*rootfs.PACKAGES, "nano"))
    keys.add(rootfs.key("bookworm"))
    assert len(keys) == 4


def test_a_root_is_made_once_and_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPLIANCE_LAB_CACHE", str(tmp_path / "cache"))
    made: list[Path] = []

    def fail(_release: str, root: Path) -> None:
        root.mkdir()
        raise OSError("the mirror went away")

    def build(_release: str, root: Path) -> None:
        root.mkdir()
        (root / "file").write_text("x")
        made.append(root)

    monkeypatch.setattr(rootfs, "_build", fail)
    with pytest.raises(OSError, match="went away"):
        rootfs.ensure("bookworm", Silent())
    assert os.listdir(tmp_path / "cache") == []  # noqa: PTH208

    (tmp_path / "cache" / f".{rootfs.key('bookworm')}.dead.tmp").mkdir()  # a killed builder's
    monkeypatch.setattr(rootfs, "_build", build)
    first = rootfs.ensure("bookworm", Silent())
    second = rootfs.ensure("bookworm", Silent())
    assert first == second and len(made) == 1 and made[0] != first
    assert (first / "file").read_text() == "x"
    assert [p.name for p in (tmp_path / "cache").iterdir()] == [rootfs.key("bookworm")]
    assert first.parent.stat().st_mode & 0o077 == 0


def test_two_callers_at_once_make_one_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPLIANCE_LAB_CACHE", str(tmp_path / "cache"))
    both = threading.Barrier(2, timeout=30)
    made: list[Path] = []

    def build(_release: str, root: Path) -> None:
        made.append(root)
        root.mkdir()

    monkeypatch.setattr(rootfs, "_build", build)

    def call(_: int) -> Path:
        both.wait()
        return rootfs.ensure("bookworm", Silent())

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(call, range(2))
    assert first == second
    assert len(made) == 1


def test_a_cache_path_that_mount_would_misread_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPLIANCE_LAB_CACHE", "/srv/a,b")
    with pytest.raises(InputError):
        rootfs.ensure("bookworm", Silent())
