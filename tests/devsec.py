"""dev-sec's judgement of a node, by a port of its profiles, and our waivers of it.

    python -m tests.devsec collect                      a program that a node's root gives to python3; it prints facts
    python -m tests.devsec judge facts.json [CONTROL…]  fails on what is neither met nor waived; what has its counterpart
                                                        in controls that this node waives counts as waived

Their own runner is Ruby and cannot be had here. tests/devsec.yml has every control of the profiles and says where it differs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from installer.site.baseline import TABLE
from tests import judges
from tests.demo import TREE
from tests.judges import Judgement, waived

CONTROLS = TREE / "tests/devsec.yml"
PROGRAM = TREE / "tests/devsec_node.py"
WAIVERS = TREE / "roles/os_baseline/files/devsec-waivers.yml"
HOSTS = ("kernel.", "fs.", "vm.", "dev.")  # in a container; net.* is its own
NOT_APPLICABLE = "notapplicable"

Facts = Mapping[str, Any]
Faults = list[str] | None  # None: there is nothing here to be judged


@dataclass(frozen=True)
class Finding:
    """What came of a control, and why if it did not pass."""

    result: str
    words: str = ""


def controls() -> list[dict[str, Any]]:
    """The table."""
    found: list[dict[str, Any]] = yaml.safe_load(CONTROLS.read_text())["controls"]
    return found


def program(table: Iterable[Mapping[str, Any]]) -> str:
    """What runs on the node: tests/devsec_node.py after what the table asks for."""
    keys: dict[str, set[str]] = {"sysctl": set(), "files": set(), "settings": set(), "set_ids": set()}
    for control in table:
        want = control.get("want", {})
        keys["sysctl"] |= {*want.get("sysctl", {}), *control.get("when", {})}
        keys["files"] |= {entry["path"] for entry in want.get("files", [])}
        keys["settings"] |= set(want.get("settings", {}))
        keys["set_ids"] |= set(want.get("set_ids", []))
    wanted = {kind: sorted(names) for kind, names in keys.items()}
    return f"WANTED = {wanted!r}\n{PROGRAM.read_text()}"


def contained(facts: Facts) -> bool:
    """Whether the kernel belongs to somebody else."""
    return facts["container"] not in ("", "none")


def sysctl(facts: Facts, want: Mapping[str, Any]) -> Faults:
    """Key to value, to several that do, or to how it starts. A key that a container may not write is its host's."""
    faults, own = [], False
    for key, value in want.items():
        if contained(facts) and (key.startswith(HOSTS) or key in facts["readonly"]):
            continue
        if key.startswith("net.ipv6.") and not facts["ipv6"]:
            continue
        own = True
        seen = facts["sysctl"][key]
        if isinstance(value, dict):
            good = seen is not None and seen.startswith(tuple(value["starts"]))
        else:
            good = seen in [str(v) for v in (value if isinstance(value, list) else [value])]
        if not good:
            faults.append(f"{key} is {seen}")
    return faults if own else None


def sshd(facts: Facts, want: Mapping[str, Any]) -> Faults:
    """Keyword to the value in force; ``any`` of several, ``all`` of several in any order, ``without`` some."""
    if facts["sshd"] is None:
        return None
    faults = []
    for keyword, value in want.items():
        seen = facts["sshd"].get(keyword.lower(), [])
        rule = value if isinstance(value, dict) else {"all": [str(value)]}
        good = bool(seen) and (
            set(seen) <= set(rule["any"]) if "any" in rule
            else not set(seen) & set(rule["without"]) if "without" in rule
            else sorted(seen) == sorted(rule["all"])
        )  # fmt: skip
        if not good:
            faults.append(f"{keyword} is {' '.join(seen) or 'not said'}")
    return faults


def files(facts: Facts, want: Sequence[Mapping[str, Any]]) -> Faults:
    """Of each path the type, owner, groups, and bits that its mode has at least and at most; or that it is absent."""
    faults = []
    for entry in want:
        path, seen = entry["path"], facts["files"][entry["path"]]
        if entry.get("absent"):
            faults += [] if seen is None else [f"{path} is there"]
        elif seen is None:
            faults += [] if entry.get("optional") else [f"{path} is not there"]
        else:
            mode, least, most = (int(m, 8) for m in (seen["mode"], entry.get("least", "0"), entry.get("most", "7777")))
            good = (
                entry.get("type", seen["type"]) == seen["type"]
                and entry.get("owner", seen["owner"]) == seen["owner"]
                and seen["group"] in entry.get("groups", [seen["group"]])
                and mode & least == least
                and not mode & ~most
            )
            faults += [] if good else [f"{path} is a {seen['type']} {seen['owner']}:{seen['group']} {seen['mode']}"]
    return faults


def settings(facts: Facts, want: Mapping[str, Mapping[str, Any]]) -> Faults:
    """File to key to value, whatever the case; ``any`` of several, or what it ``has`` in it."""
    faults = []
    for path, pairs in want.items():
        found = facts["settings"][path]
        if found is None:
            faults.append(f"{path} is not there")
            continue
        for key, value in pairs.items():
            seen = found.get(key)
            rule: dict[str, Any] = value if isinstance(value, dict) else {"any": [value]}
            small = (seen or "").lower()
            good = rule["has"].lower() in small if "has" in rule else small in [str(v).lower() for v in rule["any"]]
            if seen is None or not good:
                faults.append(f"{key} is {seen}")
    return faults


