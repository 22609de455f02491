"""The one description of how this host reaches the network."""

from __future__ import annotations

import hashlib
import os
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from engine import inputfile
from engine.download import public
from engine.errors import InputError
from installer.network import logins, pipconfig, proxies
from installer.network.logins import Login
from installer.network.pipconfig import PipConfig
from installer.network.proxies import Proxies, Proxy

MAX_CA = 64 << 20  # bytes of a file of CAs
SYSTEM_CA = Path(
    "/etc/ssl/certs/ca-certificates.crt"
)  # what update-ca-certificates writes, a company's own CA included
CA_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
# Tokens that a library takes from the environment by itself.
TOKENS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
SHORTEST = 4  # characters; a shorter secret is part of too many words to be hidden


@dataclass(frozen=True)
class Network:
    """Proxies, trusted CAs, logins and package indexes of this host.

    Attributes:
        ca: a file of certificates that every fetch trusts, and no other.
        logins: for hosts, the first that fits is used. Those of pip's addresses stand before those of netrc.
        pip: pip's configuration; its addresses hold no logins.
        tokens: other secrets that no text may hold.
    """

    proxies: Proxies = field(default_factory=Proxies)
    ca: Path = SYSTEM_CA
    logins: tuple[Login, ...] = field(default=(), repr=False)
    pip: PipConfig = field(default_factory=PipConfig)
    tokens: frozenset[str] = field(default=frozenset(), repr=False)

    def login(self, url: str) -> Login | None:
        """The login for an address."""
        return logins.best(self.logins, url)

    def with_login(self, url: str) -> str:
        """An address with its login, for a tool that takes it no other way; never for a command line, a text or a file."""
        parts, login = urlsplit(url), self.login(url)
        if login is None or parts.scheme not in proxies.PORTS:
            return url
        return parts._replace(netloc=f"{login.quoted}@{parts.netloc}").geturl()

    def hide(self, text: str) -> str:
        """``text`` without any secret of this host's."""
        for secret in sorted(self._secrets(), key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    def _secrets(self) -> set[str]:
        mine = [Login("", p.user, p.password) for p in self._every_proxy() if p.user or p.password]
        found = {s for login in (*self.logins, *mine) for s in login.secrets} | self.tokens
        return {s for s in found if len(s) >= SHORTEST}

    def _every_proxy(self) -> list[Proxy]:
        return [p for p in (self.proxies.http, self.proxies.https, *self.proxies.hosts.values()) if p]

    def record(self) -> dict[str, object]:
        """What a lock says of it: nothing secret, and no place of this machine that another does not have."""
        told = {scheme: p.address for scheme, p in (("http", self.proxies.http), ("https", self.proxies.https)) if p}
        system = self.ca == SYSTEM_CA
        return {
            "proxies": told,
            "no_proxy": list(self.proxies.no_proxy),
            "ca": "system"
            if system
            else f"sha256:{hashlib.sha256(inputfile.read(self.ca, MAX_CA, 'the CAs')).hexdigest()}",
            "extra_indexes": [public(i) for i in self.pip.extra_indexes],
            "index": "" if self.pip.no_index else public(self.pip.index) if self.pip.index else "default",
            "find_links": [public(f) if "://" in f else f for f in self.pip.find_links],
        }


def read(environ: Mapping[str, str] | None = None) -> Network:
    """Look at this host.

    Raises:
        InputError: a proxy, a CA, a netrc or pip's configuration cannot be used; says which.
    """
    given = os.environ if environ is None else environ
    pip = pipconfig.read(given)
    found = proxies.from_environment(given)
    if pip.proxy:
        own = proxies.parse(pip.proxy, "pip's option proxy")
        found = found.filled(Proxies(own, own))
    index, first = logins.taken_out(pip.index)
    extra = [logins.taken_out(url) for url in pip.extra_indexes]
    links = [logins.taken_out(url) for url in pip.find_links]
    netrc = logins.netrc_file(given)
    return Network(
        found,
        _ca(given, pip.cert),
        (
            *(login for login in (first, *(one for _, one in (*extra, *links))) if login),
            *(logins.from_netrc(netrc) if netrc else ()),
        ),
        replace(pip, index=index, extra_indexes=tuple(u for u, _ in extra), find_links=tuple(u for u, _ in links)),
        frozenset(given[name] for name in TOKENS if given.get(name)),
    )


def _ca(environ: Mapping[str, str], pips: str) -> Path:
    """The CA file that is named, else the system's.

    Raises:
        InputError: it holds no certificates.
    """
    named = next(((environ[v], v) for v in CA_VARIABLES if environ.get(v)), (pips, "pip's option cert"))
    if not named[0]:
        return SYSTEM_CA if SYSTEM_CA.is_file() else Path(ssl.get_default_verify_paths().cafile or SYSTEM_CA)
    try:
        ssl.create_default_context(cafile=named[0])
    except (OSError, ssl.SSLError) as error:
        raise InputError(
            f"{named[1]} names no file of certificates: {getattr(error, 'strerror', None) or 'not PEM'}",
            where=named[0],
            remedy="Give one PEM file with every CA to trust, or unset it: the system's store is used then.",
        ) from None
    return Path(named[0]).resolve()
