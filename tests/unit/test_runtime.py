"""What a runtime image is made from, who fetches it, and what two trees differ in."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from pydantic import ValidationError

from engine.errors import InputError
from engine.trust import Target
from installer import definition, lockfile
from installer.bundle.build import _labels
from installer.definition import Definition, WheelSet
from installer.lockfile import Artifact, Kind, Lock
from installer.runtime import audit, compiler
from installer.runtime.recipe import recipes
from installer.site.settings import Site
from installer.site.variables import runtime_image
from tests.demo import TREE

IMAGE = "content/runtimes/vllm.squashfs"
INTERPRETER = ("libpython3.11-minimal", "libpython3.11-stdlib", "python3.11-minimal")


def artifact(kind: Kind, name: str, sha256: str = "0" * 64) -> Artifact:
    ends = {"wheels": "-1-py3-none-any.whl", "debs": "_1_amd64.deb"}
    below = {"wheels": "wheels/vllm", "debs": "debs/pool"}
    return Artifact(
        path=f"{below[kind]}/{name}{ends[kind]}", kind=kind, group="vllm" if kind == "wheels" else "", name=name, version="1",
        size=1, sha256=sha256, source="file:x", profiles=("gpu",),
    )  # fmt: skip


def demo() -> Definition:
    return definition.load(TREE / "bundles" / "demo.yml")


def locked(*artifacts: Artifact) -> Lock:
    return lockfile.make(demo(), list(artifacts))


@pytest.fixture
def whole() -> Lock:
    return locked(artifact("wheels", "a"), artifact("wheels", "b"), *(artifact("debs", n) for n in INTERPRETER))


def test_an_image_is_made_of_its_wheels_and_its_interpreter(whole: Lock) -> None:
    (recipe,) = recipes(demo(), whole)
    assert recipe.path == IMAGE
    assert [a.name for a in recipe.wheels] == ["a", "b"]
    assert sorted(a.name for a in recipe.packages) == sorted(INTERPRETER)


def test_a_lock_without_the_interpreter_is_refused_and_says_what_to_add() -> None:
    with pytest.raises(InputError, match=r"the lock has no libpython3\.11-stdlib") as refused:
        recipes(
            demo(), locked(artifact("wheels", "a"), *(artifact("debs", n) for n in INTERPRETER if "stdlib" not in n))
        )
    assert "Add python3.11 to debs.groups" in refused.value.remedy


def with_compiler() -> Definition:
    made = demo()
    return made.model_copy(update={"wheels": tuple(w.model_copy(update={"compiler": True}) for w in made.wheels)})


BUILDS = ("g++", "g++-12", "gcc", "gcc-12", "binutils", "libc6-dev", "linux-libc-dev", "libpython3.11-dev", "libgomp1")


def test_a_compiler_is_what_the_lock_has_of_one_and_makes_another_image(whole: Lock) -> None:
    debs = [artifact("debs", n) for n in (*INTERPRETER, *BUILDS, "nginx-light", "libssl3", "perl-base")]
    (recipe,) = recipes(with_compiler(), locked(artifact("wheels", "a"), artifact("wheels", "b"), *debs))
    assert {a.name for a in recipe.compiler} == set(BUILDS)
    (without,) = recipes(demo(), whole)
    assert without.compiler == () and recipe.key({}) != without.key({})
    newer = [a.model_copy(update={"sha256": "2" * 64}) if a.name == "gcc-12" else a for a in debs]
    (moved,) = recipes(with_compiler(), locked(artifact("wheels", "a"), artifact("wheels", "b"), *newer))
    assert moved.key({}) != recipe.key({})


def test_a_lock_without_a_compiler_is_refused_and_says_what_to_add(whole: Lock) -> None:
    with pytest.raises(InputError, match=r"compiler: the lock has no g\+\+, gcc, binutils, libc6-dev") as refused:
        recipes(with_compiler(), whole)
    assert "Add g++ and python3-dev to debs.groups" in refused.value.remedy


@pytest.mark.parametrize("runtime", ["", "node"])
def test_a_compiler_without_an_image_that_has_its_interpreter_is_refused(runtime: str) -> None:
    (wheels, *_) = demo().model_dump(mode="json")["wheels"]
    with pytest.raises(ValidationError, match="compiler: true goes with runtime: debs"):
        WheelSet.model_validate({**wheels, "runtime": runtime, "compiler": True})


def test_the_compiler_s_files_lead_nowhere_else(tmp_path: Path) -> None:
    """Links of packages mean the packages' own root; what leads out of it is left out."""
    (library, tools) = (tmp_path / "libc", tmp_path / "gcc")
    for file in ("libc/lib/x86_64-linux-gnu/libm.so.6", "libc/usr/include/stdio.h", "gcc/usr/bin/x86_64-linux-gnu-gcc-12",
                 "gcc/usr/lib/x86_64-linux-gnu/libisl.so.23", "gcc/usr/lib/x86_64-linux-gnu/libgomp.so.1", "gcc/usr/share/doc/gcc/copyright",
                 "gcc/usr/lib/gcc/x86_64-linux-gnu/12/lto1"):  # fmt: skip
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).write_text(file)
    links = {
        "libc/usr/lib/x86_64-linux-gnu/libm.so": "/lib/x86_64-linux-gnu/libm.so.6",
        "gcc/usr/bin/gcc": "x86_64-linux-gnu-gcc-12",
        "gcc/usr/lib/gcc/x86_64-linux-gnu/12/libgomp.so": "../../../x86_64-linux-gnu/libgomp.so.1",
        "gcc/usr/bin/away": "../../../../etc/passwd",
        "gcc/usr/bin/also": "/../../../etc/passwd",
    }
    for name, target in links.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).symlink_to(target)
    place = tmp_path / "tree"
    compiler.lay_out([library, tools], place)
    moved = tmp_path / "mounted elsewhere"
    place.rename(moved)
    top = moved / "compiler"
    found = {p.relative_to(top).as_posix() for p in top.rglob("*") if not p.is_dir() or p.is_symlink()}
    assert found == {
        "bin/gcc", "bin/cc", "bin/g++", "bin/c++", "lib", "specs", "run/libgomp.so.1", "tools/libisl.so.23", "usr/bin/gcc",
        "usr/bin/x86_64-linux-gnu-gcc-12", "usr/include/stdio.h", "usr/lib/gcc/x86_64-linux-gnu/12/libgomp.so", "usr/lib/x86_64-linux-gnu/libgomp.so.1",
        "usr/lib/x86_64-linux-gnu/libisl.so.23", "usr/lib/x86_64-linux-gnu/libm.so", "usr/lib/x86_64-linux-gnu/libm.so.6",
    }  # fmt: skip
    assert all(p.resolve().is_relative_to(top.resolve()) for p in top.rglob("*"))
    assert (top / "usr/lib/x86_64-linux-gnu/libm.so").read_text().endswith("libm.so.6")
    assert (top / "run/libgomp.so.1").is_file() and (top / "lib/gcc/x86_64-linux-gnu/12/libgomp.so").is_file()