def packages(facts: Facts, want: Mapping[str, Sequence[str]]) -> Faults:
    """Names that are installed (``present``) and are not (``absent``)."""
    installed = set(facts["packages"])
    if not installed:
        return ["dpkg says nothing"]
    there = [f"{name} is installed" for name in want.get("absent", []) if name in installed]
    return there + [f"{name} is not installed" for name in want.get("present", []) if name not in installed]


def mounts(facts: Facts, want: Mapping[str, Sequence[str]]) -> Faults:
    """Option to the places that have it, where something is mounted there."""
    seen = facts["mounts"]
    return [f"{place} lacks {option}" for option, places in want.items() for place in places if place in seen and option not in seen[place]]  # fmt: skip


def set_ids(facts: Facts, want: Sequence[str]) -> Faults:
    """Programs that do not take another's rights."""
    return [f"{path} does" for path in facts["set_ids"] if path in want]


def modules(facts: Facts, want: Mapping[str, Sequence[str]]) -> Faults:
    """Modules in whose place something is run that does nothing; some only where firmware does not need them."""
    names = [*want["never"], *([] if facts["efi"] else want["without_efi"])]
    idle = ("/bin/true", "/bin/false", "/usr/bin/true", "/usr/bin/false")
    return [f"{name} can be loaded" for name in names if facts["modules"].get(name) not in idle]


def none(facts: Facts, want: Sequence[str]) -> Faults:
    """Facts that are empty lists."""
    return [f"{name}: {' '.join(facts[name])}" for name in want if facts[name]]


def processor(facts: Facts, want: Sequence[str]) -> Faults:
    """Flags of the processor."""
    return [f"no flag {flag}" for flag in want if flag not in facts["processor"]]


def ident(facts: Facts, want: Mapping[str, str]) -> Faults:
    """What sshd's first line to a caller ``lacks``."""
    seen = facts["ident"]
    if seen is None:
        return None
    return [] if seen.startswith("SSH-") and want["lacks"] not in seen else [f"it says {seen!r}"]


def primes(facts: Facts, want: Mapping[str, int]) -> Faults:
    """Bits of sshd's weakest prime."""
    if facts["sshd"] is None:
        return None
    return [] if (facts["primes"] or 0) >= want["least"] else [f"the weakest has {facts['primes']}"]


def commands(facts: Facts, want: Mapping[str, Sequence[str]]) -> Faults:
    """What no command line of a running sshd has."""
    if not facts["commands"]:
        return None
    return [line for line in facts["commands"] if any(word in line for word in want["lack"])]


KINDS: Mapping[str, Callable[[Facts, Any], Faults]] = {
    "sysctl": sysctl, "sshd": sshd, "files": files, "settings": settings, "packages": packages, "mounts": mounts,
    "set_ids": set_ids, "modules": modules, "none": none, "processor": processor, "ident": ident, "primes": primes,
    "commands": commands,
}  # fmt: skip


def find(facts: Facts, control: Mapping[str, Any]) -> Finding:
    """What comes of one control. A fact that is missing is one that could not be looked at."""
    if not control.get("applies", True):
        return Finding(NOT_APPLICABLE, control["reason"])
    if control.get("host") and contained(facts):
        return Finding(NOT_APPLICABLE, "belongs to the host")
    try:
        if "when" in control and sysctl(facts, control["when"]) != []:
            return Finding(NOT_APPLICABLE, "asks for nothing here")
        told = [KINDS[kind](facts, want) for kind, want in control["want"].items()]
    except KeyError as e:
        return Finding("error", f"no fact {e}")
    faults = [fault for part in told if part is not None for fault in part]
    if all(part is None for part in told):
        return Finding(NOT_APPLICABLE, "nothing of it is here")
    return Finding("fail", "; ".join(faults)) if faults else Finding("pass")


def judge(facts: Facts, table: Iterable[Mapping[str, Any]], waivers: Mapping[str, str]) -> Judgement:
    """What facts say beside the waivers."""
    return judges.judge({control["id"]: find(facts, control).result for control in table}, waivers)


def counterparts(names: Iterable[str]) -> dict[str, str]:
    """Ids of dev-sec that controls of the role stand for, to the control.

    Raises:
        KeyError: there is no such control.
    """
    known = {c["id"]: c.get("devsec", []) for c in yaml.safe_load(TABLE.read_text())["os_baseline_controls"]}
    return {rule: name for name in names for rule in known[name]}


def main(argv: list[str]) -> int:
    """The command; see the module's words."""
    table = controls()
    if argv == ["collect"]:
        print(program(table), end="")
        return 0
    if argv[:1] == ["judge"] and len(argv) > 1:
        facts = json.loads(Path(argv[1]).read_text())
        ours = waived(WAIVERS.read_text(), datetime.now(UTC).date())
        told = judge(facts, table, counterparts(argv[2:]) | ours)
        print(told.line())
        for control in table:
            if control["id"] in told.unwaived:
                print(f"{control['id']}: {find(facts, control).words}")
        return 0 if told.good else 1
    raise SystemExit(__doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
