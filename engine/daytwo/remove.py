"""Take away from this node what the roles brought, and nothing else.

What is ours stands in the roles' own declarations (roles/ROLE/meta/owns.yml), which arrive as the question. Services end first,
files go next, then users, and the firewall is the last: while anything of ours runs, the node is as shut as it was.
The only searches are for units of declared names in systemd's own list and for mounts below declared directories.
"""

from __future__ import annotations

import fnmatch
import grp
import os
import pwd
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine.daytwo import packages
from engine.errors import ApplianceError, InputError
from engine.process import run

UNITS = Path("/etc/systemd/system")
STOP_S = 900.0  # services drain; each unit's own TimeoutStopSec is the real bound
KINDS = (
    "units", "masks", "instances", "files", "directories", "models", "parents", "users", "groups", "nft_tables", "packages", "keeps",
)  # fmt: skip


@dataclass
class Removal:
    """What is done, as lines for people. With ``check`` nothing is done and the lines say what would be."""

    check: bool
    done: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def step(self, line: str) -> bool:
        """Write the step down; whether to do it."""
        self.done.append(line)
        return not self.check


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """``question``: ``owns`` (declarations in the order of the install), ``check``, ``keep_models``, ``packages`` (remove them, too).

    Raises:
        InputError: a declaration names what no role can own, or somebody else's disk is mounted in one of our directories.
        ApplianceError: a unit does not stop; then nothing after it was done.
    """
    owns = [_checked(o) for o in reversed(question["owns"])]
    removal = Removal(bool(question.get("check")))
    keep = bool(question.get("keep_models"))
    _no_strangers(owns, keep)
    history = packages.installed_by_us()  # before its record goes with the rest
    used = _used(owns, history) if question.get("packages") else set()
    going = packages.removable([p for p in history if p not in used]) if question.get("packages") else ()
    _units(owns, removal)
    for own in owns:
        _files(own, removal)
    for own in owns:
        _trees(own, keep, removal)
    for own in owns:
        for name in own["users"]:
            _user(name, removal)
    for own in owns:
        for name in own["groups"]:
            _group(name, removal)
    for own in owns:  # the last of what guards and serves
        _tables(own, removal)
    _packages(history, going, used, removal)
    _masks(owns, history, going, removal)
    for own in owns:
        for path in own["parents"]:
            _parent(Path(path), removal)
        removal.left += [f"{path}: kept, see the role's declaration" for path in own["keeps"] if os.path.lexists(path)]
    if keep:
        removal.left += [
            f"{path}: models, kept as asked" for o in owns for path in o["models"] if os.path.lexists(path)
        ]
    return {"changed": len(removal.done), "done": removal.done, "left": removal.left}


def _checked(own: Mapping[str, Any]) -> dict[str, Any]:
    """A declaration with every kind present and every path fit to be removed by a machine."""
    if unknown := sorted(set(own) - set(KINDS) - {"role"}):
        raise InputError(f"a role declares {unknown[0]}, which uninstall does not know", where=str(own.get("role", "")))
    whole = {kind: list(own.get(kind) or []) for kind in KINDS}
    for kind in ("files", "directories", "models", "parents"):
        for path in whole[kind]:
            plain = os.path.normpath(path) == path and path.startswith("/") and not set("*?[") & set(path)
            if not plain or path.count("/") < 2:
                raise InputError(f"{path!r} cannot be owned by a role", where=str(own.get("role", "")))
    return {**whole, "role": str(own.get("role", ""))}


# -- services ---------------------------------------------------------------------------------------
def _units(owns: Sequence[Mapping[str, Any]], removal: Removal) -> None:
    """Stop and disable, role by role from the outside in; the firewall's unit only forgets to start at boot."""
    changed = False
    for own in owns:
        here = sorted(_present(own["units"] + own["instances"]))
        running = [name for name in here if _is("is-active", name) not in ("inactive", "failed", "unknown")]
        for name in running:
            if removal.step(f"stop {name}"):
                run(["systemctl", "stop", name], timeout_s=STOP_S)
        for name in here:
            if _is("is-enabled", name) in ("enabled", "enabled-runtime") and removal.step(f"disable {name}"):
                run(["systemctl", "disable", "--quiet", name])
            if not removal.check and _is("is-failed", name) == "failed":
                run(["systemctl", "reset-failed", name], ok=(0, 1))
    for own in owns:
        for name in sorted(_files_of(own["units"])):
            if removal.step(f"remove {UNITS / name}"):
                _delete(UNITS / name)
                changed = True
    if changed:
        run(["systemctl", "daemon-reload"])


def _present(patterns: Iterable[str]) -> set[str]:
    """Units of those names that systemd has loaded or finds on disk."""
    wanted = [p for p in patterns if "@." not in p and not p.endswith(".d")]
    if not wanted:
        return set()
    found = set()
    for verb in ("list-units", "list-unit-files"):
        listed = run(["systemctl", verb, "--all", "--plain", "--no-legend", *wanted], ok=(0, 1)).stdout
        found |= {line.split()[0] for line in listed.splitlines() if line.split()}
    return {n for n in found if any(fnmatch.fnmatchcase(n, p) for p in wanted) and "@." not in n}


def _files_of(patterns: Iterable[str]) -> set[str]:
    """Unit files and drop-in directories of those names that lie where roles put them, and are no masks."""
    names = os.listdir(UNITS)
    return {n for n in names for p in patterns if fnmatch.fnmatchcase(n, p) and not (UNITS / n).is_symlink()}


def _is(question: str, unit: str) -> str:
    return run(["systemctl", question, unit], ok=(0, 1, 2, 3, 4)).stdout.strip()


