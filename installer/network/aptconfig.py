"""What the builder's own apt knows of the network: its proxies, CA and auth files, for packages alone.

They stand before what the environment says, as with apt itself.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import urlsplit

from engine import inputfile
from engine.errors import ApplianceError, InputError
from engine.process import run
from engine.report import Report
from installer import aptmirror
from installer.network import children, logins, proxies
from installer.network.host import SYSTEM_CA, Network
from installer.network.logins import Login
from installer.network.proxies import Proxies, Proxy

LINE = re.compile(r'Acquire::(?P<scheme>https?)::(?P<option>[^ ]+) "(?P<value>.*)";')
AUTO = ("proxy-auto-detect", "proxyautodetect")
DIRECT = ("direct", "false")
LOGIN_IN_SOURCE = re.compile(r"(?P<scheme>https?://)(?P<login>[^/\s@\]]+@)")
AUTO_TIMEOUT_S = 30


@dataclass(frozen=True)
class AptNetwork:
    """Options of apt as they are set, by (scheme, name); logins of its auth files and of addresses in its sources.

    Attributes:
        unreadable: auth files that this user may not read.
    """

    options: Mapping[tuple[str, str], str] = field(default_factory=dict, repr=False)
    logins: tuple[Login, ...] = field(default=(), repr=False)
    unreadable: tuple[Path, ...] = ()

    def text(self, network: Network, ca: Path | None) -> str:
        """For the configuration of another apt; holds passwords. ``ca`` is where that apt finds the host's CA file."""
        lines = [f'Acquire::{scheme}::{name} "{value}";\n' for (scheme, name), value in self.options.items()]
        if ca and network.ca != SYSTEM_CA and ("https", "CAInfo") not in self.options:
            lines.append(f'Acquire::https::CAInfo "{ca}";\n')
        return "".join(lines)

    def merged(self, network: Network, urls: Iterable[str] = ()) -> Network:
        """How packages are fetched: apt's proxies, CA and logins, then the host's.

        Args:
            urls: where apt has a program that chooses proxies, it is asked for the hosts of these.

        Raises:
            InputError: a proxy is none, or the program fails.
        """
        hosts: dict[tuple[str, str], Proxy | None] = {}
        for scheme in ("http", "https"):
            for name, value in self._of(scheme).items():
                option, _, host = name.partition("::")
                if option.lower() == "proxy" and host:
                    hosts[scheme, host.lower()] = _proxy(value, scheme, name)
        for url in urls:
            parts = urlsplit(url)
            key = (parts.scheme, (parts.hostname or "").lower())
            if key not in hosts and (program := self._auto(parts.scheme)) and (told := _ask(program, url, network)):
                hosts[key] = _proxy(told, parts.scheme, "Proxy-Auto-Detect")
        direct = {s: v for s in ("http", "https") if (v := self._of(s).get("Proxy", "")).lower() in DIRECT and v}
        own = {s: _proxy(self._of(s).get("Proxy", ""), s, "Proxy") for s in ("http", "https")}
        given = network.proxies
        merged = Proxies(
            own["http"] or (None if "http" in direct else given.http),
            own["https"] or (None if "https" in direct else given.https),
            given.no_proxy,
            hosts,
        )
        ca = self._of("https").get("CAInfo")
        return replace(
            network, proxies=merged, logins=(*self.logins, *network.logins), ca=Path(ca) if ca else network.ca
        )

    def _of(self, scheme: str) -> dict[str, str]:
        """Options of a method; https has those of http where it has none of its own."""
        mine = {name: v for (s, name), v in self.options.items() if s == scheme}
        return {**self._of("http"), **mine} if scheme == "https" else mine

    def _auto(self, scheme: str) -> str:
        if scheme not in proxies.PORTS:
            return ""
        return next((v for name, v in self._of(scheme).items() if name.lower() in AUTO), "")


def read(etc: Path, report: Report) -> AptNetwork:
    """Ask the builder's apt, with no variable of the environment, and read its auth files below ``etc`` (``/etc/apt``)."""
    with tempfile.NamedTemporaryFile("w", suffix=".conf") as first:  # what apt reads first says where the rest is
        first.write(f'Dir::Etc "{etc}";\n')
        first.flush()
        dumped = run(["apt-config", "dump"], env={"APT_CONFIG": first.name}, inherit=False, package="apt").stdout
    found = [m for line in dumped.splitlines() if (m := LINE.fullmatch(line)) and _wanted(m["option"])]
    texts, unreadable = [], []
    for file in [etc / "auth.conf", *sorted(etc.glob("auth.conf.d/*.conf"))]:
        try:
            if file.exists():
                texts.append(inputfile.read(file, aptmirror.MAX_SOURCES).decode(errors="replace"))
        except (ApplianceError, OSError):
            unreadable.append(file)
            report.say(f"debs: cannot read {file}; its logins are not used. Run as root, or put them into ~/.netrc")
    sources = [etc / "sources.list", *sorted(etc.glob("sources.list.d/*.list")), *sorted(etc.glob("sources.list.d/*.sources"))]  # fmt: skip
    inside = [
        login
        for file in sources
        if file.is_file()
        for m in LOGIN_IN_SOURCE.finditer(aptmirror.read(file))
        if (login := logins.taken_out(m.string[m.start() :].split()[0])[1])
    ]
    return AptNetwork(
        {(m["scheme"], m["option"]): m["value"] for m in found if '"' not in m["value"] and m["value"]},
        (*inside, *(login for text in texts for login in logins.from_apt(text))),
        tuple(unreadable),
    )


def without_logins(text: str) -> str:
    """A file of apt sources without the logins in its addresses."""
    return LOGIN_IN_SOURCE.sub(lambda m: m["scheme"], text)


def _wanted(option: str) -> bool:
    name = option.lower()
    return name in ("proxy", "cainfo", *AUTO) or name.startswith("proxy::") or name.endswith("::cainfo")


def _proxy(value: str, scheme: str, option: str) -> Proxy | None:
    if not value or value.lower() in DIRECT:
        return None
    return proxies.parse(value, f"apt's option Acquire::{scheme}::{option}")


def _ask(program: str, url: str, network: Network) -> str:
    """apt's own protocol: the address as an argument, the proxy or DIRECT on the first line, nothing for no opinion."""
    done = run(
        [*program.split(), url], env=children.network(network), inherit=False, ok=range(256), timeout_s=AUTO_TIMEOUT_S
    )
    if done.returncode:
        raise InputError(
            f"the program that chooses apt's proxy ended with {done.returncode}",
            where=program,
            remedy="Correct Acquire::http::Proxy-Auto-Detect.",
        )
    return (done.stdout.splitlines() or [""])[0].strip()
