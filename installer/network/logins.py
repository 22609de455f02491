"""Logins for hosts: from addresses in pip's configuration, from netrc, and from apt's auth files."""

from __future__ import annotations

import base64
import netrc
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, quote, unquote, urlsplit

from engine.errors import InputError
from installer.network.proxies import PORTS


@dataclass(frozen=True)
class Login:
    """User and password for a host.

    Attributes:
        scheme: of the addresses it is for; empty for any.
        port: 0 for any.
        path: what the path of an address must begin with.
    """

    host: str
    user: str = field(repr=False)
    password: str = field(repr=False)
    scheme: str = ""
    port: int = 0
    path: str = ""

    def fits(self, parts: SplitResult) -> bool:
        """Whether it may be sent to an address."""
        return (
            self.host == (parts.hostname or "").lower()
            and self.scheme in ("", parts.scheme)
            and self.port in (0, parts.port or PORTS.get(parts.scheme, 0))
            and (parts.path or "/").startswith(self.path)
        )

    @property
    def basic(self) -> str:
        """The value of an ``Authorization`` header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()

    @property
    def quoted(self) -> str:
        """As it stands in an address."""
        return quote(self.user, safe="") + (f":{quote(self.password, safe='')}" if self.password else "")

    @property
    def secrets(self) -> set[str]:
        """Every form in which it could turn up in a text. A user alone may be a token."""
        plain = {self.password} if self.password else {self.user}
        return {s for p in plain for s in (p, quote(p, safe=""), quote(p))} | {self.basic.removeprefix("Basic ")}


def best(logins: Iterable[Login], url: str) -> Login | None:
    """The login for an address: the one with the longest path that fits, the first of equals."""
    parts = urlsplit(url)
    return max((entry for entry in logins if entry.fits(parts)), key=lambda entry: len(entry.path), default=None)


def taken_out(url: str) -> tuple[str, Login | None]:
    """An address without its login, and the login: for all of that host and port, as pip and uv use it."""
    parts = urlsplit(url)
    if parts.username is None and parts.password is None:
        return url, None
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
    port = parts.port or PORTS.get(parts.scheme, 0)
    user, password = unquote(parts.username or ""), unquote(parts.password or "")
    return bare, Login((parts.hostname or "").lower(), user, password, parts.scheme, port)


def netrc_file(environ: Mapping[str, str]) -> Path | None:
    """``NETRC``, else ``~/.netrc`` where there is one."""
    if environ.get("NETRC"):
        return Path(environ["NETRC"])
    home = environ.get("HOME")
    found = Path(home) / ".netrc" if home else None
    return found if found and found.is_file() else None


def from_netrc(path: Path) -> tuple[Login, ...]:
    """The machines of a netrc. Its ``default`` is left out: it would hand one password to every host that is asked.

    Raises:
        InputError: it cannot be read; its words are not repeated, for a password may be among them.
    """
    try:
        hosts = netrc.netrc(str(path)).hosts
    except OSError as error:
        raise InputError(
            f"cannot read the logins: {error.strerror}", where=str(path), remedy="Correct NETRC or the file's mode."
        ) from None
    except netrc.NetrcParseError as error:
        raise InputError(
            "not a netrc file",
            where=f"{path}:{error.lineno or 1}",
            remedy="Write one line a host: machine HOST login USER password PASSWORD.",
        ) from None
    except UnicodeDecodeError:
        raise InputError("not a netrc file: it is not UTF-8", where=str(path), remedy="Write it as UTF-8.") from None
    return tuple(
        Login(host.lower(), login or "", password or "")
        for host, (login, _, password) in hosts.items()
        if host != "default"
    )


def from_apt(text: str) -> tuple[Login, ...]:
    """An auth file of apt (apt_auth.conf(5)): machines may have a scheme, a port and a path; without a scheme https is meant."""
    words, found = [w for line in text.splitlines() if not line.lstrip().startswith("#") for w in line.split()], []
    machine, values = "", dict[str, str]()
    for key, value in zip(words, [*words[1:], ""], strict=False):
        if key == "machine":
            found += _apt(machine, values)
            machine, values = value, {}
        elif key in ("login", "password") and machine:
            values.setdefault(key, value)
    return tuple(found + _apt(machine, values))


def _apt(machine: str, values: Mapping[str, str]) -> list[Login]:
    parts = urlsplit(machine if "://" in machine else f"https://{machine}")
    try:
        port = parts.port or 0
    except ValueError:
        return []
    if not parts.hostname or "login" not in values:
        return []
    user, password = values["login"], values.get("password", "")
    return [Login(parts.hostname.lower(), user, password, parts.scheme, port, parts.path)]


def to_apt(logins: Iterable[Login]) -> str:
    """The same for apt, for both schemes where none is named."""
    lines = []
    for login in logins:
        host = f"{login.host}{f':{login.port}' if login.port else ''}{login.path}"
        for scheme in [login.scheme] if login.scheme else ["https", "http"]:
            lines.append(f"machine {scheme}://{host} login {login.user} password {login.password}\n")
    return "".join(lines)
