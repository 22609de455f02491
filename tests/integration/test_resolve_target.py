"""Resolving is for the target: its glibc, its Python in every marker, its processor; nothing of the builder's counts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import pytest

from engine.errors import InputError
from installer.definition import Target, WheelSet
from installer.kinds import uvresolve
from installer.kinds.wheelfiles import unfit_python
from installer.network.pipconfig import PipConfig
from tests.integration.wheelsite import wheel

System = Literal["debian-12", "debian-13", "ubuntu-22.04", "ubuntu-24.04"]


def names(
    tmp_path: Path,
    requirement: str,
    *,
    os: System = "ubuntu-24.04",
    arch: Literal["x86_64", "aarch64"] = "x86_64",
    python: str = "3.12",
) -> set[str]:
    (tmp_path / "empty").mkdir(exist_ok=True)
    wheel_set = WheelSet(
        name="app", requirements=(requirement,), indexes=((tmp_path / "empty").as_uri(),), find_links=(str(tmp_path / "index"),),
        profiles=("gpu",),
    )  # fmt: skip
    return {f.filename for f in uvresolve.resolve(wheel_set, Target(os=os, arch=arch, python=python), PipConfig())}


@pytest.mark.parametrize(
    ("os", "glibc"),
    [("ubuntu-22.04", "2_28"), ("debian-12", "2_36"), ("ubuntu-24.04", "2_36"), ("debian-13", "2_40")],
)
def test_each_system_gets_the_newest_wheel_that_its_glibc_loads(tmp_path: Path, os: System, glibc: str) -> None:
    for minor in ("2_28", "2_36", "2_40"):
        wheel(tmp_path / "index", "thing", "1.0", tag=f"cp312-cp312-manylinux_{minor}_x86_64")
    assert names(tmp_path, "thing", os=os) == {f"thing-1.0-cp312-cp312-manylinux_{glibc}_x86_64.whl"}


def test_a_version_whose_wheels_need_a_newer_glibc_is_passed_over(tmp_path: Path) -> None:
    wheel(tmp_path / "index", "thing", "1.0", tag="cp312-cp312-manylinux_2_28_x86_64")
    wheel(tmp_path / "index", "thing", "2.0", tag="cp312-cp312-manylinux_2_40_x86_64")
    assert names(tmp_path, "thing") == {"thing-1.0-cp312-cp312-manylinux_2_28_x86_64.whl"}
    with pytest.raises(InputError) as error:
        names(tmp_path, "thing==2.0")
    assert "thing" in str(error.value)


def test_markers_are_the_targets(tmp_path: Path) -> None:
    assert sys.version_info[:2] != (3, 13)
    markers = {
        "new": "python_version >= '3.13'", "old": "python_version < '3.13'",
        "arm": "platform_machine == 'aarch64'", "windows": "sys_platform == 'win32'",
    }  # fmt: skip
    for name in markers:
        wheel(tmp_path / "index", name, "1.0")
    wheel(tmp_path / "index", "thing", "1.0", requires=tuple(f"{n}; {m}" for n, m in markers.items()))
    got = names(tmp_path, "thing", os="debian-13", python="3.13")
    assert got == {"thing-1.0-py3-none-any.whl", "new-1.0-py3-none-any.whl"}
    got = names(tmp_path, "thing", arch="aarch64")
    assert got == {"thing-1.0-py3-none-any.whl", "old-1.0-py3-none-any.whl", "arm-1.0-py3-none-any.whl"}


def test_a_version_for_a_later_python_is_passed_over(tmp_path: Path) -> None:
    wheel(tmp_path / "index", "thing", "1.0", python=">=3.10")
    wheel(tmp_path / "index", "thing", "2.0", python=">=3.13")
    assert names(tmp_path, "thing") == {"thing-1.0-py3-none-any.whl"}
    assert names(tmp_path, "thing", python="3.13") == {"thing-2.0-py3-none-any.whl"}


@pytest.mark.parametrize(
    ("asked", "python", "expected"),
    [
        (">=3.10", "3.12", ""), ("", "3.12", ""), ("<3.15,>=3.10", "3.12", ""), ("!=3.12.1", "3.12", ""), ("nonsense", "3.12", ""),
        (">=3.13", "3.12", ">=3.13"), ("<3.12", "3.12", "<3.12"), (">=3.12.4", "3.12", ">=3.12.4"),
    ],
)  # fmt: skip
def test_a_wheels_own_requires_python_is_compared(asked: str, python: str, expected: str) -> None:
    metadata = f"Metadata-Version: 2.4\nName: thing\nVersion: 1.0\n{f'Requires-Python: {asked}' if asked else ''}\n"
    assert unfit_python(metadata.encode(), python) == expected
