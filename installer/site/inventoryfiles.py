"""The files of an inventory, looked at before Ansible reads them.

Ansible tries every reader on a file of hosts and, when all refuse it, says no more than that no inventory was parsed; it waits for a
pipe, writes out every alias, and takes the last of two groups with one name.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from engine import inputfile, refusals
from engine.errors import InputError
from installer import yamlfile

VARIABLES = ("group_vars", "host_vars")
YAML = (".yml", ".yaml", ".json")
# What Ansible leaves out of a directory of hosts (INVENTORY_IGNORE_EXTS of its configuration).
LEFT_OUT = ("~", ".pyc", ".pyo", ".swp", ".bak", ".rpm", ".md", ".txt", ".rst", ".orig", ".cfg", ".retry")
ENCRYPTED = b"$ANSIBLE_VAULT;"
MAX_FILES = 10_000


def require_sound(path: Path, hosts: str) -> None:
    """Refuse an inventory with a file that Ansible would not end reading, or whose fault it would not place.

    Args:
        hosts: name of the file with the hosts, for the message where a directory has none.

    Raises:
        InputError: names the file, and the line where there is one.
        ResourceError: a file may not be read.
    """
    if not path.exists():
        raise InputError(
            "there is no such inventory",
            where=str(path),
            remedy="Give the directory, for example -i inventories/example.",
        )
    if not path.is_dir():
        _sound(path, yaml=path.suffix in YAML)
        return
    sources = 0
    for number, file in enumerate(_files(path), 1):
        if number > MAX_FILES:
            raise InputError(
                f"more than {MAX_FILES} files", where=str(path), remedy="Name the directory of the inventory alone."
            )
        variables = any(part in VARIABLES for part in file.relative_to(path).parts)
        sources += not variables
        _sound(file, yaml=file.suffix in YAML or (variables and not file.suffix))
    if not sources:
        raise InputError(
            "there is no file with hosts in the inventory",
            where=str(path / hosts),
            remedy="`appliance site new DIRECTORY` writes an inventory to start from.",
        )


def _files(path: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise refusals.explained(error, path, "read") or error

    for place, directories, names in os.walk(path, onerror=refuse):
        directories[:] = sorted(d for d in directories if not d.startswith("."))
        yield from (Path(place, n) for n in sorted(names) if not n.startswith(".") and not n.endswith(LEFT_OUT))


def _sound(file: Path, *, yaml: bool) -> None:
    raw = inputfile.read(file, yamlfile.MAX_BYTES)
    if yaml and not raw.startswith(ENCRYPTED):
        yamlfile.require_sound(file, raw)
