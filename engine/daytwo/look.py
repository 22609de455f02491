"""How a node is: release, services, certificates, firewall, disks. Quick, and nothing is changed."""

from __future__ import annotations

import json
import os
import platform
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.chat import folder_has_template
from engine.errors import ApplianceError
from engine.firewall import Firewall
from engine.placement import record
from engine.pooling import Task
from engine.preflight.gather import gather
from engine.preflight.reading import text
from engine.probe import ask_token
from engine.process import run
from engine.serving import services

DEADLINE_S = 20.0
TOKEN_S = 12.0  # a service that needs longer for one token is as good as away
OPT = Path("/opt/appliance")
PKI = Path("/etc/appliance/pki")
UNITS = Path("/etc/systemd/system")
CONFIGURATIONS = Path("/etc/appliance/vllm")
VERIFICATION = Path("/var/lib/appliance/verification/state.json")
DUE = Path("/var/lib/appliance/reboot-due")  # of the role nvidia_driver
PLACES = ("/", "/opt/appliance", "/var/lib/appliance", "/var/lib/appliance/blobs", "/var/log")
MAX_PEM = 256 << 10  # bytes; a list of a thousand revocations is 60 kB
MAX_YAML = 1 << 20
_SHOWN = "Id,ActiveState,SubState,Result,NRestarts,ActiveEnterTimestamp,UnitFileState,MainPID"


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """All of it. ``question["services"]`` names the served models to ask for a token, as {unit's instance: served name}, ``tasks``
    what those do that do not generate."""
    looks: dict[str, Callable[[], Any]] = {
        "release": release,
        "units": units,
        "services": started,
        "placement": record.read,
        "tokens": lambda: tokens(question.get("services", {}), question.get("tasks", {})),
        "certificates": certificates,
        "firewall": firewall,
        "system": system,
        "disks": disks,
        "verification": verification,
    }
    return gather(looks, DEADLINE_S)


def release() -> dict[str, str]:
    """Names of the release and, where the node knows them, of the generation in use, and the version of the release's engine; empty where
    there is none."""
    return {
        "current": _name(OPT / "current"),
        "generation": _name(OPT / "generations" / "current"),
        "engine": engine_version(OPT / "current" / "engine"),
    }


def engine_version(environment: Path) -> str:
    """The version of the engine in an environment of Python, from the record of its installation."""
    found = sorted(environment.glob("lib/python3*/site-packages/appliance_engine-*.dist-info"))
    return found[0].name.removeprefix("appliance_engine-").removesuffix(".dist-info") if found else ""


def units() -> list[dict[str, Any]]:
    """Every unit of ours that systemd has loaded or that lies on disk."""
    names = [p.name for p in UNITS.glob("appliance-*") if p.suffix in (".service", ".timer") and "@." not in p.name]
    listed = run(["systemctl", "list-units", "--all", "--plain", "--no-legend", "appliance-*", "opt-appliance-*.mount"])
    names += [line.split()[0] for line in listed.stdout.splitlines() if line.split()]
    wanted = sorted({n for n in names if n.rpartition(".")[2] in ("service", "timer", "mount", "socket", "path")})
    if not wanted:
        return []
    done = run(["systemctl", "show", "--timestamp=unix", f"--property={_SHOWN}", "--", *wanted])
    return [_unit(block) for block in done.stdout.split("\n\n") if block.strip()]


def started() -> list[dict[str, Any]]:
    """Whether each service runs with what is written for it, and whether it can compile."""
    return [asdict(s) for s in services()]


def tokens(asked: Mapping[str, str], tasks: Mapping[str, Task] | None = None) -> list[dict[str, Any]]:
    """One generated token of every service, or what it makes instead, through its own socket."""
    found = []
    for name, served in sorted(asked.items()):
        socket = Path("/run/appliance-vllm") / name / "api.sock"
        try:
            told = ask_token(socket, served, TOKEN_S, chats=_chats(name), task=(tasks or {}).get(name, ""))
            found.append({"service": name, "seconds": told.seconds, "error": "", "endpoint": told.endpoint})
        except ApplianceError as error:
            found.append({"service": name, "seconds": 0.0, "error": error.what})
    return found