def _masks(owns: Sequence[Mapping[str, Any]], history: Sequence[str], going: Sequence[str], removal: Removal) -> None:
    """A mask is ours where the package was; while the package stays, the mask stays: it would start at the next boot."""
    for own in owns:
        for mask in own["masks"]:
            unit, package = UNITS / mask["unit"], mask["package"]
            if package not in history or not unit.is_symlink() or os.readlink(unit) != "/dev/null":
                continue
            if package not in going and packages.is_installed(package):
                removal.left.append(f"{unit}: stays masked while the package {package} stays; --packages removes both")
            elif removal.step(f"unmask {mask['unit']}"):
                run(["systemctl", "unmask", "--quiet", mask["unit"]])


def _used(owns: Sequence[Mapping[str, Any]], history: Sequence[str]) -> set[str]:
    """Packages of ours that the operator has put to use: a unit of theirs runs or is to run, or nft holds tables of others."""
    used = {name for name in history if packages.in_use(name)}
    ours = {f"table {table}" for own in owns for table in own["nft_tables"]}
    if "nftables" in history and set(_listed_tables()) - ours:
        used.add("nftables")
    return used


def _packages(history: Sequence[str], going: Sequence[str], used: set[str], removal: Removal) -> None:
    for name in history:
        if packages.is_installed(name) and name not in going:
            removal.left.append(f"package {name}: came with us; {'in use' if name in used else 'left'}")
    if going and removal.step(f"remove packages {' '.join(going)}"):
        packages.remove(going)
    if packages.HISTORY.exists():
        if any(packages.is_installed(name) for name in history if not (removal.check and name in going)):
            removal.left.append(f"{packages.HISTORY}: the record of these packages")
        elif removal.step(f"remove {packages.HISTORY}"):
            packages.HISTORY.unlink()


# -- files ------------------------------------------------------------------------------------------
def _files(own: Mapping[str, Any], removal: Removal) -> None:
    for path in own["files"]:
        if path != str(packages.HISTORY) and os.path.lexists(path) and removal.step(f"remove {path}"):
            _delete(Path(path))


def _trees(own: Mapping[str, Any], keep: bool, removal: Removal) -> None:
    for path in (*own["directories"], *(() if keep else own["models"])):
        if not os.path.lexists(path):
            continue
        if os.path.ismount(path):  # somebody gave us a disk: it is emptied, not taken away
            inside = sorted(os.scandir(path), key=lambda e: e.name)
            for entry in inside:
                if entry.name != "lost+found" and removal.step(f"remove {entry.path}"):
                    _delete(Path(entry.path))
        elif removal.step(f"remove {path}"):
            _delete(Path(path))


def _delete(path: Path) -> None:
    """A file, a link or a whole directory; links are removed and never followed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _parent(path: Path, removal: Removal) -> None:
    """Gone when nothing is in it; what somebody else put there keeps it."""
    if path.is_symlink() or not path.is_dir():
        return
    if not removal.check and not any(path.iterdir()) and not os.path.ismount(path):
        removal.step(f"remove {path}")
        path.rmdir()
    elif not removal.check:
        removal.left.append(f"{path}: not empty ({', '.join(sorted(os.listdir(path))[:4])})")


def _no_strangers(owns: Sequence[Mapping[str, Any]], keep: bool) -> None:
    """Refuse before anything is done when a disk that no unit of ours mounted lies below what would be removed."""
    units = {p for own in owns for p in own["units"] if p.endswith(".mount")}
    ours = {_unit_path(n) for n in _present(units)}
    trees = [p for own in owns for p in (*own["directories"], *(() if keep else own["models"]))]
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        point = line.split()[4].encode().decode("unicode_escape")
        if point not in ours and any(point.startswith(tree + "/") for tree in trees):
            raise InputError(
                "a file system is mounted below a directory that would be removed",
                where=point,
                remedy="Unmount it, or move its mount point, and run uninstall again; nothing was done.",
            )


def _unit_path(unit: str) -> str:
    return "/" + unit.removesuffix(".mount").replace("\\x2d", "\0").replace("-", "/").replace("\0", "-")


# -- users, groups, rules ---------------------------------------------------------------------------
def _user(name: str, removal: Removal) -> None:
    try:
        entry = pwd.getpwnam(name)
    except KeyError:
        return
    if entry.pw_uid >= 1000 and name != "nobody":
        removal.left.append(f"user {name}: not a system user, so not made by a role")
    elif removal.step(f"remove user {name}"):
        run(["userdel", name], ok=(0, 12))  # 12: its home cannot be removed; it has none


def _group(name: str, removal: Removal) -> None:
    try:
        number = grp.getgrnam(name).gr_gid
    except KeyError:
        return
    # In a dry run our own users are still here.
    others = [] if removal.check else [u.pw_name for u in pwd.getpwall() if u.pw_gid == number]
    if others:
        removal.left.append(f"group {name}: the main group of {', '.join(others)}")
    elif removal.step(f"remove group {name}"):
        run(["groupdel", name])


def _tables(own: Mapping[str, Any], removal: Removal) -> None:
    for table in own["nft_tables"]:
        if f"table {table}" in _listed_tables() and removal.step(f"remove nft table {table}"):
            run(["nft", "delete", "table", *table.split()])
            if f"table {table}" in _listed_tables():
                raise ApplianceError(f"the table {table} is still there", remedy="Remove it by hand: nft delete table.")


def _listed_tables() -> list[str]:
    """Every table as ``table FAMILY NAME``; none where there is no nft."""
    if shutil.which("nft", path="/usr/sbin:/sbin:/usr/bin") is None:
        return []
    return run(["nft", "list", "tables"]).stdout.splitlines()
