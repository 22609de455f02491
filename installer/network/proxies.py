"""Proxies by scheme, and the hosts that are reached without one, as curl and most tools read them."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from urllib.parse import SplitResult, unquote, urlsplit

from engine.errors import InputError

PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Proxy:
    """One proxy. ``address`` is SCHEME://HOST:PORT without its login, which is never part of a text."""

    address: str
    user: str = field(default="", repr=False)
    password: str = field(default="", repr=False)
    given: str = field(default="", repr=False)  # as it was given, login included: what other tools are handed


@dataclass(frozen=True)
class Proxies:
    """The proxy for http and for https addresses; ``no_proxy`` holds hosts, domains, networks, or ``*``."""

    http: Proxy | None = None
    https: Proxy | None = None
    no_proxy: tuple[str, ...] = ()
    hosts: Mapping[tuple[str, str], Proxy | None] = field(
        default_factory=dict
    )  # (scheme, host): the proxy for it alone

    def for_url(self, url: str) -> Proxy | None:
        """The proxy that ``url`` is asked through; None means directly."""
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        if (parts.scheme, host) in self.hosts:
            return self.hosts[parts.scheme, host]
        if any(_matches(entry, host, parts) for entry in self.no_proxy):
            return None
        return {"http": self.http, "https": self.https}.get(parts.scheme)

    def filled(self, other: Proxies) -> Proxies:
        """These, and those of ``other`` where there are none here."""
        return replace(
            self,
            http=self.http or other.http,
            https=self.https or other.https,
            no_proxy=self.no_proxy or other.no_proxy,
        )


def parse(value: str, where: str) -> Proxy:
    """A proxy from its address, with or without scheme and login.

    Raises:
        InputError: it is none, or of a kind that is not spoken here; the login is not repeated.
    """
    text = value if "://" in value else f"http://{value}"
    try:
        parts = urlsplit(text)
        port = parts.port or PORTS.get(parts.scheme, 0)
    except ValueError:
        raise InputError(
            "the proxy is not an address", where=where, remedy="Give it as http://USER:PASSWORD@HOST:PORT."
        ) from None
    if parts.scheme not in PORTS or not parts.hostname or not text.isprintable() or " " in text:
        raise InputError(
            "the proxy is not an http or https address",
            where=where,
            remedy="Give it as http://USER:PASSWORD@HOST:PORT; SOCKS is not spoken here.",
        )
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return Proxy(
        f"{parts.scheme}://{host}:{port}",
        unquote(parts.username or ""),
        unquote(parts.password or ""),
        text.rstrip("/"),
    )


def from_environment(environ: Mapping[str, str]) -> Proxies:
    """``http_proxy``, ``https_proxy``, ``all_proxy`` and ``no_proxy``; small letters before capitals.

    Raises:
        InputError: one is not an address.
    """

    def told(*names: str) -> tuple[str, str]:
        spelled = [s for name in names for s in (name, name.upper())]
        return next(((environ[s], s) for s in spelled if environ.get(s)), ("", ""))

    found = {}
    for scheme in ("http", "https"):
        value, name = told(f"{scheme}_proxy", "all_proxy")
        found[scheme] = parse(value, name) if value else None
    return Proxies(found["http"], found["https"], split_no_proxy(told("no_proxy")[0]))


def split_no_proxy(text: str) -> tuple[str, ...]:
    """The entries of a ``no_proxy``: separated by commas, white space or both."""
    return tuple(entry.lower() for entry in re.split(r"[\s,]+", text) if entry)


def _matches(entry: str, host: str, parts: SplitResult) -> bool:
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(entry.strip("[]"), strict=False)
    except ValueError:
        pass
    name, _, port = entry.rpartition(":") if re.search(r"[^:]:[0-9]+$", entry) else (entry, "", "")
    if port and int(port) != (parts.port or PORTS.get(parts.scheme, 0)):
        return False
    name = name.strip("[]").removeprefix("*").lstrip(".")
    return host == name or host.endswith(f".{name}")
