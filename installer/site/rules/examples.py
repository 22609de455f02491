"""Values from documentation that were left in a site. They are warnings and no faults: a rehearsal may well use them.

Pure. Addresses are those of RFC 5737, RFC 3849 and RFC 9637; names those of RFC 2606 and the example's own.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from engine.rules.fault import Key
from installer.yamlfile import Document

if TYPE_CHECKING:
    from pathlib import Path

    from installer.site.ansiblelist import Told
    from installer.site.inventory import Host

NETWORKS = tuple(
    map(
        ipaddress.ip_network,
        ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32", "3fff::/20"),
    )
)
NAMES = re.compile(r"(?:.*\.)?(?:example(?:\.(?:com|net|org|internal))?|invalid)\.?", re.IGNORECASE)
SITE_REMEDY, HOST_REMEDY = "Write the site's own value there.", "Write the node's own value there."
OF_A_HOST = ("ansible_host", "appliance_names", "appliance_zone_addresses")


@dataclass(frozen=True)
class Leftover:
    """One value of documentation in a site.

    Attributes:
        where: FILE:LINE, or the file alone where the loader does not know the line.
        key: dotted, below ``appliance_site``; of a host its name and a variable.
    """

    where: str
    key: str
    value: str
    what: str
    remedy: str


def left(
    path: Path, hosts: Sequence[Host], told: Mapping[str, Told], site: Mapping[str, Any], document: Document | None
) -> Iterator[Leftover]:
    """Every value of documentation in the hosts and in the site.

    Args:
        site: ``appliance_site`` as it may be shown, without what comes from a vault.
        document: the file that it was read from, for its lines.
    """
    for host in hosts:
        yield from _of_host(path, host, told.get(host.name))
    for key, value in leaves(site, ()):
        if what := unreal(value):
            where = f"{document.path}:{document.line(('appliance_site', *key))}" if document else str(path)
            yield Leftover(where, ".".join(map(str, key)), str(value), what, SITE_REMEDY)


def unreal(value: object) -> str:
    """What is wrong with a value of documentation; empty for any other."""
    text = value if isinstance(value, str) else ""
    if _is_documentation(text):
        return f"{text} is reserved for documentation"
    name = urlsplit(text).hostname or "" if re.match(r"https?://[^\[\]]+$", text) else text
    if NAMES.fullmatch(name):
        return f"{name} is a name for documentation"
    return ""


def _of_host(path: Path, host: Host, told: Told | None) -> Iterator[Leftover]:
    found: list[tuple[Key, object]] = [(("name",), host.name)]
    if told:
        found += [leaf for name in OF_A_HOST for leaf in leaves(told.resolved.get(name), (name,))]
    for key, value in found:
        if what := unreal(value):
            where = (told.lines.get(str(key[0])) or told.line if told else "") or str(path)
            dotted = ".".join(map(str, (host.name, *key)))
            yield Leftover(where, dotted, str(value), what, HOST_REMEDY)


def _is_documentation(text: str) -> bool:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return any(network.version == one.version and network.subnet_of(one) for one in NETWORKS)  # type: ignore[arg-type]


def leaves(value: Any, key: Key) -> Iterator[tuple[Key, Any]]:
    """Everything in mappings and lists that is neither, with its place."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from leaves(inner, (*key, str(name)))
    elif isinstance(value, (list, tuple)):
        for i, inner in enumerate(value):
            yield from leaves(inner, (*key, i))
    else:
        yield key, value