def test_what_starts_the_compiler_finds_it_wherever_it_is_mounted(tmp_path: Path) -> None:
    (tmp_path / "gcc/usr/bin").mkdir(parents=True)
    (tmp_path / "gcc/usr/bin/gcc").write_text('#!/bin/sh\necho "$0" "$LD_LIBRARY_PATH" "$@"\n')
    (tmp_path / "gcc/usr/bin/gcc").chmod(0o755)
    compiler.lay_out([tmp_path / "gcc"], tmp_path / "tree")
    moved = tmp_path / "a place with spaces"
    (tmp_path / "tree").rename(moved)
    top = moved / "compiler"
    said = subprocess.run([top / "bin/cc", "-c", "a b.c"], capture_output=True, text=True, check=True).stdout.strip()
    assert said == f"{top}/usr/bin/gcc {top}/tools --sysroot={top} -B{top}/usr/bin -specs={top}/specs -c a b.c"


def test_other_inputs_or_tools_make_another_image_and_the_release_does_not(whole: Lock) -> None:
    (recipe,) = recipes(demo(), whole)
    (same,) = recipes(demo().model_copy(update={"version": "2.0.0"}), whole)
    (other,) = recipes(demo(), locked(artifact("wheels", "a", "1" * 64), *(artifact("debs", n) for n in INTERPRETER)))
    tools = {"squashfs-tools": "4.5.1"}
    assert recipe.key(tools) == same.key(tools)
    assert recipe.key(tools) != other.key(tools)
    assert recipe.key(tools) != recipe.key({"squashfs-tools": "4.6"})


