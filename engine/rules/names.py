"""Names of hosts and of certificates, and what nginx and DCGM's front write into their configurations."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from engine.rules.fault import Fault, Key, Rule
from engine.rules.networks import HIGHEST_PORT, is_port
from engine.rules.services import SERVED_NAME

# Common names reach the maps and logs of nginx as ``CN=…,OU=…``; nothing that such a string is made of may be in one.
COMMON_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
DNS_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*")  # no wildcard: a certificate for many is one for anybody
LONGEST_DNS_NAME = 253
SERVER_NAME = re.compile(r"[A-Za-z0-9:._-]+")
CLIENT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
LISTENING = re.compile(r"([0-9.]+|[0-9a-fA-F:]+|[A-Za-z0-9.-]+)")
LOWEST_PORT = 1024


def common_name(name: object, key: Key = ("inventory_hostname",)) -> Iterator[Fault]:
    """What keeps a host's name out of a certificate, of units and of file names."""
    if not COMMON_NAME.fullmatch(str(name)):
        what = f"is {str(name)!r}, which no certificate can hold"
        yield Fault(Rule.PKI_COMMON_NAME, key, what, "use up to 63 letters, digits, dots, dashes and underscores")


def certificate_names(given: Iterable[object], key: Key = ("names",)) -> Iterator[Fault]:
    """What is wrong with the names in a certificate, each a DNS name or an address."""
    for i, name in enumerate(given):
        if not (isinstance(name, str) and is_certificate_name(name)):
            yield Fault(
                Rule.PKI_NAME,
                (*key, i),
                f"has {name!r}, which is neither a DNS name nor an address",
                "correct it",
                ".".join(map(str, key)),
            )


def is_certificate_name(name: str) -> bool:
    """Whether a certificate can hold it: an address, or a DNS name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return bool(DNS_NAME.fullmatch(name)) and len(name) <= LONGEST_DNS_NAME
    return "%" not in name


def renewal(days: int, renew_before_days: int) -> Iterator[Fault]:
    """Whether a certificate would be renewed before it is used."""
    if renew_before_days >= days:
        what = f"is {renew_before_days} and a certificate lasts {days}, so that every install would issue a new one"
        yield Fault(Rule.PKI_RENEWAL, ("renew_before_days",), what, "make it smaller than appliance_pki_days")


def edge(port: object, names: Iterable[object], clients: Iterable[object]) -> Iterator[Fault]:
    """What is wrong with a proxy in front of services: its port, its own names, those of its clients."""
    yield from _port(Rule.NGINX_PORT, port)
    for i, name in enumerate(names):
        if not SERVER_NAME.fullmatch(str(name)):
            yield Fault(
                Rule.NGINX_NAME,
                ("server_names", i),
                f"has {name!r}",
                "use letters, digits, dots, dashes and underscores",
                "server_names",
            )
    for i, name in enumerate(clients):
        if not CLIENT.fullmatch(str(name)):
            yield Fault(
                Rule.NGINX_CLIENT,
                ("allowed_clients", i),
                f"has {name!r}",
                "use letters, digits, dots, dashes and underscores",
                "allowed_clients",
            )


def upstreams(given: Sequence[Mapping[str, Any]]) -> Iterator[Fault]:
    """What is wrong with the services behind a proxy: names that paths and answers cannot hold or that two have, and where each is asked."""
    for i, one in enumerate(given):
        key: Key = ("upstreams", i)
        name, served = str(one.get("name", "")), str(one.get("served_name") or one.get("name", ""))
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]*", name):
            what, remedy = f"is {name!r}", "use lower-case letters, digits and dashes"
            yield Fault(Rule.NGINX_SERVICE, (*key, "name"), what, remedy, "upstreams name")
        if name in [str(other.get("name", "")) for other in given[:i]]:
            what, remedy = f"is {name!r}, which another has", "give every service another name"
            yield Fault(Rule.NGINX_SERVICE, (*key, "name"), what, remedy, "upstreams name")
        if not SERVED_NAME.fullmatch(served):
            what, remedy = f"is {served!r}", "use letters, digits, dots, dashes, slashes, colons and underscores"
            yield Fault(Rule.NGINX_SERVICE, (*key, "served_name"), what, remedy, "upstreams served_name")
        if bool(one.get("sockets")) == bool(one.get("peers")):
            what, remedy = f"of {name} has both sockets and peers, or none", "give one of them"
            yield Fault(Rule.NGINX_SERVICE, key, what, remedy, "upstreams entry")


def metrics(port: object, address: object, clients: Iterable[object]) -> Iterator[Fault]:
    """What is wrong with the place where GPU metrics are asked for, and with the names of who may ask."""
    yield from _port(Rule.DCGM_PORT, port)
    if not LISTENING.fullmatch(str(address)):
        yield Fault(Rule.DCGM_ADDRESS, ("address",), f"is {address!r}", "give an address")
    for i, name in enumerate(clients):
        if not CLIENT.fullmatch(str(name)):
            yield Fault(Rule.DCGM_CLIENT, ("clients", i), f"has {name!r}", "give names of hosts", "clients")


def _port(rule: Rule, port: object) -> Iterator[Fault]:
    if not is_port(port) or int(str(port)) < LOWEST_PORT:
        yield Fault(rule, ("port",), f"is {port}", f"use one from {LOWEST_PORT} to {HIGHEST_PORT}, which needs no root")
