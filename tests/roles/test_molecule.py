"""One verification a role by Molecule, on a real systemd node, against the bundle that this run built."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.demo import TREE

# These stand beside another scenario, or the installation end to end, that takes the same steps.
SLOW = {
    ("container_runtime", "trixie"),
    ("nvidia_driver", "real"),
    ("nvidia_driver", "trixie"),
    ("os_baseline", "judged"),
    ("tests", "dry"),
    ("tests", "gpu_shut"),
    ("vllm", "default"),
}
# A role's own, and labs that several roles share: tests/molecule/LAB imports the verification of each.
SCENARIOS = sorted(p.parent for g in ("roles/*/molecule/*", "tests/molecule/*") for p in TREE.glob(f"{g}/molecule.yml"))
ROLES = sorted(p.name for p in (TREE / "roles").iterdir() if (p / "tasks").is_dir())


def test_every_role_is_verified_by_a_scenario_that_is_not_slow() -> None:
    usual = [s for s in SCENARIOS if (s.parent.parent.name, s.name) not in SLOW]
    own = {s.parent.parent.name for s in usual if s.is_relative_to(TREE / "roles")}
    labs = "".join((s / "verify.yml").read_text() for s in usual if s.is_relative_to(TREE / "tests"))
    shared = {r for r in ROLES if f"import_playbook: ../../../roles/{r}/molecule/default/verify.yml" in labs}
    # vLLM: the installation end to end has the role twice. The gateway: tests/e2e/test_tenants.py, with --slow.
    assert sorted(own | shared | {"vllm", "gateway"}) == ROLES


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
