"""Networks, addresses, ports."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from typing import Any

from engine.rules.fault import Fault, Key, Rule

HIGHEST_PORT = 65535
NODE_REMEDY = "give the node's IP address; the firewall's rules and certificates are made of it"


def networks(key: Key, subject: str, given: Iterable[Any], *, anywhere: bool = True) -> Iterator[Fault]:
    """What is wrong with a list of networks in CIDR form.

    Args:
        anywhere: whether a network that holds every address is taken.
    """
    for i, text in enumerate(given):
        try:
            network = ipaddress.ip_network(text if isinstance(text, str) else "")
        except ValueError as error:
            remedy = "write it like 10.1.2.0/24 or 2001:db8::/32"
            if (whole := _without_host_bits(text)) is not None:
                remedy = f"write it like {whole} (the network) or {text.partition('/')[0]} (the address)"
            what = f"has {text!r}, which is not a network ({error})"
            yield Fault(Rule.FIREWALL_NETWORK, (*key, i), what, remedy, subject)
            continue
        if (address := _only(network)) and (what := _of_no_packet(address)):
            yield Fault(
                Rule.FIREWALL_NETWORK,
                (*key, i),
                f"has {text}, which is not a network of machines: {what}",
                _spelled(address),
                subject,
            )
            continue
        if network.prefixlen == 0 and not anywhere:
            what = f"has {text}, which is everywhere"
            yield Fault(Rule.FIREWALL_EVERYWHERE, (*key, i), what, "name the networks that are meant", subject)


def is_address(text: object) -> bool:
    """Whether it is an IPv4 or IPv6 address, without a zone."""
    try:
        ipaddress.ip_address(text if isinstance(text, str) and "%" not in text else "")
    except ValueError:
        return False
    return True


def unfit_for_a_node(text: object) -> tuple[str, str]:
    """Why others could not reach a node at an address, and what to do; two empty texts where they could."""
    if not is_address(text):
        return f"is {text!r}, which is not an address", NODE_REMEDY
    address = ipaddress.ip_address(str(text))
    if what := _of_no_packet(address):
        return f"is {text}, which is not an address of a machine: {what}", _spelled(address)
    if address.is_loopback:
        return f"is {text}, which is every machine itself", NODE_REMEDY
    if address.is_multicast:
        return f"is {text}, which is a group of machines (multicast)", NODE_REMEDY
    if address.is_link_local:
        return f"is {text}, which means something on one link alone (link-local)", NODE_REMEDY
    return "", ""


def _of_no_packet(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Why no packet has this address; empty where one could."""
    if getattr(address, "ipv4_mapped", None):
        return "it is IPv4 in the clothes of IPv6 (IPv4-mapped)"
    return "it stands for none (unspecified)" if address.is_unspecified else ""


def _spelled(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    mapped = getattr(address, "ipv4_mapped", None)
    return f"write {mapped}" if mapped else "give the address that is meant"


def _only(
    network: ipaddress.IPv4Network | ipaddress.IPv6Network,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """The address of a network that holds one; None where it holds more."""
    return network.network_address if network.prefixlen == network.max_prefixlen else None


def canonical(text: str) -> str:
    """An address in its one usual spelling, for comparisons; anything else as it is."""
    return str(ipaddress.ip_address(text)) if is_address(text) else text


def with_port(address: str, port: int) -> str:
    """ADDRESS:PORT as URLs and configurations write it: IPv6 in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def is_port(text: object) -> bool:
    """Whether it is a number from 1 to 65535, as a number or as text."""
    return str(text).isascii() and str(text).isdigit() and 1 <= int(str(text)) <= HIGHEST_PORT


def holds(cidrs: Iterable[str], address: str) -> bool:
    """Whether ``address`` lies in one of ``cidrs``."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return any(ip in ipaddress.ip_network(cidr) for cidr in cidrs)


def _without_host_bits(text: Any) -> str | None:
    try:
        return str(ipaddress.ip_network(text, strict=False)) if isinstance(text, str) else None
    except ValueError:
        return None