def _chats(service: str) -> bool:
    """Whether the model that the service was configured with has a chat template."""
    named = re.search(r"^model: (\".*\")$", text(CONFIGURATIONS / f"{service}.yaml", MAX_YAML), re.MULTILINE)
    try:
        return named is not None and folder_has_template(Path(json.loads(named[1])))
    except (OSError, ValueError):
        return False  # the service itself will say what is wrong with its model


def certificates() -> dict[str, str]:
    """The public files as they are; who asked can read them better."""
    return {name: text(PKI / name, MAX_PEM) for name in ("node.crt", "ca.crt", "crl.pem")}


def firewall() -> dict[str, Any]:
    """What is in force, what was refused so far, and the last change."""
    told = Firewall().status()
    refused = {name: count["packets"] for name, count in told["counters"].items() if "denied" in name}
    last = told["last"] or {}
    return {
        "loaded": told["loaded"],
        "pending": bool(told["pending"]),
        "unguarded": told["unguarded"],
        "refused": refused,
        "last": {key: str(last.get(key, "")) for key in ("outcome", "applied_at", "noted_at", "digest")},
    }


def system() -> dict[str, Any]:
    """Clock, uptime, and whether a restart is due: because a package asked for it, or a newer kernel waits."""
    reasons = []
    if Path("/run/reboot-required").exists():
        packages = text("/run/reboot-required.pkgs", 4096).split()
        reasons.append("asked for by " + (", ".join(sorted(set(packages))[:8]) or "a package"))
    if due := text(str(DUE), 4096).strip():
        reasons.extend(due.splitlines())
    running = platform.release()
    waiting = newest_kernel()
    if waiting and waiting != running and (Path("/lib/modules") / running).is_dir():
        reasons.append(f"kernel {waiting} is installed, {running} runs")
    return {
        "time": time.time(),
        "uptime_s": float(text("/proc/uptime").split()[0]),
        "kernel": running,
        "reboot": reasons,
    }


def newest_kernel() -> str:
    """Version of the kernel that the next boot takes; empty where the system keeps no such link."""
    target = _link(Path("/vmlinuz")) or _link(Path("/boot/vmlinuz"))
    found = re.search(r"vmlinuz-(.+)$", target)
    return found[1] if found else ""


def disks() -> list[dict[str, Any]]:
    """Every file system that we write to, once."""
    found: dict[int, dict[str, Any]] = {}
    for place in PLACES:
        try:
            device, space = os.stat(place).st_dev, os.statvfs(place)
        except OSError:
            continue
        size, free = space.f_blocks * space.f_frsize, space.f_bavail * space.f_frsize
        found.setdefault(device, {"path": place, "size": size, "free": free, "inodes_free": space.f_favail})
    return list(found.values())


def verification() -> dict[str, Any]:
    """What the node's own scheduled verification of its content found: when it last ended, what is bad. Empty where there is none."""
    if not VERIFICATION.is_file():
        return {}
    try:
        said = json.loads(text(VERIFICATION))
        last, bad = said["last"] or {}, len(said["bad"])
        return {
            "ended": str(last.get("ended", "")),
            "running": said["running"] is not None,
            "bad": bad,
            "good": bad == 0,
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return {"good": False, "bad": 0, "ended": "", "running": False, "trouble": "its record cannot be read"}


def _unit(block: str) -> dict[str, Any]:
    said = dict(line.partition("=")[::2] for line in block.splitlines() if "=" in line)
    since = said.get("ActiveEnterTimestamp", "").lstrip("@")
    return {
        "name": said.get("Id", ""),
        "active": said.get("ActiveState", ""),
        "sub": said.get("SubState", ""),
        "result": said.get("Result", ""),
        "enabled": said.get("UnitFileState", ""),
        "since": int(since) if since.isdigit() else 0,
        "restarts": int(said.get("NRestarts", "0") or 0) if said.get("NRestarts", "0").isdigit() else 0,
    }


def _name(path: Path) -> str:
    return os.path.basename(_link(path)) or (text(path, 256) if path.is_file() else "")


def _link(path: Path) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""
