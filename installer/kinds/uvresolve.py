"""Resolve one wheel set for a target that is not this machine, with uv."""

from __future__ import annotations

import re
import shutil
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from packaging.tags import Tag, compatible_tags, cpython_tags
from packaging.utils import parse_wheel_filename

from engine.addresses import public
from engine.bounds import Bounds, BoundsError
from engine.errors import ApplianceError, InputError, ResourceError, TrustError, UpstreamError
from engine.process import ProcessError, run
from installer import medium, wheelarchive
from installer.definition import Target, WheelSet
from installer.kinds import Pinning
from installer.kinds.directwheels import Direct
from installer.kinds.pins import Pins
from installer.lockfile import Artifact
from installer.network import children
from installer.network.host import Network
from installer.network.pipconfig import PipConfig

# glibc of each release, from its package list; wheels built for a newer one do not load there.
GLIBC_MINOR = {"debian-12": 36, "debian-13": 41, "ubuntu-22.04": 35, "ubuntu-24.04": 39}
# CPython of each release, from its package list (package python3 and the pythonX.Y it depends on). Debian and Ubuntu patch security
# faults into this version and keep its number; Ubuntu 22.04 came with 3.10.4 and moved to 3.10.12 in its updates.
OS_PYTHON = {"debian-12": "3.11.2", "debian-13": "3.13.5", "ubuntu-22.04": "3.10.12", "ubuntu-24.04": "3.12.3"}
UV_NEWEST_MINOR = 40  # uv 0.13.8 knows no newer platform; a newer glibc loads what is built for this one
# How uv begins when a source failed it, as opposed to when the requirements did; with or without "Request failed after 3 retries".
NOT_FETCHED = re.compile(r"Failed to (?:fetch|read `--find-links` URL): `?(\S+?)`?$", re.MULTILINE)
# What uv may use. It reads pages and METADATA as a whole, and unpacks wheels of indexes that cannot send a part of one.
MEMORY, DISK, LONGEST_FILE, TIME_S = 4 << 30, 32 << 30, 16 << 30, 3600.0
# How uv says that a wheel is not one, as opposed to requirements that do not fit each other: name, version, reason.
UNUSABLE = re.compile(
    r"(?:The structure of|Metadata for) `([\w.-]+)` \(v?([^)]+)\) (?:was invalid|could not be parsed):\s*\n\s*(.+)"
)
NOT_A_WHEEL = re.compile(
    r"Failed to download `([\w.-]+)==([^`]+)`\s*\n\s*cause: (?:Failed to extract archive: \S+\s*\n\s*cause: )?"
    r"(.*(?:wheel is invalid|[Zz]ip|[Aa]rchive|[Mm]etadata|METADATA|RECORD).*)"
)
OTHER_INSIDE = re.compile(
    r"Package metadata (?:name|version) `(?P<inside>[^`]+)` does not match given (?:name|version) `(?P<given>[^`]+)`|"
    r"metadata for the wrong package: expected \D*?metadata for (?P<asked>\S+), got \D*?metadata for (?P<found>\S+)"
)
LOGGED = re.compile(r"^(?:TRACE|DEBUG|INFO|WARN|warning:) .*\n?", re.MULTILINE)
READING = re.compile(r"^DEBUG Sending fresh GET request for: (\S+\.whl)$", re.MULTILINE)
SHOWN = 3  # wheels that a message names
LEGACY = {17: "manylinux2014", 12: "manylinux2010", 5: "manylinux1"}


@dataclass(frozen=True)
class Found:
    """One wheel as uv pinned it. ``size`` in bytes, 0 when the index does not say."""

    name: str
    version: str
    filename: str
    url: str
    sha256: str
    size: int


def tags(target: Target) -> list[Tag]:
    """Every wheel tag the target accepts, best first; PEP 600 tags are spelled out because nothing else expands them."""
    platforms = []
    for minor in range(GLIBC_MINOR[target.os], 4, -1):
        platforms.append(f"manylinux_2_{minor}_{target.arch}")
        if minor in LEGACY:
            platforms.append(f"{LEGACY[minor]}_{target.arch}")
    platforms.append(f"linux_{target.arch}")
    major, minor_version = (int(n) for n in target.python.split("."))
    version = (major, minor_version)
    return [
        *cpython_tags(version, platforms=platforms),
        *compatible_tags(version, f"cp{major}{minor_version}", platforms),
    ]