def test_nodes_fetch_the_image_and_wheels_only_when_they_ask_for_them(whole: Lock) -> None:
    label = _labels(demo(), whole)
    assert label(IMAGE).profiles == ("gpu",)
    assert label("content/runtimes/vllm.json").profiles == ()
    assert label("content/wheels/vllm/a-1-py3-none-any.whl").profiles == ("gpu:wheels",)
    assert label("content/wheels/vllm/requirements.txt").profiles == ("gpu:wheels",)
    without = demo().model_copy(update={"wheels": tuple(w.model_copy(update={"runtime": ""}) for w in demo().wheels)})
    assert _labels(without, whole)("content/wheels/vllm/a-1-py3-none-any.whl").profiles == ("gpu",)


@pytest.mark.parametrize(
    ("form", "has", "taken"),
    [("auto", True, True), ("auto", False, False), ("wheels", True, False), ("image", True, True)],
)
def test_the_site_chooses_between_image_and_wheels(form: str, has: bool, taken: bool) -> None:
    site = Site.model_validate(
        {"control": {"address": "192.0.2.1"}, "management_sources": ["192.0.2.0/24"], "runtime_form": form}
    )
    targets = {IMAGE: Target(IMAGE, 1, "0" * 64)} if has else {}
    assert (runtime_image(site, targets) is not None) is taken


def test_a_site_that_wants_an_image_hears_when_there_is_none() -> None:
    site = Site.model_validate(
        {"control": {"address": "192.0.2.1"}, "management_sources": ["192.0.2.0/24"], "runtime_form": "image"}
    )
    with pytest.raises(InputError, match="no image of the runtime vllm"):
        runtime_image(site, {})


def test_every_kind_of_difference_between_two_trees_is_found(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name / "lib").mkdir(parents=True)
        for file in ("same", "bytes", "mode", "kind"):
            (tmp_path / name / "lib" / file).write_text(file)
            (tmp_path / name / "lib" / file).chmod(0o644)
        (tmp_path / name / "link").symlink_to("lib/same")
    assert audit.compare(tmp_path / "one", tmp_path / "two") == (6, ())
    two = tmp_path / "two"
    (two / "lib" / "bytes").write_text("bytez")
    (two / "lib" / "mode").chmod(0o755)
    (two / "lib" / "kind").unlink()
    (two / "lib" / "kind").symlink_to("same")
    (two / "link").unlink()
    (two / "more.pth").write_text("import os")
    _, differences = audit.compare(tmp_path / "one", two)
    assert {(d.path, d.what.split(" (")[0]) for d in differences} == {
        ("lib/bytes", "has other bytes in the image than in its wheel or package"),
        ("lib/mode", "is -rwxr-xr-x in the image, -rw-r--r-- in its wheel or package"),
        ("lib/kind", "is link to same in the image, -rw-r--r-- in its wheel or package"),
        ("link", "is missing in the image"),
        ("more.pth", "is in the image and in no wheel or package"),
    }


def test_the_demo_asks_for_an_image_with_the_interpreter() -> None:
    assert [w.runtime for w in demo().wheels] == ["debs"]
    assert subprocess.run(["mksquashfs", "-version"], capture_output=True, check=False).stdout.startswith(b"mksquashfs")
