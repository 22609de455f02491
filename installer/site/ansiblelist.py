"""What Ansible says of an inventory."""

from __future__ import annotations

import json
import sysconfig
from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.process import ProcessError, run

Listing = dict[str, Any]


def ansible_inventory() -> str:
    """The program that belongs to this Python; the one on the path otherwise."""
    binary = Path(sysconfig.get_path("scripts")) / "ansible-inventory"
    return str(binary) if binary.exists() else binary.name


def ask(path: Path) -> Listing:
    """The merged inventory as `ansible-inventory --list` prints it.

    Raises:
        InputError: there is none, or Ansible cannot read it.
    """
    if not path.exists():
        raise InputError(
            "there is no such inventory",
            where=str(path),
            remedy="Give the directory, for example -i inventories/example.",
        )
    try:
        done = run(
            [ansible_inventory(), "-i", path, "--list"],
            env={"ANSIBLE_INVENTORY_UNPARSED_FAILED": "true"},
        )
    except ProcessError as error:
        raise InputError(
            f"Ansible cannot read the inventory: {error.stderr.strip()[-600:]}",
            where=str(path),
            remedy="Mend the file it names.",
        ) from error
    data: Listing = json.loads(done.stdout)
    return data