def python_release(target: Target, packages: Iterable[Artifact] = (), *, image: bool = False) -> str:
    """The patch release that markers and Requires-Python are judged for, for example ``3.11.2``.

    Nodes run the distribution's own interpreter, whose release is known. A runtime image runs the one of the locked packages, and so
    does a node whose distribution has no such Python. Where neither is known it is the first release, which all others can stand in for.

    Args:
        packages: locked Debian packages.
        image: the wheels go into an image with the interpreter of ``packages``.
    """
    own = OS_PYTHON[target.os] if OS_PYTHON[target.os].rpartition(".")[0] == target.python else ""
    name = f"python{target.python}-minimal"
    versions = [
        m[0]
        for p in packages
        if p.kind == "debs"
        and p.name == name
        and (m := re.search(rf"(?<![\d.]){re.escape(target.python)}\.\d+", p.version))
    ]
    locked = min(versions, key=lambda v: int(v.rpartition(".")[2]), default="")
    return (locked if image else "") or own or locked or f"{target.python}.0"


def uv_binary() -> str:
    """The uv that this environment pins, else the one on PATH."""
    own = Path(sysconfig.get_path("scripts")) / "uv"
    found = str(own) if own.exists() else shutil.which("uv")
    if not found:
        raise ResourceError("uv is not installed", remedy="Install appliance with its dependencies; uv is one of them.")
    return found


def resolve(
    wheels: WheelSet,
    target: Target,
    config: PipConfig,
    direct: tuple[Direct, ...] = (),
    beside: Path | None = None,
    pins: Pins | None = None,
    pinning: Pinning = "obey",
    python: str = "",
    *,
    network: Network | None = None,
    room: Path | None = None,
) -> list[Found]:
    """All wheels of the set for the target, pinned with hashes. ``direct`` wheels lie in ``beside`` and join the set.

    ``pins`` decide versions, and a pinned wheel is taken before any other of its version. With ``keep`` they are only
    where the resolver starts from, with ``upgrade`` it does not see them.

    uv sees a fixed environment, and in it the proxies, CA and logins of ``network``; left out, it has none.

    Args:
        python: patch release that markers are judged for; the distribution's when empty.
        room: a directory with room for what uv may unpack; its cache is made there and removed.

    Raises:
        InputError: no solution, or a distribution has no wheel for the target.
        TrustError: a wheel is damaged, or unpacks to more than any honest one.
        UpstreamError: an index or another source does not answer.
    """
    net, local = network or Network(), (str(beside),) if direct and beside else ()
    with tempfile.TemporaryDirectory(prefix="appliance-lock-", dir=_roomy(room)) as scratch:
        here = Path(scratch)
        (here / "in.txt").write_text("\n".join([*wheels.requirements, *(d.requirement for d in direct)]) + "\n")
        constraints = [*wheels.constraints, *(pins.constraints if pins and pinning == "obey" else ())]
        (here / "constraints.txt").write_text("\n".join(constraints) + "\n")
        if pins and pins.by_name and pinning == "keep":
            (here / "pylock.toml").write_text(_preferred(pins))
        (here / "overrides.txt").write_text("".join(f"{name}; sys_platform == 'never'\n" for name in wheels.exclude))
        argv: list[str | Path] = [
            uv_binary(), "pip", "compile", "--verbose", "--no-config", "--no-header", "--format", "pylock.toml", "--generate-hashes",
            # Nothing is built, so any interpreter will do; without these uv would fetch one of the target's version, unverified.
            "--no-python-downloads", "--python", sys.executable,
            "--only-binary", ":all:", "--python-version", python or python_release(target),
            "--python-platform", f"{target.arch}-manylinux_2_{min(GLIBC_MINOR[target.os], UV_NEWEST_MINOR)}",
            "--constraints", here / "constraints.txt", "--overrides", here / "overrides.txt",
            *_flags(wheels, config), "--output-file", here / "pylock.toml", here / "in.txt",
        ]  # fmt: skip
        env = {**_environment(wheels, config, net, local), "UV_CACHE_DIR": str(here / "cache"), "NO_COLOR": "1"}
        bounds = Bounds(memory=MEMORY, file=LONGEST_FILE, directory=here, disk=DISK, time_s=TIME_S)
        try:
            run(argv, cwd=here, env=env, inherit=False, bounds=bounds)
        except ProcessError as error:
            raise _refused(wheels, config, pins, net.hide(error.stderr.strip())) from error
        except BoundsError as error:
            raise _beyond(wheels, config, error) from error
        lock = tomllib.loads((here / "pylock.toml").read_text())
    order = {tag: i for i, tag in enumerate(tags(target))}
    found = [chosen(package, order, wheels.name, pins) for package in lock.get("packages", [])]
    by_name = {d.filename: d for d in direct}
    return [replace(f, url=d.url, sha256=d.sha256, size=d.size) if (d := by_name.get(f.filename)) else f for f in found]


