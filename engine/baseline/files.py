"""Modes, contents, mounts, and a walk through the local file systems for what nobody should be able to write."""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from engine.baseline.outcome import Outcome, fail, not_applicable, of_faults, passed
from engine.process import run

MOUNTS = Path("/proc/self/mountinfo")
MOST_FILES = 5_000_000  # a walk ends somewhere
DYNAMIC = range(61184, 65520)  # accounts that systemd makes for units
_LOCAL = frozenset({"ext2", "ext3", "ext4", "xfs", "btrfs", "overlay", "f2fs", "zfs"})


def modes(want: Mapping[str, Any]) -> Outcome:
    """``want.files``: each ``path``, ``mode`` (no bit beyond it), ``owner``, ``groups``; ``absent`` for what must not be there."""
    faults, n = [], 0
    for entry in want["files"]:
        path = Path(entry["path"])
        try:
            found = path.lstat()
        except OSError:
            if entry.get("required"):
                faults.append(f"{path} is not there")
            continue
        if entry.get("absent"):
            faults.append(f"{path} is there")
            continue
        n += 1
        beyond = stat.S_IMODE(found.st_mode) & ~int(str(entry["mode"]), 8)
        if beyond and not stat.S_ISLNK(found.st_mode):
            faults.append(f"{path} has mode {stat.S_IMODE(found.st_mode):04o}, at most {entry['mode']}")
        if (owner := _user(found.st_uid)) != entry.get("owner", "root"):
            faults.append(f"{path} belongs to {owner}")
        if (group := _group(found.st_gid)) not in entry.get("groups", ["root"]):
            faults.append(f"{path} belongs to the group {group}")
    return of_faults(faults, f"{n} files")


def contents(want: Mapping[str, Any]) -> Outcome:
    """``want.files``: path to ``{has: [regex…], lacks: [regex…]}``."""
    faults = []
    for name, rule in want["files"].items():
        try:
            text = Path(name).read_text(errors="replace")
        except OSError:
            faults.append(f"{name} is not there")
            continue
        faults += [f"{name} lacks {p}" for p in rule.get("has", []) if not re.search(p, text, re.MULTILINE)]
        faults += [f"{name} has {p}" for p in rule.get("lacks", []) if re.search(p, text, re.MULTILINE)]
    return of_faults(faults, f"{', '.join(want['files'])} as wanted")


def mounts(want: Mapping[str, Any]) -> Outcome:
    """``want.mounts``: mount point to options it must have; the last mount on a point counts."""
    found = {}
    for line in MOUNTS.read_text().splitlines():
        words = line.split()
        found[words[4]] = set(words[5].split(","))
    faults, good = [], []
    for point, options in want["mounts"].items():
        if point not in found:
            faults.append(f"{point} is no file system of its own")
        elif missing := [o for o in options if o not in found[point]]:
            faults.append(f"{point} without {','.join(missing)}")
        else:
            good.append(f"{point} {','.join(options)}")
    return of_faults(faults, "; ".join(good))


@dataclass(frozen=True)
class Scan:
    """What one walk through the local file systems found."""

    set_ids: tuple[str, ...]
    writable: tuple[str, ...]
    unowned: tuple[str, ...]


@cache
def scan(skip: tuple[str, ...]) -> Scan:
    """One walk for three controls; ``scan.cache_clear()`` before the next look at the node."""
    users, groups = {p.pw_uid for p in pwd.getpwall()}, {g.gr_gid for g in grp.getgrall()}
    set_ids, writable, unowned = [], [], []
    for path, found in _walk(skip):
        mode = found.st_mode
        if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
            set_ids.append(path)
        shared = stat.S_ISDIR(mode) and mode & stat.S_ISVTX
        if mode & stat.S_IWOTH and (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) and not shared:
            writable.append(path)
        if not (found.st_uid in users and found.st_gid in groups) and not _dynamic(found):
            unowned.append(f"{path} ({found.st_uid}:{found.st_gid})")
    return Scan(tuple(sorted(set_ids)), tuple(sorted(writable)), tuple(sorted(unowned)))


