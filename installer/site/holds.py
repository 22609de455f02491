"""Whether a release holds what a site serves: asked before any node is, for a node would say so after its firewall has closed. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from engine.errors import InputError
from engine.trust import Target
from installer.site.inventory import Inventory

MODELS = "content/models/"
GATEWAY = "content/installer/gateway/requirements.txt"
CONFIGURATION, WEIGHTS = "config.json", ".safetensors"


def demand(inventory: Inventory, release: str, targets: Mapping[str, Target]) -> None:
    """Refuse a release without the models that the site's services serve, or without the gateway that its tenants need.

    Args:
        targets: what the release holds, by path; from metadata whose signatures were checked.

    Raises:
        InputError: names every service whose model is not there, or not whole.
    """
    if inventory.tenants is not None and GATEWAY not in targets:
        raise InputError(
            f"the site has tenants, and {release} does not hold the gateway",
            where=f"{inventory.path}: appliance_site.gateway.tenants",
            remedy="Write `gateway: true` into the definition and build the release again, or remove gateway.tenants.",
        )
    wrong = list(_missing(inventory, release, targets))
    if wrong:
        raise InputError(
            "\n".join(wrong),
            where=f"{inventory.path}: appliance_site.services",
            remedy="Correct `model` of the service, or add the model to the definition and build the release again.",
        )


def models(paths: Iterable[str]) -> dict[str, set[str]]:
    """The files of every model among a release's paths, by name, relative to the model's folder."""
    held: dict[str, set[str]] = {}
    for path in paths:
        if path.startswith(MODELS):
            name, _, file = path.removeprefix(MODELS).partition("/")
            held.setdefault(name, set()).add(file)
    return held


def whole(files: Collection[str]) -> bool:
    """Whether a model's files are enough to serve it."""
    return CONFIGURATION in files and any(f.endswith(WEIGHTS) and "/" not in f for f in files)


def _missing(inventory: Inventory, release: str, targets: Mapping[str, Target]) -> Iterator[str]:
    held = models(targets)
    for service in inventory.site.services:
        files = held.get(service.model)
        if files is None:
            there = ", ".join(sorted(held)) or "none"
            yield f"the service {service.name} serves {service.model}, and {release} holds no such model (it holds: {there})"
        elif not whole(files):
            yield f"the service {service.name} serves {service.model}, of which {release} holds no {CONFIGURATION} or no *{WEIGHTS}"
        elif service.chat_template and service.chat_template not in files:
            yield f"the service {service.name} wants the chat template {service.chat_template}, which {release} does not hold for {service.model}"
