"""The playbooks that change nodes, as files: what their behaviour on nodes would show late, and only in one order of events."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from installer.site.playbooks import end_left

TREE = Path(__file__).parents[2]


@pytest.mark.parametrize("playbook", ["prepare", "converge"])
def test_a_part_of_a_role_hands_no_condition_on_to_the_handlers_of_the_whole(playbook: str) -> None:
    """An import's ``when`` holds for the role's handlers as well, and of handlers with one name the last imported wins."""
    tasks = [t for play in yaml.safe_load((TREE / f"playbooks/{playbook}.yml").read_text()) for t in play["tasks"]]
    imported = [t["ansible.builtin.import_role"] for t in tasks if "ansible.builtin.import_role" in t]
    assert imported
    assert [role for role in imported if "tasks_from" in role] == []
    assert len({role["name"] for role in imported}) == len(imported), "a role imported twice has its handlers twice"


def test_what_an_interrupted_ansible_left_in_sessions_of_their_own_is_ended(tmp_path: Path) -> None:
    def sleeper(connections: Path) -> subprocess.Popen[bytes]:
        environment = {**os.environ, "ANSIBLE_SSH_CONTROL_PATH_DIR": str(connections)}
        return subprocess.Popen(["sleep", "60"], env=environment, start_new_session=True)

    with sleeper(tmp_path / "ours") as ours, sleeper(tmp_path / "ours-not") as other:
        try:
            end_left(str(tmp_path / "ours"))
            assert ours.wait(10) == -signal.SIGKILL
            assert other.poll() is None
        finally:
            ours.kill()
            other.kill()
