"""Filters of the os_baseline role: which controls apply, what is wrong with variables, the policy for the node."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from engine.baseline import policy
from engine.rules import baseline


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
    return [f.sentence("appliance_os_baseline_") for f in baseline.baseline(given, {c["id"] for c in controls})]


def os_baseline_login_faults(
    user: str, admins: Iterable[Mapping[str, Any]], ssh_users: Iterable[str], root_login: str
) -> list[str]:
    """Whether sshd would shut out the account that this run logs in as."""
    return [f.sentence("appliance_os_baseline_") for f in baseline.lets_in(user, admins, ssh_users, root_login)]


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
            "os_baseline_login_faults": os_baseline_login_faults,
        }
