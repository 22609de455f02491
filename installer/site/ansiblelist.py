"""What Ansible says of an inventory."""

from __future__ import annotations

import json
import sysconfig
import tempfile
from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.process import ProcessError, run

Listing = dict[str, Any]


def ansible_inventory() -> str:
    """The program that belongs to this Python; the one on the path otherwise."""
    binary = Path(sysconfig.get_path("scripts")) / "ansible-inventory"
    return str(binary) if binary.exists() else binary.name


def inventory_program(*words: str | Path) -> str:
    """What it prints. Its own files go to a temporary directory, for home directories that cannot be written.

    Raises:
        ProcessError: it refused.
    """
    with tempfile.TemporaryDirectory(prefix="appliance-inventory-") as scratch:
        env = {"ANSIBLE_INVENTORY_UNPARSED_FAILED": "true", "ANSIBLE_LOCAL_TEMP": scratch}
        return run([ansible_inventory(), *words], env=env).stdout


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
        said = inventory_program("-i", path, "--list")
    except ProcessError as error:
        raise InputError(
            f"Ansible cannot read the inventory: {error.stderr.strip()[-600:]}",
            where=str(path),
            remedy="Mend the file it names.",
        ) from error
    data: Listing = json.loads(said)
    return data
