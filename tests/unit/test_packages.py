"""Packages that try to write outside of their own root, alone or together: refused with both names, and nothing outside changes."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import shutil
import stat
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.blobs import Blobs
from engine.bounds import Bounds
from engine.errors import ApplianceError, ResourceError, TrustError
from engine.process import ProcessError
from installer import sandbox, tarstream, unpack
from installer.definition import Target
from installer.lockfile import Artifact
from installer.runtime import packages, tree
from installer.runtime.recipe import Recipe
from tests.unit.test_bombs import CONTROL, deb

PYTHON = "python3.11"
Entry = tuple[str, bytes, bytes | str]  # name, type, content or target


def data(*entries: Entry) -> bytes:
    """A tar archive; types as in ``tarfile``."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, kind, inside in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mode = kind, 0o755
            if isinstance(inside, str):
                info.linkname = inside
                archive.addfile(info)
            else:
                info.size = len(inside)
                archive.addfile(info, io.BytesIO(inside))
    return out.getvalue()


def plain(name: str, content: bytes = b"x") -> Entry:
    return name, tarfile.REGTYPE, content


def link(name: str, target: object) -> Entry:
    return name, tarfile.SYMTYPE, str(target)


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """A directory that everybody may write; after the test it holds what it held."""
    place = tmp_path / "outside"
    place.mkdir()
    place.chmod(0o777)
    (place / "file").write_text("kept")
    yield place
    assert [p.name for p in place.iterdir()] == ["file"]
    assert (place / "file").read_text() == "kept"


class Site:
    """Packages in a store, as a lock has them."""

    def __init__(self, tmp_path: Path) -> None:
        self.cache = Blobs(tmp_path / "cache")
        self.cache.root.mkdir()
        self.scratch = tmp_path / "scratch"
        self.scratch.mkdir()
        self._new = tmp_path / "new.deb"
        self.made: list[Artifact] = []

    def add(self, name: str, *entries: Entry) -> None:
        self._new.write_bytes(deb(("gz", unpacked_gz(CONTROL)), ("gz", unpacked_gz(data(*entries)))))
        sha256, size = self.cache.keep(self._new)
        self.made.append(
            Artifact(path=f"debs/pool/{name}_1_amd64.deb", kind="debs", name=name, version="1", size=size, sha256=sha256,
                     source="file:x", profiles=("gpu",))
        )  # fmt: skip

    def unpack(self) -> list[Path]:
        return packages.unpack_each(self.made, [self.cache.path(a.sha256) for a in self.made], self.scratch)

    def tree(self) -> Path:
        recipe = Recipe("small", Target(os="debian-12", python="3.11"), (), tuple(self.made), ("gpu",))
        return tree.build(recipe, self.cache, self.scratch)


def extract(root: Path, entries: tuple[Entry, ...] | list[Entry]) -> None:
    """As in the sandbox, but in this process."""
    root.mkdir()
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        packages.extract(tarstream.Reader(io.BytesIO(data(*entries)), "any"), fd)
    finally:
        os.close(fd)


def unpacked_gz(raw: bytes) -> bytes:
    return gzip.compress(raw, 1)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_honest_packages_are_unpacked_each_under_its_own_root(site: Site) -> None:
    site.add("one", ("./", tarfile.DIRTYPE, ""), ("./usr/", tarfile.DIRTYPE, ""), plain("./usr/a", b"one"), link("./usr/b", "a"),
             ("./usr/c", tarfile.LNKTYPE, "./usr/a"))  # fmt: skip
    site.add("two", plain("./usr/lib/d"), link("./lib", "usr/lib"))
    one, two = site.unpack()
    assert packages.listing(one) == {"usr": "directory", "usr/a": "file", "usr/b": "link to a", "usr/c": "file"}
    assert (one / "usr/c").read_bytes() == b"one"
    assert (two / "usr/lib/d").read_bytes() == b"x"
    assert not any(site.scratch.glob("sandbox-*"))


def test_a_link_of_one_package_does_not_lead_the_next_outside(site: Site, outside: Path) -> None:
    site.add("first", link("usr/lib/python3.11", outside))
    site.add("second", plain("usr/lib/python3.11/planted"))
    with pytest.raises(TrustError, match=r"usr/lib/python3\.11 is a directory here and a link to .* in first_1_amd64\.deb") as refused:  # fmt: skip
        site.unpack()
    assert refused.value.where == "second_1_amd64.deb"


def test_a_link_of_a_package_does_not_lead_itself_outside(site: Site, outside: Path) -> None:
    site.add("alone", link("usr/lib", outside), plain("usr/lib/planted"))
    with pytest.raises(TrustError, match="lies below something that is not a directory") as refused:
        site.unpack()
    assert refused.value.where == "alone_1_amd64.deb"


def test_a_link_and_a_file_of_one_name_in_two_packages_are_refused(site: Site, outside: Path) -> None:
    site.add("first", link("usr/bin/python3.11", outside / "file"))
    site.add("second", plain("usr/bin/python3.11", b"planted"))
    with pytest.raises(TrustError, match=r"usr/bin/python3\.11 is a file here and a link to"):
        site.unpack()


