"""Roles on a guest: Ansible over SSH, as on any machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine.process import run
from tests.demo import TREE
from tests.guest.machine import Guest

ENGINE = "/opt/appliance/current"


def converge(
    guest: Guest,
    place: Path,
    role: str,
    variables: Mapping[str, Any],
    *,
    steps: Sequence[str] = ("main",),
    verbose: bool = False,
    timeout_s: float = 900,
) -> str:
    """Run task files of a role on a guest; returns everything Ansible said.

    Args:
        place: where the playbook and the inventory are written.
        verbose: at a verbosity that prints what modules were given.

    Raises:
        AssertionError: the play failed; its last words are in the message.
    """
    tasks = [{"ansible.builtin.import_role": {"name": role, "tasks_from": step}} for step in steps]
    (place / "site.yml").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks}]))
    host = {**variables, "ansible_host": "127.0.0.1", "ansible_port": guest.port, "ansible_user": "root",
            "ansible_ssh_private_key_file": str(guest.image.key), "ansible_python_interpreter": "/usr/bin/python3"}  # fmt: skip
    (place / "hosts.json").write_text(json.dumps({"all": {"hosts": {"guest": host}}}))
    environment = {
        **os.environ,
        "ANSIBLE_ROLES_PATH": str(TREE / "roles"),
        "ANSIBLE_PIPELINING": "true",
        "ANSIBLE_SSH_ARGS": " ".join(guest.ssh_options),
        "ANSIBLE_LOCAL_TEMP": str(place / "ansible"),
        "ANSIBLE_TIMEOUT": "60",
    }
    argv: list[str | Path] = [Path(sys.executable).with_name("ansible-playbook"), *(["-vvv"] if verbose else []),
                              "-i", place / "hosts.json", place / "site.yml"]  # fmt: skip
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout + done.stderr


def changed(said: str) -> set[str]:
    """Names of the tasks that changed something."""
    found, task = set(), ""
    for line in said.splitlines():
        if line.startswith("TASK ["):
            task = line[line.index(" : ") + 3 : line.index("] ***")] if " : " in line else line
        elif line.startswith("changed: ["):
            found.add(task)
    return found


def bring_engine(guest: Guest, place: Path) -> None:
    """The engine of this tree and an interpreter that finds it, where the node role would have put them."""
    archive = place / "engine.tar"
    run(["tar", "--create", f"--file={archive}", f"--directory={TREE}", "--exclude=__pycache__", "--owner=root",
         "--group=root", "--mode=u=rwX,go=rX", "engine"])  # fmt: skip
    guest.ssh(f"mkdir -p {ENGINE}/src /etc/appliance/apt")
    guest.send(archive, f"tar --extract --directory={ENGINE}/src")
    guest.ssh(
        f"python3 -m venv --without-pip {ENGINE}/engine && "
        f"echo {ENGINE}/src > $(echo {ENGINE}/engine/lib/python3*/site-packages)/engine.pth"
    )
