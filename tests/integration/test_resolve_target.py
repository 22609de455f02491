"""Resolving is for the target: its glibc, its Python in every marker, its processor; nothing of the builder's counts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import pytest

from engine.blobs import Blobs
from engine.errors import InputError
from installer.bundle import lock as locking
from installer.definition import Definition, Target, WheelSet
from installer.kinds import Work, uvresolve, wheels
from installer.kinds.wheelfiles import unfit_python
from installer.lockfile import Artifact, Kind
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
    ("os", "python", "release", "after"),
    [
        ("debian-12", "3.11", "3.11.2", "3.11.3"),
        ("debian-13", "3.13", "3.13.5", "3.13.6"),
        ("ubuntu-24.04", "3.12", "3.12.3", "3.12.4"),
        ("debian-12", "3.12", "3.12.0", "3.12.1"),  # not the distribution's: the first release is all that is known
        ("ubuntu-22.04", "3.11", "3.11.0", "3.11.1"),
    ],
)
def test_markers_and_requires_python_are_for_the_distributions_patch_release(
    tmp_path: Path, os: System, python: str, release: str, after: str
) -> None:
    for name in ("now", "later"):
        wheel(tmp_path / "index", name, "1.0")
    markers = (f'now; python_full_version >= "{release}"', f'later; python_full_version >= "{after}"')
    wheel(tmp_path / "index", "thing", "1.0", requires=markers, python=f">={release}")
    wheel(tmp_path / "index", "thing", "2.0", python=f">={after}")
    assert names(tmp_path, "thing", os=os, python=python) == {"thing-1.0-py3-none-any.whl", "now-1.0-py3-none-any.whl"}


def interpreter(version: str, python: str = "3.12", kind: Kind = "debs") -> Artifact:
    return Artifact(
        path=f"{kind}/pool/python{python}-minimal_{version}_amd64.deb", kind=kind, name=f"python{python}-minimal", version=version,
        size=1, sha256="0" * 64, source="https://example.org/python.deb", profiles=("gpu",),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("os", "locked", "image", "release"),
    [
        ("debian-12", ["3.12.9-1"], True, "3.12.9"),
        ("debian-12", ["1:3.12.9-1", "3.12.10-1"], False, "3.12.9"),
        ("ubuntu-24.04", ["3.12.9-1+vendor"], True, "3.12.9"),  # the image brings it
        ("ubuntu-24.04", ["3.12.9-1+vendor"], False, "3.12.3"),  # nodes may run what they had
        ("ubuntu-24.04", ["13.12.9-1"], True, "3.12.3"),
        ("debian-12", ["3.12.0~rc1-1"], True, "3.12.0"),
        ("debian-12", [], True, "3.12.0"),
    ],
)
def test_the_interpreter_that_is_locked_counts_where_it_runs_the_wheels(
    os: System, locked: list[str], image: bool, release: str
) -> None:
    packages = [interpreter(v) for v in locked] + [interpreter("3.12.1", kind="files"), interpreter("3.11.9", "3.11")]
    assert uvresolve.python_release(Target(os=os, python="3.12"), packages, image=image) == release


@pytest.mark.parametrize(("runtime", "more"), [("debs", {"backport"}), ("node", set())])
def test_a_runtime_image_is_resolved_for_the_interpreter_that_goes_into_it(
    tmp_path: Path, runtime: str, more: set[str]
) -> None:
    (tmp_path / "empty").mkdir()
    wheel(tmp_path / "index", "backport", "1.0")
    wheel(tmp_path / "index", "thing", "1.0", requires=('backport; python_full_version >= "3.12.9"',))
    definition = Definition.model_validate(
        {
            "schema": 1, "name": "t", "version": "1.0", "target": {"os": "ubuntu-24.04", "python": "3.12"},
            "wheels": [{
                "name": "app", "requirements": ["thing"], "runtime": runtime, "profiles": ["gpu"],
                "indexes": [(tmp_path / "empty").as_uri()], "find_links": [str(tmp_path / "index")],
            }],
        }
    )  # fmt: skip
    work = Work(definition, tmp_path, Blobs(tmp_path / "cache"), packages=(interpreter("3.12.9-1"),))
    assert {a.name for a in wheels.resolve(work)} == {"thing", *more}


def test_packages_are_locked_before_the_wheels_that_ask_for_the_interpreter_among_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, tuple[Artifact, ...]] = {}

    class Kept:
        """A kind that locks what it is given, and keeps what was locked before it."""

        def __init__(self, name: str, artifacts: list[Artifact]) -> None:
            self.name, self.artifacts = name, artifacts

        def resolve(self, work: Work) -> list[Artifact]:
            seen[self.name] = work.packages
            return self.artifacts

    found = interpreter("3.12.9-1")
    kinds = {"wheels": Kept("wheels", []), "debs": Kept("debs", [found]), "installer": Kept("installer", [])}
    monkeypatch.setattr(locking, "KINDS", kinds)
    definition = Definition.model_validate(
        {"schema": 1, "name": "t", "version": "1.0", "target": {"os": "debian-12", "python": "3.11"}}
    )
    locking.resolve(Work(definition, tmp_path, Blobs(tmp_path / "cache")))
    assert seen == {"debs": (), "wheels": (found,), "installer": (found,)}


@pytest.mark.parametrize(
    ("asked", "python", "expected"),
    [
        (">=3.10", "3.12.3", ""), ("", "3.12.3", ""), ("<3.15,>=3.10", "3.12.3", ""), ("!=3.12.1", "3.12.3", ""), ("nonsense", "3.12.3", ""),
        (">=3.13", "3.12.3", ">=3.13"), ("<3.12", "3.12.3", "<3.12"), (">=3.12.4", "3.12.3", ">=3.12.4"), (">=3.12.3", "3.12.3", ""),
    ],
)  # fmt: skip
def test_a_wheels_own_requires_python_is_compared(asked: str, python: str, expected: str) -> None:
    metadata = f"Metadata-Version: 2.4\nName: thing\nVersion: 1.0\n{f'Requires-Python: {asked}' if asked else ''}\n"
    assert unfit_python(metadata.encode(), python) == expected
