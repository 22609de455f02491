"""A new inventory: from the example, or made for what a bundle holds. Written whole or not at all.

Of a bundle the metadata is verified first, and every file that is read is hashed before anybody looks at it.
"""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from engine import durable, strictjson
from engine.copying import read_target
from engine.errors import InputError
from engine.rules import names, networks
from installer import product
from installer.evidence import contents
from installer.evidence.contents import Contents
from installer.site import fitting, holds, needs, newfiles
from installer.site.fitting import Serving
from installer.site.inventory import GROUPS, HOSTS_FILE, SITE_FILE
from installer.site.newfiles import Control, Node
from installer.site.rules.examples import leaves, unreal

OF_ANSIBLE = ("all", "ungrouped")  # groups that every inventory has
DISCARD = 9  # a port (RFC 863); nothing is sent there
JSON_LIMIT = 16 << 20  # bytes of a model's configuration
Ask = Callable[[str], str]


@dataclass(frozen=True)
class Unset:
    """A value that the operator still has to write: file within the inventory, dotted key, and what stands there."""

    file: str
    key: str
    value: str


@dataclass(frozen=True)
class Written:
    """What was written. ``serving`` is None for the example."""

    directory: Path
    nodes: tuple[Node, ...]
    control: Control
    serving: Serving | None
    unset: tuple[Unset, ...]


def node(text: str) -> Node:
    """A node as --node names it, by the rules that `site check` has for nodes.

    Raises:
        InputError: it is not NAME=ADDRESS, or name or address are not fit for a node.
    """
    name, _, address = text.partition("=")
    if not name or not address:
        raise InputError(
            f"{text!r} is not NAME=ADDRESS", where="--node", remedy="Write it like --node gpu-1=10.0.0.21."
        )
    for fault in names.common_name(name):
        raise InputError(f"the name {fault.what}", where=f"--node {text}", remedy=_sentence(fault.remedy))
    if name in (*GROUPS, *OF_ANSIBLE):
        raise InputError(f"{name} is the name of a group", where=f"--node {text}", remedy="Give the node another name.")
    what, remedy = networks.unfit_for_a_node(address)
    if what:
        raise InputError(f"the address {what}", where=f"--node {text}", remedy=_sentence(remedy))
    return Node(name, networks.canonical(address))


def _sentence(remedy: str) -> str:
    return f"{remedy[:1].upper()}{remedy[1:]}."


def nodes(texts: Sequence[str]) -> tuple[Node, ...]:
    """All nodes of --node, in their order.

    Raises:
        InputError: one is wrong, or two have the same name or address.
    """
    found = tuple(map(node, texts))
    for kind, values in (("name", [n.name for n in found]), ("address", [n.address for n in found])):
        if twice := next((value for value, times in Counter(values).items() if times > 1), ""):
            raise InputError(
                f"two nodes have the {kind} {twice}", where="--node", remedy=f"Give every node {'an' if kind == 'address' else 'a'} {kind} of its own."
            )  # fmt: skip
    return found


def client_networks(given: Sequence[str]) -> tuple[str, ...]:
    """Networks of --clients, by the rules that `site check` has for `client_sources`.

    Raises:
        InputError: one is no network.
    """
    for fault in networks.networks(("--clients",), "--clients", given):
        raise InputError(fault.what, where="--clients", remedy=_sentence(fault.remedy))
    return tuple(dict.fromkeys(given))


def local_address(remote: str) -> str:
    """The address from which this host would reach ``remote``, as the kernel's routes say; no packet is sent. Empty where they do not."""
    address = ""
    with (
        suppress(OSError),
        socket.socket(socket.AF_INET6 if ":" in remote else socket.AF_INET, socket.SOCK_DGRAM) as out,
    ):
        out.connect((remote, DISCARD))
        address = str(out.getsockname()[0]).partition("%")[0]
    return "" if networks.unfit_for_a_node(address)[0] else address


def control(found: Sequence[Node], ask: Ask) -> Control:
    """The control host as the first node sees it.

    Args:
        ask: the address of this host that leads to another; ``local_address``.
    """
    seen = list(dict.fromkeys(a for n in found if (a := ask(n.address))))
    first = ask(found[0].address) if found else ""
    return Control(first, tuple(a for a in seen if a != first)) if first else Control()


def require_free(directory: Path) -> None:
    """Refuse a place where something is.

    Raises:
        InputError: there is.
    """
    if directory.exists() or directory.is_symlink():
        raise InputError(
            "there is something already", where=str(directory), remedy="Name a directory that does not exist."
        )


def serving(bundle: Path, pinned_root: bytes) -> Serving:
    """How a site serves what a bundle holds.

    Raises:
        InputError: there is no such bundle, or it holds no model or no vLLM.
        TrustError: its metadata, or a file that is read, is not as signed.
    """
    if not bundle.is_dir():
        raise InputError(
            "there is no such bundle", where=str(bundle),
            remedy="Give the directory NAME-VERSION that `appliance build bundle` made.",
        )  # fmt: skip
    account = contents.read(bundle, pinned_root)
    definition = needs.definition(account)
    first, *others = fitting.servable(account.trusted.release, account.trusted.targets)
    said = (
        _json(bundle, account, f"{holds.MODELS}{first}/{file}")
        for file in (holds.CONFIGURATION, "tokenizer_config.json")
    )
    return fitting.fit(account, definition, fitting.model(first, *said), others, datetime.now(UTC).date())


def write(
    directory: Path, found: Sequence[Node], serves: Serving | None, here: Control, clients: Sequence[str] = ()
) -> Written:
    """Write the inventory.

    Args:
        serves: what its nodes serve; None for the example.
        here: this host, as nodes see it.
        clients: networks from which clients may come beside this host; not for the example.

    Raises:
        InputError: something is there already.
        ResourceError: the place cannot be written.
    """
    require_free(directory)
    example = product.data("inventories") / "example"
    if serves:
        files = {HOSTS_FILE: newfiles.hosts(found), str(SITE_FILE): newfiles.site(serves, found, here, clients)}
    else:
        files = {
            str(p.relative_to(example)): p.read_text(encoding="utf-8")
            for p in sorted(example.rglob("*"))
            if p.is_file()
        }
        if found:
            files[HOSTS_FILE] = newfiles.hosts(found)
            files[str(SITE_FILE)] = newfiles.example(files[str(SITE_FILE)], here)
    durable.write_tree(directory, ((Path(name), text.encode()) for name, text in files.items()))
    return Written(directory, tuple(found), here, serves, unset(files))


def unset(files: dict[str, str]) -> tuple[Unset, ...]:
    """Values of documentation in the files of an inventory. Pure."""
    return tuple(
        Unset(file, ".".join(str(k) for k in key if k != "appliance_site"), str(value))
        for file, text in files.items()
        for key, value in leaves(yaml.safe_load(text), ())
        if unreal(value)
    )


def _json(bundle: Path, account: Contents, path: str) -> Any:
    """A signed file of a model; None where there is none or it is not JSON, for then it says nothing."""
    target = account.trusted.targets.get(path)
    if target is None or target.size > JSON_LIMIT:
        return None
    data = read_target(bundle, target, JSON_LIMIT)
    with suppress(ValueError):
        return strictjson.loads(data)
    return None
