"""Which command lives in which module.

A module is imported when its command is used, so that a command's start costs what that command needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, MutableMapping
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

EPILOG = "Every command takes --json (one JSON document on standard output) and --quiet. Exit codes: 0 done, 1 failed, 2 wrong input, 3 refused as untrusted, 4 a source changed or does not answer, 5 a node failed, 6 this machine lacks something, 129, 130 or 143 ended by SIGHUP, Ctrl-C or SIGTERM."

# In the order of `appliance --help`. MODULE:NAME, where NAME is a function or a group of commands.
COMMANDS = {
    "lock": "bundle:lock",
    "check": "compat:check",
    "sign": "sign:sign",
    "renew": "sign:renew",
    "kit": "kit:kit",
    "verify": "bundle:verify",
    "rehearse": "rehearse:rehearse",
    "inspect": "bundle:inspect",
    "schema": "bundle:schema",
    "explain": "explain:explain",
    "sbom": "evidence:sbom",
    "page": "evidence:page",
    "diff": "carry:diff",
    "delta": "carry:delta",
    "split": "carry:split",
    "recover": "carry:recover",
    "receipt": "carry:receipt",
    "preflight": "preflight:preflight",
    "plan": "plan:plan",
    "approve-plan": "plan:approve_plan",
    "install": "install:install",
    "rollback": "rollback:rollback",
    "report": "carry:report",
    "evidence": "egress:app",
    "import": "install:import_bundle",
    "status": "status:status",
    "doctor": "doctor:doctor",
    "uninstall": "uninstall:uninstall",
    "retire": "retire:retire",
    "keys": "keys:app",
    "build": "bundle:build_app",
    "site": "site:app",
    "tenants": "tenants:app",
    "generations": "generations:app",
    "depot": "depot:app",
    "trust": "trust:app",
    "certs": "certs:app",
    "model": "model:app",
    "debs": "debs:app",
    "runtime": "runtime:app",
    "lab": "lab:app",
}


class OnUse(MutableMapping[str, Any]):
    """Commands by name, those of ``COMMANDS`` first, each loaded when it is asked for."""

    def __init__(self, registered: dict[str, Any]) -> None:
        self._commands: dict[str, Any] = {**dict.fromkeys(COMMANDS), **registered}

    def __getitem__(self, name: str) -> Any:
        if self._commands[name] is None:
            self._commands[name] = _load(name)
        return self._commands[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._commands[name] = command

    def __delitem__(self, name: str) -> None:
        del self._commands[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._commands)

    def __len__(self) -> int:
        return len(self._commands)


class Commands(TyperGroup):
    """The top-level group: what was registered on it, and ``COMMANDS``."""

    def __init__(self, *, commands: Any = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = OnUse(dict(commands or {}))

    def list_commands(self, _ctx: Any) -> list[str]:
        return list(self.commands)


class Command(TyperCommand):
    """A command whose usage line names what it takes as its page does: typer puts braces around it."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [re.sub(r"^\{(.*)\}(\.\.\.)?$", r"\1\2", piece) for piece in super().collect_usage_pieces(ctx)]


def _load(name: str) -> Any:
    module, _, attribute = COMMANDS[name].partition(":")
    found = getattr(import_module(f"installer.cli.{module}"), attribute)
    if isinstance(found, typer.Typer):
        for info in found.registered_commands:
            info.cls = Command
        group = get_group(found)
        group.name = name
        return group
    alone = typer.Typer(add_completion=False, rich_markup_mode=None)
    alone.command(name, cls=Command, epilog=EPILOG)(found)
    return get_command(alone)
