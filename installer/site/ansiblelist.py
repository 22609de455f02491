"""What Ansible says of an inventory, asked beside whatever the caller does meanwhile.

`ansible-inventory` takes as long as loading the modules of an install does: a command asks first and loads then.
"""

from __future__ import annotations

import json
import sysconfig
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from engine.errors import InputError
from engine.process import ProcessError, run

Listing = dict[str, Any]


def ansible_inventory() -> str:
    """The program that belongs to this Python; the one on the path otherwise."""
    binary = Path(sysconfig.get_path("scripts")) / "ansible-inventory"
    return str(binary) if binary.exists() else binary.name


_begun: dict[Path, Future[Listing]] = {}


def begin(path: Path) -> None:
    """Ask now, for the next ``listing`` of this path."""
    pool = ThreadPoolExecutor(1)
    _begun[path] = pool.submit(ask, path)
    pool.shutdown(wait=False)


def listing(path: Path) -> Listing:
    """What was begun for ``path``, used once, or else ``ask``; raises what that raises."""
    begun = _begun.pop(path, None)
    return begun.result() if begun else ask(path)


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
