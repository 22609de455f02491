"""What a lab is called and which addresses it uses: decided before anything is made, and by its name alone."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Network
from pathlib import Path

from engine.errors import InputError, ResourceError

POOL = IPv4Network("10.87.0.0/16")  # each lab takes one /24 of it
FIRST_NODE = 11  # .1 is the control host; .2 to .10 stay free for what a test puts there
MOST_NODES = 50
SYSTEMS = {"debian-12": "bookworm", "debian-13": "trixie"}  # as definitions name them: code name
RELEASES = tuple(SYSTEMS.values())
_HOST = re.compile(r"(?=.{1,63}$)[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?)*")
_NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,38}[a-z0-9])?")


@dataclass(frozen=True)
class Node:
    """One machine of a lab."""

    name: str
    address: str
    address6: str = ""  # beside the other, in a lab that has IPv6


@dataclass(frozen=True)
class Bind:
    """A path of this host that every node sees read-only."""

    source: Path
    target: str


@dataclass(frozen=True)
class Names:
    """Kernel object names of a lab. They come from its name, so that what a killed process left is found again."""

    bridge: str
    table: str
    machine_prefix: str

    def machine(self, number: int) -> str:
        """The nspawn machine name of node ``number``; short enough that ``vb-`` and it are an interface name."""
        return f"{self.machine_prefix}-{number}"


def check_name(name: str) -> None:
    """Refuse a lab name that is no host name label or is too long for a node name.

    Raises:
        InputError: it is not usable.
    """
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{name!r} is not a lab name",
            remedy="Use up to 40 lower-case letters, digits and hyphens, starting with a letter.",
        )


def release_of(system: str) -> str:
    """The code name of an operating system as definitions name it.

    Raises:
        InputError: the lab cannot make nodes of it.
    """
    if system not in SYSTEMS:
        raise InputError(
            f"the lab cannot make {system} nodes: it makes root file systems from Debian's archive only",
            remedy=f"Choose one of {', '.join(SYSTEMS)}, or try {system} on a machine of its own.",
        )
    return SYSTEMS[system]


def names_of(name: str) -> Names:
    """The names of the kernel objects of lab ``name``."""
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return Names(bridge=f"apl-{digest}", table=f"appliance_lab_{digest}", machine_prefix=digest)


def free_network(used: Iterable[str]) -> IPv4Network:
    """The first /24 of the pool that touches none of ``used`` (networks or interface addresses).

    Raises:
        ResourceError: all are taken.
    """
    taken = [IPv4Interface(u).network for u in used]
    for candidate in list(POOL.subnets(new_prefix=24))[1:]:
        if not any(candidate.overlaps(t) for t in taken):
            return candidate
    raise ResourceError(f"no free network is left in {POOL}", remedy="Take labs down: appliance lab list")


def local_network(name: str) -> IPv6Network:
    """The IPv6 network of lab ``name``: a unique local one (RFC 4193) whose number comes from the name."""
    digest = hashlib.sha256(name.encode()).hexdigest()
    return IPv6Network(f"fd{digest[:2]}:{digest[2:6]}:{digest[6:10]}::/64")


def nodes_of(
    name: str, nodes: int | Sequence[str], network: IPv4Network, network6: IPv6Network | None = None
) -> tuple[Node, ...]:
    """Names and addresses of the nodes of a lab: so many, called NAME-1 and so on, or those with the names given.

    Raises:
        InputError: there are too few or too many, or a name is no host name.
    """
    names = [f"{name}-{n}" for n in range(1, nodes + 1)] if isinstance(nodes, int) else list(nodes)
    if not 1 <= len(names) <= MOST_NODES:
        raise InputError(f"a lab has 1 to {MOST_NODES} nodes, not {len(names)}", remedy="Choose another number.")
    for one in names:
        if not _HOST.fullmatch(one) or names.count(one) > 1:
            raise InputError(
                f"{one!r} cannot be the host name of a node, or stands twice",
                remedy="Use letters, digits, hyphens and dots, at most 63 characters, each name once.",
            )
    numbers = range(FIRST_NODE, FIRST_NODE + len(names))
    return tuple(
        Node(one, str(network[n]), str(network6[n]) if network6 else "") for n, one in zip(numbers, names, strict=True)
    )


def parse_binds(values: Sequence[str]) -> tuple[Bind, ...]:
    """``SRC:DST`` values as binds.

    Raises:
        InputError: a value has not that form, or the source does not exist.
    """
    binds = []
    for value in values:
        source, colon, target = value.partition(":")
        if not (colon and source and target.startswith("/")) or ":" in target:
            raise InputError(
                f"{value!r} is not SRC:DST with an absolute DST", remedy="Write it as /path/here:/path/in/node."
            )
        path = Path(source).resolve()
        if not path.exists():
            raise InputError("the path to bind does not exist", where=source, remedy="Make it, or name another path.")
        if ":" in str(path):
            raise InputError("a path with a colon cannot be bound", where=str(path), remedy="Rename it.")
        binds.append(Bind(path, target))
    return tuple(binds)
