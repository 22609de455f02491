"""Wheels that install the same files: refused with the waiver to write, and with it the same files stay in every form of a runtime."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import jinja2
import pytest
import yaml

from engine.blobs import Blobs
from engine.errors import InputError
from engine.report import Silent
from installer import lockfile, product
from installer.bundle.build import manifest
from installer.definition import Definition
from installer.kinds import Work, uvresolve, wheels
from installer.lockfile import Artifact
from installer.runtime import audit, image, recipe, tree
from tests.integration.wheelsite import wheel

NAMES = ("Zeta", "alpha", "gamma", "beta-more", "delta", "epsilon")
REASON = "tests that nobody runs on a node"


class Told(Silent):
    """Remembers what was said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """Every wheel has a stray tests/ and a README beside packages, and each two neighbours in the alphabet share a file."""
    ordered = sorted(NAMES, key=str.lower)
    for name in NAMES:
        at = ordered.index(name)
        files = {f"shared/{n}.py": f"# {name}\n" * (at + 1) for n in (at, at + 1)}
        own = {
            f"{name.lower().replace('-', '_')}/__init__.py": "",
            "tests/__init__.py": "",
            "tests/conftest.py": f"# {name}\n",
        }
        wheel(
            tmp_path / "index", name, "1.0", files={**files, **own, "README.md": f"{name}\n", "tests/same.py": "pass\n"}
        )
    return tmp_path / "index"


def work(tmp_path: Path, index: Path, *waivers: dict[str, Any], names: tuple[str, ...] = NAMES) -> Work:
    listed = {
        "name": "app", "requirements": list(names), "find_links": [str(index)], "indexes": [], "profiles": ["gpu"],
        "runtime": "node", "waivers": list(waivers),
    }  # fmt: skip
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    data = {
        "schema": 1,
        "name": "t",
        "version": "1.0",
        "target": {"os": "debian-12", "python": python},
        "wheels": [listed],
    }
    return Work(Definition.model_validate(data), tmp_path, Blobs(tmp_path / "cache"), Told())


def waiver(*paths: str) -> dict[str, Any]:
    return {"rule": "overwrite", "paths": list(paths), "reason": REASON}


def locked(given: Work) -> list[Artifact]:
    artifacts = wheels.resolve(given)
    wheels.fetch(given, artifacts)
    wheels.check(given, artifacts)
    return artifacts


def by_the_role(directory: Path, place: Path) -> Path:
    """What the role does on a node with the wheels, command by command; the environment's packages."""
    values = {
        "appliance_vllm_uv": uvresolve.uv_binary(), "appliance_vllm_python": sys.executable,
        "appliance_vllm_runtime": str(place), "appliance_vllm_wheels": str(directory),
        "appliance_vllm_requirements": str(directory / "requirements.txt"),
    }  # fmt: skip
    tasks = yaml.safe_load((product.data("roles") / "vllm/tasks/wheels.yml").read_text())[0]["block"]
    commands = [t for t in tasks if "ansible.builtin.command" in t]
    found = next(t for t in tasks if "ansible.builtin.find" in t)["ansible.builtin.find"]
    assert found["paths"] == "{{ appliance_vllm_requirements | dirname }}/last"
    last = sorted((directory / "last").glob(found["patterns"]))
    for task in commands:
        for item in last if "loop" in task else [None]:
            argv = [jinja2.Template(a).render(**values, item=item) for a in task["ansible.builtin.command"]["argv"]]
            environment = {k: jinja2.Template(v).render(**values) for k, v in task.get("environment", {}).items()}
            subprocess.run(argv, check=True, capture_output=True, env={"PATH": "/usr/bin:/bin", **environment})
    return next((place / "lib").glob("python*/site-packages"))


def of(site: Path) -> dict[str, str]:
    """The files that are of no package alone."""
    here = [*site.glob("shared/*.py"), *site.glob("tests/*.py"), site / "README.md"]
    return {str(p.relative_to(site)): p.read_text() for p in here}


def test_the_refusal_names_both_wheels_their_files_and_the_waiver_to_write(tmp_path: Path, index: Path) -> None:
    given = work(tmp_path, index, names=("alpha", "beta-more"))
    with pytest.raises(InputError) as error:
        locked(given)
    assert "alpha 1.0 and beta-more 1.0 both install " in error.value.what
    assert "tests/conftest.py" in error.value.what
    assert "waivers: [{rule: overwrite, paths: [shared/1.py, tests/conftest.py], reason: WHY}]" in error.value.remedy
    only = work(tmp_path, index, waiver("tests/*"), names=("alpha", "beta-more"))
    with pytest.raises(InputError, match=r"both install shared/1\.py, and differ"):
        wheels.resolve(only)  # the lock says so already
    locked(work(tmp_path, index, waiver("shared/1.py", "tests/conftest.py"), names=("alpha", "beta-more")))


def test_a_waiver_needs_a_reason_and_one_too_many_is_told(tmp_path: Path, index: Path) -> None:
    with pytest.raises(ValueError, match="at least 10 characters"):
        work(tmp_path, index, {"rule": "overwrite", "paths": ["tests/*"], "reason": "because"})
    given = work(tmp_path, index, waiver("tests/*"), waiver("nothing/*"), names=("alpha",))
    assert [a.notes for a in locked(given)] == [()]
    assert isinstance(given.report, Told)
    assert [line for line in given.report.lines if "waiver" in line] == [
        "wheels: app: no waiver is needed for tests/*; remove it from the definition",
        "wheels: app: no waiver is needed for nothing/*; remove it from the definition",
    ]


def test_the_last_name_wins_in_the_image_and_on_nodes_and_lock_and_manifest_say_so(tmp_path: Path, index: Path) -> None:
    given = work(tmp_path, index, waiver("tests/*", "shared/*"))
    artifacts = locked(given)
    notes = {a.name.lower(): a.notes for a in artifacts}
    assert notes["alpha"] == ()
    assert notes["zeta"] == (
        f"waiver overwrite: its shared/5.py replaces that of gamma 1.0 ({REASON})",
        f"waiver overwrite: its tests/conftest.py replaces that of alpha 1.0 ({REASON})",
    )
    lock = lockfile.make(given.definition, artifacts)
    assert manifest(given.definition, lock).count(REASON) == 1 + sum(len(a.notes) for a in artifacts)
    wheels.lay_out(given, lock.of_kind("wheels"), tmp_path / "content")
    on_node = of(by_the_role(tmp_path / "content/wheels/app", tmp_path / "node"))
    ordered = sorted(NAMES, key=str.lower)
    expected = {
        **{f"shared/{n}.py": f"# {ordered[min(n, 5)]}\n" * (min(n, 5) + 1) for n in range(7)},
        "tests/__init__.py": "", "tests/same.py": "pass\n", "tests/conftest.py": "# Zeta\n", "README.md": "Zeta\n",
    }  # fmt: skip
    assert on_node == expected
    (tmp_path / "scratch").mkdir()
    made = recipe.recipes(given.definition, lock)[0]
    assert of(next(tree.build(made, given.cache, tmp_path / "scratch").glob("lib/python*/site-packages"))) == expected
    packed = image.make(made, given.cache)
    (tmp_path / "audit").mkdir()
    assert audit.audit(made, given.cache.path(packed.sha256), given.cache, tmp_path / "audit").good


def test_wheels_that_share_nothing_are_installed_once(tmp_path: Path, index: Path) -> None:
    given = work(tmp_path, index, names=("alpha",))
    wheels.lay_out(given, locked(given), tmp_path / "content")
    assert not (tmp_path / "content/wheels/app/last").exists()
