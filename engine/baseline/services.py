"""What runs and what does not: units, packages, apt's own habits, the journal, the clock."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine.baseline.outcome import FAIL, Outcome, fail, not_applicable, of_faults, passed
from engine.process import run

TIMEOUT_S = 60.0
_FACTOR = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def units(want: Mapping[str, Any]) -> Outcome:
    """``want.off``: units that neither run nor can be started; ``want.on``: units that run, where this system may run them."""
    faults, good = [], []
    for unit in want.get("off", []):
        state = show(unit, "LoadState", "ActiveState")
        if state["LoadState"] not in ("masked", "not-found") or state["ActiveState"] == "active":
            faults.append(f"{unit} is {state['LoadState']} and {state['ActiveState']}, wanted masked")
    for unit in want.get("on", []):
        state = show(unit, "LoadState", "ActiveState", "ConditionResult", "UnitFileState")
        if state["ActiveState"] == "active":
            good.append(f"{unit} active")
        elif (
            state["LoadState"] == "loaded" and state["UnitFileState"] == "enabled" and state["ConditionResult"] == "no"
        ):
            good.append(f"{unit} enabled, but this system does not meet its conditions")
        else:
            faults.append(
                f"{unit} is {state['LoadState']}, {state['UnitFileState']} and {state['ActiveState']}, wanted active"
            )
    return of_faults(faults, "; ".join(good) or f"{len(want.get('off', []))} units masked")


def show(unit: str, *properties: str) -> dict[str, str]:
    """What systemd says of a unit, by property."""
    said = run(
        ["systemctl", "show", f"--property={','.join(properties)}", unit], timeout_s=TIMEOUT_S, package="systemd"
    ).stdout
    return dict.fromkeys(properties, "") | dict(line.partition("=")[::2] for line in said.splitlines())


def _unread(unit: str, *files: Path) -> list[str]:
    """Of ``files``, those that changed after ``unit`` started, so that it has not read them; none where it does not run."""
    state = show(unit, "ActiveState", "ExecMainStartTimestampMonotonic")
    if state["ActiveState"] != "active" or not state["ExecMainStartTimestampMonotonic"].isdigit():
        return []
    now = time.time()
    started = now - time.monotonic() + int(state["ExecMainStartTimestampMonotonic"]) / 1e6
    # A file from the future is one from before the clock was set back.
    late = [f for f in files if f.exists() and started < f.stat().st_mtime <= now]
    return [f"{unit} has not read {f}, which changed after it started" for f in late]


def daemons_of_container(want: Mapping[str, Any]) -> Outcome:
    """As ``units``, but not in a container, where these daemons have nothing to do."""
    kind = run(["systemd-detect-virt", "--container"], ok=(0, 1), timeout_s=TIMEOUT_S).stdout.strip()
    return units(want) if kind in ("", "none") else not_applicable(f"{kind}: belongs to its host")


def packages(want: Mapping[str, Any]) -> Outcome:
    """``want.absent`` and ``want.present``: names of packages."""
    said = run(
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Abbrev}\n"], timeout_s=TIMEOUT_S, package="dpkg"
    ).stdout
    have = {line.split()[0] for line in said.splitlines() if line.split()[1:2] == ["ii"]}
    faults = [f"{p} is installed" for p in want.get("absent", []) if p in have]
    faults += [f"{p} is not installed" for p in want.get("present", []) if p not in have]
    return of_faults(faults, "as wanted")


def apt(want: Mapping[str, Any]) -> Outcome:
    """``want.settings``: key to value as apt has them; ``want.listed``: key to a list that must be part of apt's.

    apt's own configuration counts, not that of the installer, which APT_CONFIG may name.
    """
    said = run(["apt-config", "dump"], env={"APT_CONFIG": ""}, timeout_s=TIMEOUT_S, package="apt").stdout
    rows = [(m[1], m[2]) for m in re.finditer(r'^(\S+) "(.*)";$', said, re.MULTILINE)]
    found = {k.lower(): v for k, v in rows}
    faults = [
        f"{key} is {found.get(key.lower(), 'not set')}, wanted {value}"
        for key, value in want.get("settings", {}).items()
        if found.get(key.lower()) != str(value)
    ]
    for key, values in want.get("listed", {}).items():
        have = {v for k, v in rows if k == f"{key}::"}
        faults += [f"{key} lacks {value}" for value in values if value not in have]
    return of_faults(faults, "as wanted")


def journal(want: Mapping[str, Any]) -> Outcome:
    """``want.settings``: settings of journald; ``want.most``: size it may have, such as 1G; it is on disk."""
    said = run(
        ["systemd-analyze", "cat-config", "systemd/journald.conf"], timeout_s=TIMEOUT_S, package="systemd"
    ).stdout
    found = dict(re.findall(r"^\s*([A-Za-z]+)\s*=\s*(.*?)\s*$", said, re.MULTILINE))
    faults = [
        f"{k} is {found.get(k, 'not set')}, wanted {v}"
        for k, v in want.get("settings", {}).items()
        if found.get(k) != str(v)
    ]
    machine = Path("/etc/machine-id").read_text().strip()
    files = list(Path("/var/log/journal", machine).glob("*.journal*"))
    size = sum(f.stat().st_size for f in files)
    faults += _unread("systemd-journald.service", *Path("/etc/systemd/journald.conf.d").glob("*.conf"))
    if not files:
        faults.append("nothing is kept in /var/log/journal")
    if size > (most := _bytes(want["most"])):
        faults.append(f"it has {size:,} bytes, at most {most:,}")
    return of_faults(faults, f"{len(files)} files, {size:,} bytes")


def sealed(_: Mapping[str, Any]) -> Outcome:
    """The journal has sealing keys, so that its past cannot be changed unseen."""
    machine = Path("/etc/machine-id").read_text().strip()
    key = Path("/var/log/journal", machine, "fss")
    return passed(f"{key} is there") if key.exists() else fail(f"{key} is not there", "sealing keys")


def upload(want: Mapping[str, Any]) -> Outcome:
    """The journal goes to ``want.url``, over TLS, now."""
    said = run(
        ["systemd-analyze", "cat-config", "systemd/journal-upload.conf"], timeout_s=TIMEOUT_S, package="systemd"
    ).stdout
    urls = re.findall(r"^\s*URL\s*=\s*(\S+)", said, re.MULTILINE)
    state = show("systemd-journal-upload.service", "ActiveState")["ActiveState"]
    faults = [] if urls[-1:] == [want["url"]] else [f"it goes to {urls[-1] if urls else 'nobody'}"]
    if not want["url"].startswith("https://"):
        faults.append("it is not encrypted")
    if state != "active":
        faults.append(f"systemd-journal-upload is {state}")
    settings = [*Path("/etc/systemd/system/systemd-journal-upload.service.d").glob("*.conf")]
    faults += _unread("systemd-journal-upload.service", Path("/etc/systemd/journal-upload.conf"), *settings)
    return of_faults(faults, want["url"], want["url"])


def clock(want: Mapping[str, Any]) -> Outcome:
    """chrony asks ``want.servers`` and nobody else, and nobody else sets the clock."""
    said = run(["chronyd", "-p", "-f", "/etc/chrony/chrony.conf"], timeout_s=TIMEOUT_S, package="chrony").stdout
    lines = [line.split() for line in said.splitlines() if line.strip()]
    servers = [w[1] for w in lines if w[0] == "server"]
    faults = [f"{' '.join(w[:2])} is a source, too" for w in lines if w[0] in ("pool", "peer", "sourcedir")]
    if sorted(servers) != sorted(want["servers"]):
        faults.append(f"asks {' '.join(servers) or 'nobody'}, wanted {' '.join(want['servers'])}")
    for other in ("systemd-timesyncd.service", "ntpsec.service", "openntpd.service"):
        if show(other, "ActiveState")["ActiveState"] == "active":
            faults.append(f"{other} runs, too")
    faults += _unread("chrony.service", Path("/etc/chrony/chrony.conf"))
    return of_faults(faults, f"asks {' '.join(servers)}")


def usb_guard(want: Mapping[str, Any]) -> Outcome:
    """usbguard has ``want.settings``, and runs where USB devices are this system's own."""
    file = Path("/etc/usbguard/usbguard-daemon.conf")
    found = dict(re.findall(r"^([A-Za-z]+)=(.*?)\s*$", file.read_text(), re.MULTILINE))
    faults = [f"{k} is {found.get(k, 'not set')}, wanted {v}" for k, v in want["settings"].items() if found.get(k) != v]
    faults += _unread("usbguard.service", file, *Path("/etc/usbguard/rules.d").glob("*.conf"))
    if not Path("/sys/bus/usb").exists():
        return of_faults(faults, "the kernel has no USB")
    running = daemons_of_container({"on": ["usbguard.service"]})
    return of_faults([*faults, *([running.observed] if running.result == FAIL else [])], running.observed)


def manager(want: Mapping[str, Any]) -> Outcome:
    """``want``: property of systemd itself to its value."""
    said = run(["systemctl", "show", f"--property={','.join(want)}"], timeout_s=TIMEOUT_S, package="systemd").stdout
    found = dict(line.partition("=")[::2] for line in said.splitlines())
    faults = [f"{k} is {found.get(k)}, wanted {v}" for k, v in want.items() if found.get(k) != str(v)]
    return of_faults(faults, said.strip().replace("\n", "; "))


def _bytes(text: str) -> int:
    match = re.fullmatch(r"(\d+)([KMGT]?)", text)
    if not match:
        raise ValueError(f"{text} is no size")
    return int(match[1]) * _FACTOR[match[2]]


CHECKS = {
    "units": units, "host_units": daemons_of_container, "packages": packages, "apt": apt, "journal": journal,
    "sealed": sealed, "upload": upload, "clock": clock, "manager": manager,
    "usb_guard": usb_guard,
}  # fmt: skip
