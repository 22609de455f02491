"""A site and its hosts as the rules see them, and what the roles bring of their own: defaults, the table of controls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from engine.rules.fault import Fault, Rule
from installer import product
from installer.site.settings import Site

if TYPE_CHECKING:
    from installer.site.ansiblelist import Told
    from installer.site.inventory import Host

ROLES = (
    "container_runtime", "content", "cuda", "dcgm_exporter", "firewall", "gateway", "mig", "model_store", "nginx", "node", "nvidia_driver",
    "os_baseline", "pki", "vllm",
)  # fmt: skip
_WORDS = ("yes", "no", "true", "false", "on", "off", "1", "0")  # of what Ansible takes for a switch
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
        known = specification(role)
        return {
            name.removeprefix(prefix): value
            for name, value in resolved.items()
            if name in known and not mistyped(value, known[name])
        }

    def mistyped(self, host: Host) -> Iterator[Fault]:
        """Variables of roles that are not of the kind that the role wants."""
        resolved = self.told[host.name].resolved if host.name in self.told else {}
        for role in ROLES:
            for name, option in specification(role).items():
                if name in resolved and (wanted := mistyped(resolved[name], option)):
                    what = f"is {type(resolved[name]).__name__}, not {wanted}"
                    yield Fault(Rule.SITE_VARIABLE, (HOST, host.name, name), what, f"write it as {wanted}")


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
def specification(role: str) -> dict[str, dict[str, Any]]:
    """A role's variables as its argument_specs describe them."""
    text = (product.data("roles") / role / "meta" / "argument_specs.yml").read_text(encoding="utf-8")
    found: dict[str, dict[str, Any]] = yaml.load(text, Loader=yaml.CSafeLoader)["argument_specs"]["main"]["options"]
    return found


def mistyped(value: Any, option: Mapping[str, Any]) -> str:
    """What is wanted where ``value`` is of another kind; empty where it fits."""
    kind, elements, choices = option.get("type", "str"), option.get("elements"), option.get("choices")
    digits = str(value).lstrip("-")
    listed = value if isinstance(value, list) else ()
    wrong: dict[str, bool] = {
        "a list": kind == "list" and not isinstance(value, list),
        "a list of mappings": elements == "dict" and not all(isinstance(v, Mapping) for v in listed),
        "a list of plain values": elements in ("str", "path") and any(map(_nested, listed)),
        "a mapping": kind == "dict" and not isinstance(value, Mapping),
        "a whole number": kind == "int" and (isinstance(value, bool) or not (digits.isascii() and digits.isdigit())),
        "true or false": kind == "bool" and not isinstance(value, bool) and str(value).lower() not in _WORDS,
        "plain text": kind in ("str", "path") and _nested(value),
        f"one of {', '.join(map(str, choices or ()))}": bool(choices)
        and kind in ("str", "int")
        and value not in (choices or ()),
    }
    return next((wanted for wanted, broken in wrong.items() if broken), "")


def _nested(value: Any) -> bool:
    return isinstance(value, (list, Mapping))


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