def test_the_usual_usrmerge_is_not_refused(site: Site) -> None:
    site.add("base", link("lib", "usr/lib"), link("bin", "/usr/bin"), plain("usr/lib/a"))
    site.add("old", plain("lib/b"), plain("bin/c"))
    site.unpack()


def test_a_link_that_only_looks_like_usrmerge_is_refused(site: Site, outside: Path) -> None:
    site.add("base", link("lib", outside))
    site.add("old", plain("lib/b"))
    with pytest.raises(TrustError, match=r"lib is a directory here and a link to|would be written through lib"):
        site.unpack()


BAD: dict[str, tuple[Entry, ...]] = {
    "parent": (plain("../../outside/file"),),
    "parent inside": (plain("usr/../../../outside/file"),),
    "hard link to another place": (("usr/a", tarfile.LNKTYPE, "/etc/passwd"),),
    "hard link through a parent": (("usr/a", tarfile.LNKTYPE, "../../outside/file"),),
    "hard link to a link": (link("usr/a", "/etc/passwd"), ("usr/b", tarfile.LNKTYPE, "usr/a")),
    "twice": (plain("usr/a"), plain("usr/a")),
    "link, then file": (link("usr/a", "../../outside/file"), plain("usr/a")),
    "device": (("dev/sda", tarfile.BLKTYPE, ""),),
    "pipe": (("usr/pipe", tarfile.FIFOTYPE, ""),),
    "deep": (plain("/".join("a" * 80)),),
    "link to nothing": (link("usr/a", ""),),
    "long": (plain("a" * 300),),
}


@pytest.mark.parametrize("name", BAD)
def test_what_no_package_has_is_refused(tmp_path: Path, outside: Path, name: str) -> None:
    with pytest.raises(TrustError):
        extract(tmp_path / "root", BAD[name])


def test_links_between_packages_are_judged_by_their_paths_alone() -> None:
    one, two = {"usr": "directory", "usr/lib": "link to /tmp"}, {"usr/lib/a/b": "file"}
    with pytest.raises(
        TrustError, match="usr/lib/a/b would be written through usr/lib, which is a link to /tmp in one"
    ):
        packages.require_together({"one": one, "two": two})
    with pytest.raises(TrustError, match="would be written through"):
        packages.require_together({"two": two, "one": one})
    with pytest.raises(TrustError, match="a is a file here and a file in one"):
        packages.require_together({"one": {"a": "file"}, "two": {"a": "file"}})
    merged = {"lib": "link to usr/lib", "usr": "directory", "usr/lib": "directory"}
    packages.require_together({"one": merged, "two": {"lib": "directory", "lib/a": "file"}, "three": merged})


def test_a_bomb_is_refused_by_name_and_little_is_written(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "FLOOR", 1 << 20)
    monkeypatch.setattr(unpack, "RATIO", 1)
    site.add("bomb", plain("usr/zeros", bytes(32 << 20)))
    with pytest.raises(TrustError, match="cannot be unpacked within bounds") as refused:
        site.unpack()
    assert refused.value.where == "bomb_1_amd64.deb"
    assert sum(p.stat().st_size for p in site.scratch.rglob("*") if p.is_file()) < 4 << 20


PART = st.sampled_from(["a", "b", "c", "..", ".", "", "usr", "outside"])
NAME = st.lists(PART, min_size=1, max_size=4).map("/".join)
ENTRY = st.tuples(
    NAME, st.sampled_from([tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE]),
    st.one_of(NAME, st.just("/OUTSIDE"), st.just("../../outside"), st.just("/OUTSIDE/file")),
)  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(entries=st.lists(ENTRY, min_size=1, max_size=8))
def test_no_sequence_of_members_changes_anything_outside(tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, bytes, str]]) -> None:  # fmt: skip
    """Links, hard links, directories and files of all names that could lead out, into one root."""
    base = tmp_path_factory.getbasetemp() / "any"
    shutil.rmtree(base, ignore_errors=True)
    (base / "outside").mkdir(parents=True)
    (base / "outside/file").write_text("kept")
    made: list[Entry] = [
        (name, kind, b"planted" if kind == tarfile.REGTYPE else target.replace("/OUTSIDE", f"{base}/outside"))
        for name, kind, target in entries
    ]
    with contextlib.suppress(TrustError):
        extract(base / "root", made)
    assert sorted(p.name for p in base.iterdir()) == ["outside", "root"]
    assert [p.name for p in (base / "outside").iterdir()] == ["file"]
    about = (base / "outside/file").stat()
    assert (about.st_nlink, (base / "outside/file").read_text()) == (1, "kept")


# -- the package's own programs -----------------------------------------------------------------
HOSTILE = """#!/bin/sh
# Stands in for the package's interpreter: tries what it can, and leaves links where bytecode is expected.
for word in "$@"; do case "$word" in pycache_prefix=*) made=${word#pycache_prefix=};; esac; done
echo planted > OUTSIDE/planted; echo planted > OUTSIDE/file; rm -rf OUTSIDE; cat OUTSIDE/file > "$made/read"
echo planted > LIBRARY/planted; rm -f LIBRARY/module.py
mkdir -p "$made/LIBRARY"
ln -s OUTSIDE/file "$made/LIBRARY/module.cpython-311.pyc"
mkfifo "$made/LIBRARY/other.cpython-311.pyc"
echo good > "$made/LIBRARY/third.cpython-311.pyc"
exit 0
"""


