"""A site and its hosts as the rules see them, and what the roles bring of their own: defaults, the table of controls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from engine.rules.fault import Fault
from installer import product
from installer.site.settings import Site

if TYPE_CHECKING:
    from installer.site.ansiblelist import Told
    from installer.site.inventory import Host

HOST = "host"  # first part of a key that is a variable of a host and not of the site


@dataclass(frozen=True)
class Given:
    """A site as it was read. ``users`` are the names Ansible logs in with, empty where ssh's own configuration decides."""

    path: Path
    hosts: Sequence[Host]
    site: Site
    told: Mapping[str, Told]
    users: Mapping[str, str]

    @property
    def nodes(self) -> list[Host]:
        """Hosts that something is installed on."""
        return [h for h in self.hosts if h.groups != ("control",)]

    def of(self, host: Host, role: str) -> dict[str, Any]:
        """What the inventory says of a host about a role's variables, without their prefix."""
        prefix = f"appliance_{role}_"
        resolved = self.told[host.name].resolved if host.name in self.told else {}
        return {name.removeprefix(prefix): value for name, value in resolved.items() if name.startswith(prefix)}


def of_role(host: Host, role: str, found: Iterable[Fault]) -> Iterator[Fault]:
    """Faults of a role's variables that the inventory sets for a host."""
    for fault in found:
        variable = f"appliance_{role}_{fault.key[0]}"
        yield Fault(fault.rule, (HOST, host.name, variable, *fault.key[1:]), fault.what, fault.remedy)


@cache
def role_defaults(role: str) -> dict[str, Any]:
    """A role's defaults; values that are templates are of no use here."""
    found: dict[str, Any] = yaml.safe_load(
        (product.data("roles") / role / "defaults" / "main.yml").read_text(encoding="utf-8")
    )
    return found


@cache
def controls() -> frozenset[str]:
    """The ids of the baseline's controls."""
    table = product.data("roles") / "os_baseline" / "vars" / "main.yml"
    document = yaml.load(table.read_text(encoding="utf-8"), Loader=yaml.CSafeLoader)
    return frozenset(c["id"] for c in document["os_baseline_controls"])


def halves(sentence: str) -> tuple[str, str]:
    """What is wrong, and the remedy, of a sentence that has both."""
    what, _, remedy = sentence.rstrip(".").rpartition(": ")
    return what, remedy
