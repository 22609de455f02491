"""Which packages came with us, and which of them nobody else needs.

apt writes down what it installs; with our configuration (role content, /etc/appliance/apt.conf) it does so in a file of our own,
so that file is exactly the list. Whether anything else needs a package is read from dpkg's database.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine.preflight.reading import text
from engine.process import run

HISTORY = Path("/var/lib/appliance/packages.log")
MAX_HISTORY = 4 << 20  # bytes
_INSTALLED = re.compile(r"^Install: (.*)$", re.MULTILINE)
_PACKAGE = re.compile(r"([a-z0-9][a-z0-9+.-]+):[a-z0-9-]+ \(")
_NAME = re.compile(r"^\s*([a-z0-9][a-z0-9+.-]+)")


@dataclass(frozen=True)
class Package:
    """An installed package: what it provides beside its name, and the alternatives of each of its dependencies."""

    name: str
    provides: tuple[str, ...]
    needs: tuple[tuple[str, ...], ...]


def installed_by_us(history: str | None = None) -> tuple[str, ...]:
    """Names in the order of their installation; from our own history."""
    said = text(HISTORY, MAX_HISTORY) if history is None else history
    found = [n for line in _INSTALLED.findall(said) for n in _PACKAGE.findall(line)]
    return tuple(dict.fromkeys(found))


def is_installed(name: str) -> bool:
    done = run(["dpkg-query", "--show", "--showformat=${db:Status-Status}", name], ok=(0, 1))
    return done.stdout.strip() == "installed"


def in_use(name: str) -> bool:
    """Whether a unit that the package brought runs, or is to run at the next boot. A masked one is neither."""
    listed = run(["dpkg-query", "--listfiles", name], ok=(0, 1)).stdout.splitlines()
    units = [
        p.rpartition("/")[2]
        for p in listed
        if "/systemd/system/" in p and "@." not in p and p.endswith((".service", ".socket", ".timer"))
    ]
    for unit in units:
        if run(["systemctl", "is-active", "--quiet", unit], ok=(0, 1, 3, 4)).returncode == 0:
            return True
        if run(["systemctl", "is-enabled", unit], ok=(0, 1, 3, 4)).stdout.strip() in ("enabled", "enabled-runtime"):
            return True
    return False


def removable(candidates: Sequence[str]) -> tuple[str, ...]:
    """Those of ``candidates`` that are installed and that nothing else installed here depends on."""
    shown = "${db:Status-Status}\\t${Package}\\t${Essential}\\t${Provides}\\t${Pre-Depends}, ${Depends}\\n"
    rows = [row.split("\t") for row in run(["dpkg-query", "--show", f"--showformat={shown}"]).stdout.splitlines()]
    here = [row for row in rows if row[0] == "installed"]
    essential = {row[1] for row in here if row[2] == "yes"}
    known = {row[1]: Package(row[1], tuple(_names(row[3])), tuple(_needs(row[4]))) for row in here}
    return unneeded([c for c in candidates if c in known and c not in essential], known)


def unneeded(candidates: Iterable[str], known: Mapping[str, Package]) -> tuple[str, ...]:
    """``candidates`` without those that a package which stays depends on, and without what those depend on. Pure.

    A dependency with alternatives keeps a candidate unless another alternative stays.
    """
    order = list(candidates)
    going = set(order)
    while True:
        staying = [p for n, p in known.items() if n not in going]
        names = {n for p in staying for n in (p.name, *p.provides)}
        wanted = {
            alternative
            for package in staying
            for alternatives in package.needs
            if not names.intersection(alternatives)
            for alternative in alternatives
        }
        kept = {n for n in going if wanted.intersection((n, *known[n].provides))}
        if not kept:
            return tuple(n for n in order if n in going)
        going -= kept


def remove(names: Sequence[str]) -> None:
    """Their files, not their configuration: removing that too would take along what an operator put beside it."""
    run(["dpkg", "--remove", *names], env={"DEBIAN_FRONTEND": "noninteractive"}, timeout_s=300)


def _needs(field: str) -> Iterable[tuple[str, ...]]:
    for part in field.split(","):
        if names := tuple(_names(part.replace("|", ","))):
            yield names


def _names(field: str) -> list[str]:
    return [m[1] for part in field.split(",") if (m := _NAME.match(part))]
