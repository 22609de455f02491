"""Filters of the os_baseline role: which controls apply, what is wrong with variables, the policy for the node."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from engine.baseline import policy

KEY = re.compile(
    r"(ssh-ed25519|sk-ssh-ed25519@openssh\.com|ecdsa-sha2-nistp\d+|sk-ecdsa-sha2-nistp256@openssh\.com|ssh-rsa) [A-Za-z0-9+/=]+( .*)?"
)
NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")
HASH = re.compile(r"\$(y|gy|7|6|2b)\$[./A-Za-z0-9$=,]{20,200}")
ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:-]{0,250}")
SIZE = re.compile(r"[1-9]\d{0,5}[KMGT]")
SHORTEST_CONFIRM_S = 15


def os_baseline_selected(
    controls: Iterable[Mapping[str, Any]], level: int, enable: Iterable[str]
) -> list[dict[str, Any]]:
    """The controls that are switched on, waived or not."""
    asked = set(enable)
    return [dict(c) for c in controls if c["id"] in asked or (c.get("default", True) and c.get("level", 1) <= level)]


def os_baseline_active(
    selected: Iterable[Mapping[str, Any]], waivers: Iterable[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Those of them that the role applies: enforced and not waived."""
    waived = {w["control"] for w in waivers}
    return [dict(c) for c in selected if c["id"] not in waived and c.get("enforced", True)]


def os_baseline_of(controls: Iterable[Mapping[str, Any]], check: str) -> list[dict[str, Any]]:
    """Those of one kind."""
    return [dict(c) for c in controls if c["check"] == check]


def os_baseline_seen(controls: Iterable[Mapping[str, Any]], lines: Iterable[str]) -> list[dict[str, Any]]:
    """Files of ``modes`` controls that are there, as ``stat --format='%a %u %G %F|%n'`` says, and the mode they should have."""
    said = dict(reversed(line.split("|", 1)) for line in lines)
    found = []
    for want in (file for control in controls for file in control["want"]["files"] if "absent" not in file):
        if want["path"] in said:
            mode, uid, group, kind = said[want["path"]].split(" ", 3)
            found.append({
                "path": want["path"], "mode": f"{int(mode, 8):04o}", "narrow": f"{int(mode, 8) & int(want['mode'], 8):04o}", "uid": int(uid),
                "group": group, "groups": want.get("groups", ["root"]), "link": kind == "symbolic link",
            })  # fmt: skip
    return found


def os_baseline_self_mounts(
    wanted: Iterable[Mapping[str, Any]], mounts: str, units: Iterable[str]
) -> list[dict[str, Any]]:
    """Of places and their options (``key``, ``value``), those that a unit mounts over themselves: no file system yet, or such a unit's.

    Args:
        mounts: what /proc/self/mounts says.
        units: paths of the mount units that /etc has.
    """
    mounted = {words[1] for line in mounts.splitlines() if len(words := line.split()) > 1}
    ours = {path.rpartition("/")[2] for path in units}
    entries = ({"place": w["key"], "unit": w["key"].strip("/").replace("/", "-") + ".mount", "options": w["value"]} for w in wanted)  # fmt: skip
    return [e for e in entries if e["place"] not in mounted or e["unit"] in ours]


def os_baseline_policy(selected: Iterable[Mapping[str, Any]], waivers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """What the engine holds the node to."""
    kept = ("id", "title", "check", "want", "level", "enforced", "reboot")
    ids = {c["id"] for c in selected}
    return {
        "schema": 1,
        "controls": [{k: c[k] for k in kept if k in c} for c in selected],
        "waivers": [{k: str(v) for k, v in w.items()} for w in waivers if w["control"] in ids],
    }


def os_baseline_waiver_faults(waivers: Any, controls: Iterable[Mapping[str, Any]]) -> list[str]:
    """What is wrong with the waivers today."""
    return policy.waiver_faults(waivers, {c["id"] for c in controls}, datetime.now(UTC).date())


def os_baseline_faults(given: Mapping[str, Any], controls: Iterable[Mapping[str, Any]]) -> list[str]:
    """Everything else that is wrong with the variables, each as one sentence with the variable and the remedy."""
    prefix = "appliance_os_baseline_"
    known = {c["id"] for c in controls}
    faults = [
        f"{prefix}enable names {i}, which is no control: docs/baseline.md lists the ids."
        for i in given["enable"]
        if i not in known
    ]
    admins = list(given["admins"])
    for admin in admins:
        faults += _admin(f"{prefix}admins entry {admin.get('name')!r}", admin)
    if len({a.get("name") for a in admins}) != len(admins):
        faults.append(f"{prefix}admins names somebody twice: keep one entry.")
    if given["root_login"] == "no" and not any(a.get("sudo", "password") != "none" for a in admins):
        faults.append(f"{prefix}root_login is no and nobody may act as root: name an admin with sudo first.")
    faults += [
        f"{prefix}time_servers has {s!r}, which is no address or name: write it like 192.0.2.5."
        for s in given["time_servers"]
        if not ADDRESS.fullmatch(str(s))
    ]
    faults += [
        f"{prefix}{n} is {given[n]!r}: write a size like 1G."
        for n in ("journal_max", "journal_keep_free")
        if not SIZE.fullmatch(given[n])
    ]
    if given["log_host"] and not re.fullmatch(r"https://[A-Za-z0-9.:\[\]-]+", given["log_host"]):
        faults.append(f"{prefix}log_host is {given['log_host']!r}: write it like https://192.0.2.7:19532.")
    if int(given["confirm_timeout_s"]) < SHORTEST_CONFIRM_S:
        faults.append(
            f"{prefix}confirm_timeout_s is {given['confirm_timeout_s']}, too short to connect again: use at least {SHORTEST_CONFIRM_S}."
        )
    if re.search(r"\\|Debian|Ubuntu", given["banner"]) or not re.search(r"authori[sz]ed", given["banner"]):
        faults.append(f"{prefix}banner must say who is authorised, without backslashes and without the system's name.")
    return faults


def _admin(where: str, admin: Mapping[str, Any]) -> list[str]:
    faults = []
    if not NAME.fullmatch(str(admin.get("name"))) or admin.get("name") == "root":
        faults.append(f"{where}: use a login name of lower-case letters, digits, dashes and underscores, and not root.")
    if not admin.get("keys"):
        faults.append(f"{where} has no keys and could not log in: give public keys.")
    faults += [
        f"{where} has the key {str(k)[:40]!r}: give a public key as ssh-keygen writes it, without options."
        for k in admin.get("keys") or []
        if not KEY.fullmatch(str(k))
    ]
    if admin.get("password") and not HASH.fullmatch(str(admin["password"])):
        faults.append(
            f"{where} has a password that is no strong crypt hash: make one with `mkpasswd --method=yescrypt`."
        )
    return faults


class FilterModule:
    """What Ansible looks for."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        return {
            "os_baseline_selected": os_baseline_selected,
            "os_baseline_active": os_baseline_active,
            "os_baseline_of": os_baseline_of,
            "os_baseline_seen": os_baseline_seen,
            "os_baseline_self_mounts": os_baseline_self_mounts,
            "os_baseline_policy": os_baseline_policy,
            "os_baseline_waiver_faults": os_baseline_waiver_faults,
            "os_baseline_faults": os_baseline_faults,
        }
