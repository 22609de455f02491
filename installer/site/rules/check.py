"""The rules of the roles, asked of a whole site before any node is: engine.rules with file, line and key. Pure but for the roles' own
data (defaults, the table of controls), which ships with the product.

Hosts may override a role's variables (``appliance_firewall_log_rate``); these are judged where they were written.
"""

from __future__ import annotations

from collections.abc import Iterator

from engine.errors import InputError
from engine.rules import firewall, networks, services
from engine.rules.fault import Fault
from installer.site.rules.content import gpus, images
from installer.site.rules.given import HOST, Given
from installer.site.rules.hardening import hardening
from installer.site.rules.hosts import host
from installer.site.rules.ports import ports
from installer.site.rules.serving import serving
from installer.yamlfile import Document


def demand(given: Given, document: Document | None) -> None:
    """Refuse what a role would refuse on every node.

    Raises:
        InputError: one line for each broken rule, with file, line and key.
    """
    told = [_line(given, document, fault) for fault in dict.fromkeys(faults(given))]
    if told:
        raise InputError("\n".join(dict.fromkeys(told)), remedy="The roles refuse the same on every node.")


def faults(given: Given) -> Iterator[Fault]:
    """Every broken rule. Keys lead into ``appliance_site``, or are ``host``, its name and a variable."""
    site = given.site
    yield from firewall.management(site.management_sources)
    yield from networks.networks(("client_sources",), "client_sources", site.client_sources)
    entries = [flow.model_dump(mode="json") for flow in site.egress]
    yield from firewall.entries("egress", entries, "destinations", anywhere=False, taken=firewall.MADE)
    yield from services.services([s.model_dump(mode="json") for s in site.services])
    yield from serving(given)
    yield from images(given)
    yield from gpus(site)
    yield from ports(given)
    yield from hardening(given)
    for node in given.nodes:
        yield from host(given, node)


def _line(given: Given, document: Document | None, fault: Fault) -> str:
    if fault.key[:1] == (HOST,):
        told = given.told.get(str(fault.key[1]))
        variable = str(fault.key[2])
        where = (told.lines.get(variable) or told.line if variable else told.line) if told else ""
        dotted = ".".join(map(str, fault.key[2:])) if variable else "name"
        return f"{where or given.path}: {fault.key[1]}: {dotted}: {fault.what}: {fault.remedy}"
    dotted = ".".join(map(str, fault.key))
    where = (
        f"{document.path}:{document.line(('appliance_site', *fault.key))}"
        if document
        else f"{given.path}: appliance_site"
    )
    return f"{where}: {dotted}: {fault.what}: {fault.remedy}"
