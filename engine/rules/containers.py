"""Containers beside the models: what the role container_runtime writes into units and environment files."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from engine.rules.fault import Fault, Key, Rule
from engine.rules.networks import HIGHEST_PORT, is_port

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}")
IMAGE = re.compile(r"[a-z0-9][a-z0-9.-]{0,62}@sha256:[0-9a-f]{64}")
USER = re.compile(r"[1-9][0-9]{0,8}:[1-9][0-9]{0,8}")
MEMORY = re.compile(r"[1-9][0-9]*[KMGT]?")
DEVICE = re.compile(r"nvidia\.com/gpu=[A-Za-z0-9:._-]+")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
TARGET = re.compile(r"/[A-Za-z0-9._/-]+")
SOURCE = re.compile(r"([a-z0-9][a-z0-9-]*|/[A-Za-z0-9._/-]+)")
LISTENING = re.compile(r"([0-9.]+|\[[0-9a-fA-F:]+\])")
LOWEST_PORT = 1024
DEFAULT_USER = "65532:65532"
# What of the host no container sees. Absolute sources are read-only in any case.
REFUSED_SOURCES = re.compile(
    r"/(|etc|home|var|var/lib)"
    r"|/(etc/(appliance|ssh|shadow.*|gshadow.*)|root|proc|sys|dev|run|boot|var/run|var/lib/containers|var/lib/appliance/(trust|apt)|opt/appliance)(/.*)?"
    r"|/var/lib/appliance"
)


def containers(given: Iterable[Mapping[str, Any]]) -> Iterator[Fault]:
    """What is wrong with the containers of one node; keys begin with ``containers`` and the number of the container."""
    names: set[str] = set()
    ports: dict[int, str] = {}
    for i, container in enumerate(given):
        name = str(container.get("name", ""))
        key: Key = ("containers", i)
        subject = f"containers entry {name!r}"
        yield from _container(key, subject, container)
        for j, volume in enumerate(container.get("volumes") or []):
            yield from _volume((*key, "volumes", j), subject, volume)
        if name in names:
            yield Fault(
                Rule.CONTAINER_DUPLICATE,
                (*key, "name"),
                "has the name of another",
                "give every container its own",
                subject,
            )
        names.add(name)
        for j, entry in enumerate(container.get("ports") or []):
            yield from _port((*key, "ports", j), subject, entry)
            number = int(entry["port"]) if is_port(entry.get("port")) else 0
            if number in ports:
                what = f"has the port {number} of the container {ports[number]}"
                yield Fault(
                    Rule.CONTAINER_PORT_TWICE,
                    (*key, "ports", j, "port"),
                    what,
                    "give every port of a node to one container",
                    subject,
                )
            ports.setdefault(number, name)


def _container(key: Key, subject: str, container: Mapping[str, Any]) -> Iterator[Fault]:
    def wrong(rule: Rule, field: str, remedy: str) -> Fault:
        return Fault(rule, (*key, field), f"has the {field} {container.get(field)!r}", remedy, subject)

    if not NAME.fullmatch(str(container.get("name", ""))):
        yield wrong(Rule.CONTAINER_NAME, "name", "use up to 31 lower-case letters, digits and dashes")
    if not IMAGE.fullmatch(str(container.get("image", ""))):
        yield wrong(Rule.CONTAINER_IMAGE, "image", "write NAME@sha256:DIGEST as the lock has it")
    if not USER.fullmatch(str(container.get("user") or DEFAULT_USER)):
        yield wrong(Rule.CONTAINER_USER, "user", "write UID:GID in numbers; root is not taken")
    if not MEMORY.fullmatch(str(container.get("memory", ""))):
        yield wrong(Rule.CONTAINER_MEMORY, "memory", "write a number with K, M, G or T, such as 2G")
    for j, device in enumerate(container.get("devices") or []):
        if not DEVICE.fullmatch(str(device)):
            yield Fault(
                Rule.CONTAINER_DEVICE,
                (*key, "devices", j),
                f"has the device {device!r}",
                "write nvidia.com/gpu=0 or its UUID",
                subject,
            )
    for name, value in (container.get("environment") or {}).items():
        place: Key = (*key, "environment", str(name))
        if not VARIABLE.fullmatch(str(name)):
            yield Fault(
                Rule.CONTAINER_ENVIRONMENT,
                place,
                f"has the variable {name!r}",
                "use letters, digits and underscores",
                subject,
            )
        if _broken(value):
            yield Fault(
                Rule.CONTAINER_LINE_BREAK,
                place,
                f"has a line break in the variable {name}",
                "write it in one line",
                subject,
            )
    for j, word in enumerate(container.get("command") or []):
        if _broken(word):
            yield Fault(
                Rule.CONTAINER_LINE_BREAK,
                (*key, "command", j),
                "has a line break in its command",
                "write it in one line",
                subject,
            )


def _volume(key: Key, subject: str, volume: Mapping[str, Any]) -> Iterator[Fault]:
    source, target = str(volume.get("source", "")), str(volume.get("target", ""))
    if not TARGET.fullmatch(target) or ".." in target:
        yield Fault(
            Rule.CONTAINER_TARGET,
            (*key, "target"),
            f"may not have a volume at {target!r}",
            "give an absolute path of plain characters",
            subject,
        )
    if not SOURCE.fullmatch(source) or ".." in source or REFUSED_SOURCES.fullmatch(_plain(source)):
        what = f"may not have {source!r} as a volume"
        remedy = "give a plain name for a directory of its own, or an absolute path that holds nothing of the system, of podman or of appliance"
        yield Fault(Rule.CONTAINER_SOURCE, (*key, "source"), what, remedy, subject)
    if volume.get("writable") and source.startswith("/"):
        what = f"may not write to {source}"
        yield Fault(
            Rule.CONTAINER_WRITABLE,
            (*key, "writable"),
            what,
            "give a plain name for a directory of its own, or leave writable out",
            subject,
        )


def _port(key: Key, subject: str, entry: Mapping[str, Any]) -> Iterator[Fault]:
    if not is_port(entry.get("port")) or int(entry["port"]) < LOWEST_PORT:
        yield Fault(
            Rule.CONTAINER_PORT,
            (*key, "port"),
            f"has the port {entry.get('port')!r}",
            f"use one from {LOWEST_PORT} to {HIGHEST_PORT}",
            subject,
        )
    address = str(entry.get("address", "127.0.0.1"))
    if not LISTENING.fullmatch(address):
        yield Fault(
            Rule.CONTAINER_ADDRESS,
            (*key, "address"),
            f"listens on {address!r}",
            "give an address, IPv6 in brackets",
            subject,
        )


def _plain(source: str) -> str:
    """A path without what changes its spelling and not what it names: ``//``, ``/./``, a slash at the end."""
    return "/" + "/".join(p for p in source.split("/") if p not in ("", ".")) if source.startswith("/") else source


def _broken(value: Any) -> bool:
    return "\n" in str(value) or "\r" in str(value)
