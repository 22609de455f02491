"""Wheels that unpack to far more than they are, or are not wheels: refused by name before a tool unpacks them, and no cache stays."""

from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from engine.blobs import Blobs, hash_file
from engine.errors import ApplianceError, TrustError
from installer import unpack, wheelarchive
from installer.definition import Definition, DirectWheel, Target, WheelSet
from installer.kinds import Work, directwheels, uvresolve
from installer.lockfile import Artifact
from installer.network.pipconfig import PipConfig
from installer.runtime import tree
from installer.runtime.recipe import Recipe
from tests.integration.wheelsite import serve
from tests.unit.test_bombs import ZEROS, lying, wheel

FILE = "a-1-py3-none-any.whl"
TARGET = Target(os="debian-12", python="3.11")
GOOD = {
    "a-1.dist-info/METADATA": b"Metadata-Version: 2.1\nName: a\nVersion: 1\n",
    "a-1.dist-info/WHEEL": b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "a-1.dist-info/RECORD": b"",
    "a/__init__.py": b"",
}


def overlapping(data: bytes, times: int) -> bytes:
    """A wheel whose list names its first file many times: they share their bytes."""
    at, end = data.index(b"PK\1\2"), data.rindex(b"PK\5\6")
    entries = data[at:end] * times
    count = struct.unpack_from("<H", data, end + 10)[0] * times
    return data[:at] + entries + struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(entries), at, 0)