def test_the_packages_interpreter_reaches_nothing_but_its_tree(site: Site, outside: Path) -> None:
    library = site.scratch / "tree/lib" / PYTHON
    script = HOSTILE.replace("OUTSIDE", str(outside)).replace("LIBRARY", str(library)).replace("$made//", "$made/")
    site.add("python", plain(f"usr/bin/{PYTHON}", script.encode()),
             *(plain(f"usr/lib/{PYTHON}/{n}.py", b"x = 1\n") for n in ("module", "other", "third")))  # fmt: skip
    made = site.tree()
    assert sorted(p.name for p in (made / "lib" / PYTHON).glob("*.py")) == ["module.py", "other.py", "third.py"]
    assert not (made / "lib" / PYTHON / "planted").exists()
    assert [p.name for p in (made / "lib" / PYTHON / "__pycache__").iterdir()] == ["third.cpython-311.pyc"]
    for path in made.rglob("*"):
        mode = path.lstat().st_mode
        assert stat.S_ISLNK(mode) or stat.S_IMODE(mode) in (0o644, 0o755)
        assert not (stat.S_ISREG(mode) and path.read_bytes() == b"kept")


def test_no_interpreter_but_a_link_is_refused(site: Site, outside: Path) -> None:
    site.add("python", link(f"usr/bin/{PYTHON}", outside / "file"), plain(f"usr/lib/{PYTHON}/a.py"))
    with pytest.raises(TrustError, match=rf"no package holds /usr/bin/{PYTHON} as a file"):
        site.tree()


def test_an_interpreter_that_does_not_end_or_writes_without_end_is_ended(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unpack, "FLOOR", 8 << 20)
    script = (
        '#!/bin/sh\nfor word in "$@"; do case "$word" in pycache_prefix=*) made=${word#pycache_prefix=};; esac; done\n'
        'for n in 1 2 3 4 5 6 7 8 9 10 11 12; do head -c 2097152 /dev/zero > "$made/$n"; done; sleep 600\n'
    )
    site.add("python", plain(f"usr/bin/{PYTHON}", script.encode()), plain(f"usr/lib/{PYTHON}/a.py"))
    with pytest.raises(ResourceError, match="wrote more than"):
        site.tree()


def test_the_sandbox_has_no_network_no_other_files_and_another_user(site: Site, outside: Path) -> None:
    """This machine gives namespaces; where one does not, docs/runtime.md says what is used."""
    assert sandbox.best() == "namespaces"
    write, place = site.scratch / "write", site.scratch / "place"
    write.mkdir()
    place.mkdir()
    secret = outside.parent / "secret"
    secret.write_text("secret")

    def sh(script: str) -> str:
        bounds = Bounds(time_s=60)
        return sandbox.call(
            ["/bin/sh", "-c", script], place=place, read=[], write=[write], bounds=bounds
        ).stdout.strip()

    assert sh("id -u") == str(65534 if os.geteuid() == 0 else os.geteuid())
    assert sh("ls -A /") == "bin\ndev\netc\nlib\nlib64\nsbin\ntmp\nusr"
    for forbidden in (
        f"cat {secret}",
        "echo x > /usr/x",
        "echo x > /x",
        f"{PYTHON} -c 'import socket; socket.create_connection((\"127.0.0.1\", 22))'",
    ):
        with pytest.raises(ProcessError):
            sh(forbidden)
    assert sh(f"echo x > {write}/x; cat {write}/x") == "x"
    with pytest.raises(ProcessError):  # what it writes it cannot execute
        sh(f"cp /bin/true {write}/true; {write}/true")


def test_a_sandbox_that_this_machine_cannot_have_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert sandbox.reaching("namespaces", [tmp_path]) == "namespaces"
    private = tmp_path / "private"
    (private / "below").mkdir(parents=True)
    private.chmod(0o700)
    assert sandbox.reaching("user", [private / "below"]) == "none"
    monkeypatch.setattr(sandbox, "fixed", lambda: {"PATH": "/nowhere"})
    monkeypatch.setattr(sandbox.enter, "__file__", "/nowhere/enter.py")
    assert sandbox.best.__wrapped__() == "none"


def test_a_package_in_a_store_is_named_by_its_name(site: Site) -> None:
    site._new.write_bytes(b"not a package")
    sha256, size = site.cache.keep(site._new)
    site.made.append(site.made[0] if site.made else Artifact(
        path="debs/pool/broken_1_amd64.deb", kind="debs", name="broken", version="1", size=size, sha256=sha256, source="file:x",
        profiles=("gpu",)))  # fmt: skip
    with pytest.raises(ApplianceError) as refused:
        site.unpack()
    assert refused.value.where == "broken_1_amd64.deb"
    assert sha256 not in str(refused.value)