def _roomy(room: Path | None) -> Path | None:
    """``room`` where it keeps links, which uv's cache has; otherwise where temporary files go."""
    if room is None:
        return None
    room.mkdir(parents=True, exist_ok=True)
    return room if medium.ask(room).symlinks else None


def _beyond(wheels: WheelSet, config: PipConfig, error: BoundsError) -> ApplianceError:
    """uv needed more than it may: the wheel that made it, as far as that can be told."""
    if error.which == "space":
        return error
    for folder in _local(sources(wheels, config)[1]):
        for wheel in sorted(folder.glob("*.whl")):
            wheelarchive.require_bounded(wheel)
    read = [unquote(urlsplit(url).path).rsplit("/", 1)[-1] for url in READING.findall(error.stderr)]
    named = ", ".join(list(dict.fromkeys(reversed(read)))[:SHOWN])
    return TrustError(
        f"wheels: {wheels.name}: what a source serves is larger than any honest wheel or page of an index: {error.what}"
        + (f"; read last: {named}" if named else ""),
        remedy="Do not use these wheels: pin other versions, or take them from another source.",
    )


def _local(links: Iterable[str]) -> list[Path]:
    """Those find-links that are directories of this machine."""
    paths = [Path(unquote(urlsplit(link).path) if link.startswith("file:") else link) for link in links]
    return [p for p in paths if p.is_dir()]


def _unusable(wheels: WheelSet, said: str) -> TrustError | None:
    """A wheel that is damaged or another one inside; None when uv says nothing of that kind."""
    remedy = "Do not use this wheel: get it again from a sound source, or pin another version."
    if other := OTHER_INSIDE.search(said):
        given, inside = other["given"] or other["asked"], other["inside"] or other["found"]
        return TrustError(f"wheels: {wheels.name}: the wheel of {given} calls itself {inside} inside", remedy=remedy)
    if bad := UNUSABLE.search(said) or NOT_A_WHEEL.search(said):
        name, version, reason = bad.groups()
        chosen = re.search(rf"Selecting: {re.escape(name)}=={re.escape(version)} .*\((\S+\.whl)\)", said)
        file = chosen[1] if chosen else f"{name} {version}"
        return TrustError(
            f"wheels: {wheels.name}: {file} is not a wheel that can be read: {reason}", where=file, remedy=remedy
        )
    return None


def _refused(wheels: WheelSet, config: PipConfig, pins: Pins | None, said: str) -> ApplianceError:
    """What uv ended with, told by what is to be corrected: a source that does not answer, a wheel, or the requirements."""
    if unusable := _unusable(wheels, said):
        return unusable
    said = LOGGED.sub("", said).strip()
    if failed := NOT_FETCHED.search(said):
        asked = public(failed[1])
        indexes = [public(i) for i in sources(wheels, config)[0]]
        # The longest: an index may lie below another one.
        index = max((i for i in indexes if asked.startswith(i.rstrip("/") + "/")), key=len, default="")
        what = (
            f"the index {index}" if index else f"the source {asked}"
        )  # find-links, or the host that an index sends to
        # The last cause is the one that says something; the address in it may hold a signature.
        cause = re.sub(r" for url \(.*\)$", "", said.splitlines()[-1].strip().removeprefix("cause: "))
        return UpstreamError(
            f"wheels: {wheels.name}: {what} does not answer: {cause}",
            remedy="Check the address, the connection, proxy and CA (docs/fetching.md), and run the same command again.",
        )
    elsewhere = f", or pin other versions in {pins.path} with `appliance lock DEFINITION --write-pins`" if pins else ""
    return InputError(
        f"wheels: {wheels.name}: the requirements have no solution:\n{said}",
        remedy=f"Correct requirements, constraints or exclude in the definition{elsewhere}.",
    )


