"""A package of the right name from the wrong place, or in a form that runs code, does not get into a lock."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.errors import InputError
from installer.definition import Target, WheelSet
from installer.kinds import uvresolve
from installer.network.pipconfig import PipConfig
from tests.integration.wheelsite import serve, wheel

TARGET = Target(os="debian-12", python="3.11")
NO_CONFIG = PipConfig(index="", find_links=())


class Index:
    """A package index (PEP 503) below a folder that is served."""

    def __init__(self, folder: Path, url: str) -> None:
        self._folder, self.url = folder, f"{url}/{folder.name}/"

    def offer(self, file: Path, *, yanked: bool = False) -> None:
        """List a file under its project's name."""
        page = self._folder / file.name.split("-")[0] / "index.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        (page.parent / file.name).write_bytes(file.read_bytes())
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        mark = ' data-yanked="broken"' if yanked else ""
        old = page.read_text() if page.exists() else "<!DOCTYPE html>\n"
        page.write_text(f'{old}<a href="{file.name}#sha256={digest}"{mark}>{file.name}</a>\n')


@pytest.fixture
def indexes(tmp_path: Path) -> Iterator[tuple[Index, Index]]:
    """One of the house, and one that anybody can publish to."""
    for name in ("house", "public"):
        (tmp_path / "site" / name).mkdir(parents=True)
    with serve(tmp_path / "site") as url:
        yield Index(tmp_path / "site/house", url), Index(tmp_path / "site/public", url)


def resolved(*requirements: str, indexes: tuple[Index, ...]) -> dict[str, tuple[str, str]]:
    """Version and SHA-256 by name."""
    wheels = WheelSet(name="app", requirements=requirements, indexes=tuple(i.url for i in indexes), profiles=("gpu",))
    return {f.name: (f.version, f.sha256) for f in uvresolve.resolve(wheels, TARGET, NO_CONFIG)}


def sdist(folder: Path, name: str, version: str, ran: Path) -> Path:
    """A source distribution whose build would leave a trace."""
    path = folder / f"{name}-{version}.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for member, text in (
            ("setup.py", f"open({str(ran)!r}, 'w').close()\nfrom setuptools import setup\nsetup()\n"),
            ("PKG-INFO", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"),
        ):
            entry = tarfile.TarInfo(f"{name}-{version}/{member}")
            entry.size = len(text)
            archive.addfile(entry, io.BytesIO(text.encode()))
    return path


@pytest.mark.parametrize("house_first", [True, False])
def test_the_index_that_stands_first_is_asked_first_whatever_the_other_offers(
    indexes: tuple[Index, Index], tmp_path: Path, house_first: bool
) -> None:
    house, public = indexes
    house.offer(wheel(tmp_path / "h", "secret", "1.0"))
    public.offer(wheel(tmp_path / "p", "secret", "99.0"))
    order = (house, public) if house_first else (public, house)
    assert resolved("secret", indexes=order)["secret"][0] == ("1.0" if house_first else "99.0")


def test_what_the_first_index_lacks_comes_from_the_next(indexes: tuple[Index, Index], tmp_path: Path) -> None:
    house, public = indexes
    house.offer(wheel(tmp_path / "h", "secret", "1.0", requires=("common",)))
    public.offer(wheel(tmp_path / "p", "common", "2.0"))
    assert {n: v for n, (v, _) in resolved("secret", indexes=indexes).items()} == {"secret": "1.0", "common": "2.0"}


def test_the_same_version_with_other_bytes_elsewhere_is_not_taken(indexes: tuple[Index, Index], tmp_path: Path) -> None:
    house, public = indexes
    ours = wheel(tmp_path / "h", "secret", "1.0")
    house.offer(ours)
    public.offer(wheel(tmp_path / "p", "secret", "1.0", files={"secret/__init__.py": "evil"}))
    assert resolved("secret==1.0", indexes=indexes)["secret"] == ("1.0", hashlib.sha256(ours.read_bytes()).hexdigest())


def test_a_source_distribution_is_never_built(indexes: tuple[Index, Index], tmp_path: Path) -> None:
    house, _ = indexes
    ran = tmp_path / "ran"
    house.offer(wheel(tmp_path / "h", "tool", "1.0"))
    house.offer(sdist(tmp_path, "tool", "2.0", ran))
    assert resolved("tool", indexes=(house,))["tool"][0] == "1.0"
    house.offer(sdist(tmp_path, "only", "1.0", ran))
    with pytest.raises(InputError, match="no solution"):
        resolved("only", indexes=(house,))
    assert not ran.exists()


def test_a_yanked_release_is_not_taken_unless_it_is_named(indexes: tuple[Index, Index], tmp_path: Path) -> None:
    house, _ = indexes
    house.offer(wheel(tmp_path / "h", "tool", "1.0"))
    house.offer(wheel(tmp_path / "h", "tool", "2.0"), yanked=True)
    assert resolved("tool", indexes=(house,))["tool"][0] == "1.0"
    assert resolved("tool==2.0", indexes=(house,))["tool"][0] == "2.0"