HOSTILE: dict[str, tuple[bytes, str]] = {
    "ratio": (wheel(GOOD | {f"a/{n}.bin": ZEROS for n in range(4)}), "more than an honest wheel of its size holds"),
    "overlap": (overlapping(wheel({"a/x": ZEROS[: 1 << 20]}), 500), "overlaps the file before it"),
    "metadata": (wheel(GOOD | {"a-1.dist-info/METADATA": ZEROS[: 5 << 20]}), "METADATA has more than 4,194,304 bytes"),
    "record": (wheel(GOOD | {"a-1.dist-info/RECORD": ZEROS + ZEROS[:1]}), "RECORD has more than"),
    "metadata that lies": (lying(wheel({"a-1.dist-info/METADATA": ZEROS[: 5 << 20]})), "CRC"),
    "outside": (wheel(GOOD | {"../../etc/cron.d/x": b"x"}), "leads out of it"),
    "absolute": (wheel(GOOD | {"/etc/cron.d/x": b"x"}), "leads out of it"),
    "method": (wheel(GOOD, zipfile.ZIP_BZIP2), "packed by a method"),
    "noise": (b"noise" * 1000, "not a wheel that can be read"),
    "cut": (wheel(GOOD)[:-40], "not a wheel that can be read"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_wheel_is_refused_by_name_before_uv_sees_it(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, why = HOSTILE[name]
    (tmp_path / FILE).write_bytes(data)
    sha256, _ = hash_file(tmp_path / FILE)
    wheels = WheelSet(
        name="small", requirements=("a",), direct=(DirectWheel(url=f"file:{FILE}", sha256=sha256),), profiles=("gpu",)
    )
    target = {"os": "debian-12", "python": "3.11"}
    definition = Definition.model_validate({"schema": 1, "name": "t", "version": "1.0", "target": target})
    with pytest.raises(TrustError, match=why) as refused:
        directwheels.bring(Work(definition, tmp_path, Blobs(tmp_path / "cache")), wheels, tmp_path / "folder")
    assert refused.value.where == FILE
    assert sha256 not in str(refused.value)


def test_what_honest_wheels_hold_is_counted(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(wheel(GOOD | {"a/zeros": ZEROS}))
    assert wheelarchive.require_bounded(tmp_path / FILE) == len(ZEROS) + sum(map(len, GOOD.values()))


def resolve(tmp_path: Path, **source: tuple[str, ...]) -> list[uvresolve.Found]:
    wheels = WheelSet(name="small", requirements=("a",), profiles=("gpu",), **source)
    config = PipConfig(index="", no_index=not source.get("indexes"))
    return uvresolve.resolve(wheels, TARGET, config, room=tmp_path / "room")


@pytest.fixture
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "XDG_CACHE_HOME", "TMPDIR", "UV_CACHE_DIR"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(name, str(tmp_path / name))


BROKEN = {
    "noise": b"noise" * 1000,
    "cut": wheel(GOOD)[:-40],
    "no metadata": wheel({"a/__init__.py": b""}),
    "not metadata": wheel(GOOD | {"a-1.dist-info/METADATA": b"\xff\xfe\0"}),
}


@pytest.mark.usefixtures("_home")
@pytest.mark.parametrize("name", BROKEN)
def test_a_damaged_wheel_of_a_source_is_named_and_the_requirements_are_not_blamed(tmp_path: Path, name: str) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / FILE).write_bytes(BROKEN[name])
    with pytest.raises(TrustError) as refused:
        resolve(tmp_path, find_links=(str(tmp_path / "links"),))
    message = str(refused.value)
    assert "no solution" not in message
    assert "wheels: small" in message
    assert FILE in message


def long_metadata(path: Path, mib: int) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in GOOD.items():
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(info, "w", force_zip64=True) as file:
                file.write(data)
                for _ in range(mib if name.endswith("METADATA") else 0):
                    file.write(ZEROS[: 1 << 20])


@pytest.mark.usefixtures("_home")
@pytest.mark.parametrize("where", ["links", "index"])
def test_a_wheel_that_ends_uv_is_named_and_nothing_stays(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uvresolve, "MEMORY", 256 << 20)
    folder = tmp_path / "served/simple/a"
    folder.mkdir(parents=True)
    long_metadata(folder / FILE, 600)
    (folder / "index.html").write_text(f'<a href="{FILE}">{FILE}</a>')
    with serve(tmp_path / "served") as url, pytest.raises(TrustError) as refused:
        if where == "links":
            resolve(tmp_path, find_links=(str(folder),))
        else:
            resolve(tmp_path, indexes=(f"{url}/simple",))
    assert FILE in str(refused.value)
    assert list((tmp_path / "room").iterdir()) == []
    assert [p for n in ("HOME", "XDG_CACHE_HOME", "TMPDIR", "UV_CACHE_DIR") for p in (tmp_path / n).iterdir()] == []


def locked(tmp_path: Path, data: bytes) -> tuple[Recipe, Blobs]:
    cache = Blobs(tmp_path / "cache")
    cache.root.mkdir()
    (tmp_path / "new").write_bytes(data)
    sha256, size = cache.keep(tmp_path / "new")
    artifact = Artifact(path=f"wheels/small/{FILE}", kind="wheels", group="small", name="a", version="1", size=size, sha256=sha256,
                        source="file:x", profiles=("gpu",))  # fmt: skip
    return Recipe("small", TARGET, (artifact,), (), ("gpu",)), cache


def test_a_bomb_is_not_unpacked_into_an_image(tmp_path: Path) -> None:
    recipe, cache = locked(tmp_path, HOSTILE["ratio"][0])
    (tmp_path / "scratch").mkdir()
    with pytest.raises(TrustError, match="more than an honest wheel") as refused:
        tree.build(recipe, cache, tmp_path / "scratch")
    assert refused.value.where == FILE


def test_a_wheel_that_lies_about_its_files_fills_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "FLOOR", 4 << 20)
    inside = {k: v for k, v in GOOD.items() if k != "a/__init__.py"} | {"a/big.bin": ZEROS}
    data = lying(wheel(inside))  # the last entry of the list says ten bytes
    recipe, cache = locked(tmp_path, data)
    (tmp_path / "scratch").mkdir()
    with pytest.raises(ApplianceError):
        tree.build(recipe, cache, tmp_path / "scratch")
    assert max((p.stat().st_size for p in (tmp_path / "scratch").rglob("*") if p.is_file()), default=0) <= 5 << 20


@pytest.mark.parametrize(
    "row", ["../../../../../victim,sha256=x,1", "../../../bin/../../../../../../victim,,", "one,two", '"open']
)
def test_a_list_of_files_that_leads_out_reads_and_removes_nothing(tmp_path: Path, row: str) -> None:
    site = tmp_path / "tree/lib/python3.11/site-packages/a-1.dist-info"
    site.mkdir(parents=True)
    (tmp_path / "tree/bin").mkdir()
    (site / "RECORD").write_text(f"{row}\n")
    with pytest.raises(TrustError, match="its list of files") as refused:
        tree._relocate(tmp_path / "tree", site.parent)
    assert refused.value.where == "a-1.dist-info"