def sources(wheels: WheelSet, config: PipConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Indexes in the order they are asked, and find-links. What the definition names decides alone.

    pip's own are asked all alike and the highest version is taken, as pip does; where two have it, the extra one's wheel.
    """
    if wheels.indexes:
        return wheels.indexes, wheels.find_links
    configured = () if config.no_index else (*config.extra_indexes, *((config.index,) if config.index else ()))
    return configured, wheels.find_links or config.find_links


def _flags(wheels: WheelSet, config: PipConfig) -> list[str]:
    if wheels.indexes:
        return []
    if config.no_index:
        return ["--no-index"]
    # What pip's configuration names is one pool, as with pip: an extra index that has a wheel for one Python alone must not hide
    # the others. Of a definition's indexes the first that has a name decides.
    return ["--index-strategy", "unsafe-best-match"] if config.extra_indexes else []


def _environment(wheels: WheelSet, config: PipConfig, network: Network, local: tuple[str, ...]) -> dict[str, str]:
    """The addresses go here and not to the command line: with their logins they are nothing for other users to read."""
    indexes, find_links = sources(wheels, config)
    # uv asks UV_INDEX in the order given and UV_DEFAULT_INDEX last; without one its default is the public index.
    last = indexes[-1:] if wheels.indexes or config.index else ()
    first = indexes[: len(indexes) - len(last)]
    links = [network.with_login(link) for link in (*find_links, *local)]
    return {
        **children.network(network),
        **({"UV_INDEX": " ".join(network.with_login(i) for i in first)} if first else {}),
        **({"UV_DEFAULT_INDEX": network.with_login(last[0])} if last else {}),
        **({"UV_FIND_LINKS": ",".join(links)} if links else {}),
    }


def _preferred(pins: Pins) -> str:
    """A lock as uv would have written it: it keeps these versions where the requirements allow them."""
    packages = (f'[[packages]]\nname = "{p.name}"\nversion = "{p.version}"\n' for p in pins.by_name.values())
    return 'lock-version = "1.0"\ncreated-by = "appliance"\n' + "".join(packages)


def chosen(package: dict[str, Any], order: dict[Tag, int], wheel_set: str, pins: Pins | None = None) -> Found:
    """The wheel of a package for the target; names and hashes are what the index said, so they are taken for nothing else.

    Raises:
        InputError: it has none, or the index gives no SHA-256 or no name of a wheel.
    """
    try:
        found = _best(package, order, wheel_set, pins)
        urlsplit(found.url).port  # noqa: B018  reading it checks it
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        ArithmeticError,
    ) as error:  # InvalidWheelFilename is a ValueError
        raise InputError(
            f"wheels: {wheel_set}: the index describes {str(package.get('name'))[:80]!a} in a way that cannot be locked: {error}",
            remedy="Use an index that gives wheels with their SHA-256.",
        ) from error
    texts = (found.sha256, found.filename, found.url, found.name, found.version)
    if (
        not all(isinstance(text, str) and text.isprintable() for text in texts)
        or not re.fullmatch(r"[0-9a-f]{64}", found.sha256)
        or not re.fullmatch(r"[\w.+!-]+", found.filename)
        or found.size < 0
    ):
        raise InputError(
            f"wheels: {wheel_set}: the index gives no sound name, size and SHA-256 of {str(found.filename)[:120]!a}",
            remedy="Use an index that gives wheels with their SHA-256.",
        )
    return found


def _best(package: dict[str, Any], order: dict[Tag, int], wheel_set: str, pins: Pins | None) -> Found:
    """A wheel that is pinned, else the one whose best tag stands first in the target's order.

    Wheels are added to a release later, and one of them may fit better than the one that was pinned.
    """
    ranked = []
    pinned = pins.hashes(package["name"], package["version"]) if pins else frozenset()
    for wheel in package.get("wheels", []):
        url = wheel.get("url") or Path(wheel["path"]).resolve().as_uri()
        filename = wheel.get("name") or url.split("#")[0].split("?")[0].rsplit("/", 1)[-1]
        filename = filename.replace("%2B", "+").replace("%2b", "+")
        rank = min((order[t] for t in parse_wheel_filename(filename)[3] if t in order), default=None)
        if rank is not None:
            ranked.append(
                (
                    (wheel["hashes"]["sha256"] not in pinned, rank),
                    Found(
                        package["name"],
                        package["version"],
                        filename,
                        url,
                        wheel["hashes"]["sha256"],
                        int(wheel.get("size", 0)),
                    ),
                )
            )
    if not ranked:
        raise InputError(
            f"wheels: {wheel_set}: {package['name']} {package['version']} has no wheel for the target",
            remedy="Pin a version that has one, or exclude it if the set works without.",
        )
    return min(ranked, key=lambda r: r[0])[1]
