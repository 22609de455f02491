"""One Molecule scenario a role, on a real systemd node, against the bundle that this run built."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.demo import TREE

# These stand beside a scenario of their own, or the installation end to end, that takes the same steps.
SLOW = {("container_runtime", "trixie"), ("nvidia_driver", "trixie"), ("vllm", "default")}
SCENARIOS = sorted(p.parent for p in TREE.glob("roles/*/molecule/*/molecule.yml"))
ROLES = sorted(p.name for p in (TREE / "roles").iterdir() if (p / "tasks").is_dir())


def test_every_role_has_a_scenario() -> None:
    assert sorted({s.parent.parent.name for s in SCENARIOS}) == ROLES


@pytest.mark.nodes
@pytest.mark.parametrize(
    "scenario",
    [
        pytest.param(s, id=f"{role}-{s.name}", marks=[pytest.mark.slow] * ((role, s.name) in SLOW))
        for s in SCENARIOS
        for role in [s.parent.parent.name]
    ],
)
def test_the_role_converges_changes_nothing_the_second_time_and_behaves(
    scenario: Path, bundle: Path, tmp_path: Path
) -> None:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "APPLIANCE_TEST_BUNDLE": str(bundle),
        "PYTHONPATH": str(TREE),
        "ANSIBLE_LOCAL_TEMP": str(tmp_path),
        # Every run by itself: nothing of an earlier one may help.
        "MOLECULE_EPHEMERAL_DIRECTORY": str(tmp_path / "molecule"),
    }
    role = scenario.parent.parent
    done = subprocess.run(
        [sys.executable, "-m", "molecule", "test", "--scenario-name", scenario.name],
        cwd=role, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:]
