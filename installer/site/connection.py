"""How Ansible would log in to a node, for what this product asks nodes without Ansible."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from engine.errors import InputError
from installer.site.ansiblelist import Told

PORTS = ("ansible_port", "ansible_ssh_port")
PASSWORDS = ("ansible_password", "ansible_ssh_pass")


@dataclass(frozen=True)
class Connection:
    """How Ansible would log in to a node. ``arguments`` are the inventory's own, for ssh; ``unsupported`` names what else it asks for."""

    address: str
    port: int = 0
    user: str = ""
    key: str = ""
    arguments: tuple[str, ...] = ()
    python: str = "/usr/bin/python3"
    unsupported: str = ""


def connection(path: Path, name: str, address: str, told: Told) -> Connection:
    """The variables of Ansible's ssh connection that a site has a use for, under both of their names.

    Raises:
        InputError: one of them cannot be understood.
    """

    variables = told.resolved

    def of(*names: str) -> str:
        return next((str(variables[n]) for n in names if variables.get(n) not in (None, "")), "")

    plugin = of("ansible_connection") or "ssh"
    secret = next((n for n in PASSWORDS if n in told.raw), "")
    key, port = of("ansible_ssh_private_key_file", "ansible_private_key_file"), of(*PORTS)
    arguments = []
    for option in ("ansible_ssh_common_args", "ansible_ssh_extra_args"):
        try:
            arguments += shlex.split(of(option))
        except ValueError as error:
            line = told.lines.get(option) or str(path)
            raise InputError(f"{option} of {name}: {error}", where=line, remedy="Balance its quotes.") from error
    if port and not (port.isdigit() and 0 < int(port) < 65536):
        line = next((told.lines[n] for n in PORTS if told.lines.get(n)), "") or str(path)
        raise InputError(f"{name} has the port {port}", where=line, remedy="Give a number from 1 to 65535.")
    return Connection(
        address=address,
        port=int(port or 0),
        user=of("ansible_user", "ansible_ssh_user"),
        key=_key_file(key) if key else "",
        arguments=tuple(arguments),
        python=of("ansible_python_interpreter") or "/usr/bin/python3",
        unsupported=secret or ("" if plugin in ("ssh", "smart") else f"ansible_connection: {plugin}"),
    )


def _key_file(key: str) -> str:
    """``~`` as the user's home directory; where there is none, ssh says what it cannot find."""
    try:
        return str(Path(key).expanduser())
    except RuntimeError:
        return key