def _dynamic(found: os.stat_result) -> bool:
    """Whether it is the state of a unit with DynamicUser=, whose account exists only while the unit runs."""
    return found.st_uid in DYNAMIC and found.st_gid in DYNAMIC


def set_ids(want: Mapping[str, Any]) -> Outcome:
    """Every program that changes its user or group comes from a package, or is one of ``want.known``."""
    found = scan(tuple(want.get("skip", []))).set_ids
    strangers = [p for p in found if p not in want.get("known", []) and not _packaged(p)]
    return of_faults([f"{p} is from no package" for p in strangers], f"{len(found)}: {' '.join(found)}")


def world_writable(want: Mapping[str, Any]) -> Outcome:
    """No file that everybody can write, no such directory without the sticky bit."""
    found = scan(tuple(want.get("skip", []))).writable
    return of_faults([f"{p} can be written by everybody" for p in found], "none")


def unowned(want: Mapping[str, Any]) -> Outcome:
    """Every file belongs to a user and a group that exist."""
    found = scan(tuple(want.get("skip", []))).unowned
    return of_faults([f"{p} belongs to nobody" for p in found], "none")


def packages_intact(_: Mapping[str, Any]) -> Outcome:
    """No file of a package differs from what dpkg recorded, configuration apart."""
    said = run(["dpkg", "--verify"], ok=(0, 1), timeout_s=600, package="dpkg").stdout
    changed = [line.split()[-1] for line in said.splitlines() if line[:9].strip() and " c " not in line[9:12]]
    present = [p for p in changed if Path(p).exists()]
    return fail(f"changed: {' '.join(present)}", "as packaged") if present else passed("as packaged")


def filesystem(want: Mapping[str, Any]) -> Outcome:
    """``want.separate``: directories that are file systems of their own."""
    points = {line.split()[4] for line in MOUNTS.read_text().splitlines()}
    missing = [p for p in want["separate"] if p not in points]
    if missing == list(want["separate"]) and run(["systemd-detect-virt", "--container"], ok=(0, 1)).returncode == 0:
        return not_applicable("a container has its host's file systems")
    return of_faults([f"{p} shares the root's" for p in missing], " ".join(want["separate"]))


def _walk(skip: tuple[str, ...]) -> Iterator[tuple[str, os.stat_result]]:
    """Every entry of the local file systems, links not followed; directories of other file systems are left alone."""
    roots = [line.split()[4] for line in MOUNTS.read_text().splitlines() if _kind(line) in _LOCAL and _writable(line)]
    shut = {*skip, *(line.split()[4] for line in MOUNTS.read_text().splitlines())}
    n = 0
    for root in sorted(set(roots) | {"/"}):
        if any(root == s or root.startswith(f"{s}/") for s in skip):
            continue
        stack = [root]
        while stack:
            try:
                entries = list(os.scandir(stack.pop()))
            except OSError:
                continue
            for entry in entries:
                n += 1
                if n > MOST_FILES:
                    raise ValueError(f"more than {MOST_FILES} files")
                try:
                    found = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if entry.path in shut:
                    continue
                yield entry.path, found
                if stat.S_ISDIR(found.st_mode):
                    stack.append(entry.path)


def _kind(line: str) -> str:
    return line.partition(" - ")[2].split()[0]


def _writable(line: str) -> bool:
    return "rw" in line.split()[5].split(",")


def _packaged(path: str) -> bool:
    # Since /usr was merged, a package may know a program by either name.
    names = [path, path.removeprefix("/usr")] if path.startswith("/usr/") else [path, f"/usr{path}"]
    return any(
        run(["dpkg-query", "-S", name], ok=(0, 1), timeout_s=60, package="dpkg").returncode == 0 for name in names
    )


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


CHECKS = {
    "modes": modes, "contents": contents, "mounts": mounts, "set_ids": set_ids, "world_writable": world_writable,
    "unowned": unowned, "packages_intact": packages_intact, "filesystem": filesystem,
}  # fmt: skip
