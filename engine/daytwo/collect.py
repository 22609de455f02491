"""What a support person needs from this node, without secrets. Reads only what is named here; redacted before it leaves."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from engine.daytwo import look, packages
from engine.daytwo.redact import redacted
from engine.errors import ApplianceError
from engine.preflight import gather
from engine.preflight.reading import text
from engine.process import run

MAX_TEXT = 200 << 10  # bytes of one text; the newest end of what is longer
MAX_FILES = 200
JOURNAL_LINES = 1500
KERNEL_LINES = 20000
CONFIG = (
    (
        "/etc/appliance",
        ("*.conf", "*.nft", "*.yaml", "*.yml", "*.env", "*.sources", "*.crt", "crl.pem", "*.toml", "*.json"),
    ),
    ("/etc/systemd/system", ("appliance-*", "opt-appliance-*", "instance.conf")),
)
OURS = re.compile(
    r"^(nginx|nftables|libnginx|nvidia|libnvidia|cuda|datacenter-gpu|dcgm|libnuma1|python3(\.\d+)?$|python3-apt|linux-image|systemd$|"
    r"openssh-server|podman|crun|conmon|netavark|prometheus|libc6$|libssl3|openssl)"
)
KERNEL = re.compile(r"Xid|NVRM|nvidia|mce:|EDAC|I/O error|EXT4-fs|XFS|nvme|Out of memory|oom-kill|segfault|hung task|nf_tables|soft lockup", re.IGNORECASE)  # fmt: skip


def answer(question: Mapping[str, Any]) -> dict[str, Any]:
    """``files`` by name, ``removed`` by name and kind, ``troubles``. ``question`` holds ``services`` and ``preflight``."""
    troubles: dict[str, str] = {}
    found = {name: held for name, held in _texts(question, troubles) if held}
    clean, removed = redacted(found, _learn_only())
    return {"files": clean, "removed": removed, "troubles": troubles}


def _texts(question: Mapping[str, Any], troubles: dict[str, str]) -> Iterable[tuple[str, str]]:
    facts = look.answer(question)
    troubles.update(facts.pop("troubles"))
    certificates = facts.pop("certificates") or {}
    yield "status.json", _document(facts)
    for name, held in certificates.items():
        yield f"config/etc/appliance/pki/{name}", held
    if question.get("preflight"):
        asked = gather.probes(gather.question_of(question["preflight"]))
        yield "preflight.json", _document(gather.gather(asked, 20.0))
    names = [u["name"] for u in facts["units"] or []]
    commands: dict[str, list[str]] = {
        "units.txt": ["systemctl", "list-units", "--all", "--plain", "--no-legend", "appliance-*", "opt-appliance-*"],
        "failed.txt": ["systemctl", "list-units", "--failed", "--plain", "--no-legend"],
        "tables.txt": ["nft", "list", "tables"],
        "rules-inet.txt": ["nft", "list", "table", "inet", "appliance"],
        "rules-netdev.txt": ["nft", "list", "table", "netdev", "appliance"],
        "disks.txt": ["df", "-k", "--output=target,size,avail,pcent,fstype", "--local"],
        "held.txt": ["apt-mark", "showhold"],
        "addresses.txt": ["ip", "-brief", "address"],
        "routes.txt": ["ip", "route"],
    }
    for name in names:
        commands[f"journal/{name}.txt"] = [
            "journalctl",
            "--no-pager",
            "--output=short-iso",
            f"--lines={JOURNAL_LINES}",
            f"--unit={name}",
        ]
        commands[f"show/{name}.txt"] = ["systemctl", "show", name]
    for name, argv in commands.items():
        said = _said(argv, troubles)
        yield name, said
    shown = ["dpkg-query", "--show", "--showformat=${Package} ${Version} ${db:Status-Abbrev}\\n"]
    versions = _said(shown, troubles).splitlines()
    ours = set(packages.installed_by_us())
    yield "packages.txt", "\n".join(v for v in versions if OURS.search(v) or v.split(" ")[0] in ours)
    kernel = _said(["journalctl", "--no-pager", "--output=short-iso", "--dmesg", f"--lines={KERNEL_LINES}"], troubles)
    yield "kernel.txt", "\n".join(line for line in kernel.splitlines() if KERNEL.search(line))
    yield "nginx-error.txt", _tail(text("/var/log/nginx/error.log", MAX_TEXT * 4))
    yield "releases.txt", "\n".join(_listing(Path("/opt/appliance")))
    for path in _configuration():
        yield f"config{path}", text(path, MAX_TEXT)


def _configuration() -> list[Path]:
    """Files of ours of the kinds that hold settings. Links are not followed, keys are of no such kind."""
    found = []
    for base, patterns in CONFIG:
        for folder, _, names in os.walk(base):
            for name in names:
                path = Path(folder) / name
                ours = base != "/etc/systemd/system" or "appliance-" in str(path.relative_to(base))
                if ours and not path.is_symlink() and path.is_file() and any(path.match(p) for p in patterns):
                    found.append(path)
    return sorted(found)[:MAX_FILES]


def _learn_only() -> Iterable[str]:
    """Where secrets of our services stand that turn up in their logs: the environment of their processes, what the package's nginx reads."""
    listed = run(
        ["systemctl", "list-units", "--plain", "--no-legend", "--type=service", "appliance-*"], ok=(0, 1)
    ).stdout
    for line in listed.splitlines():
        if line.split():
            process = run(
                ["systemctl", "show", "--property=MainPID", "--value", line.split()[0]], ok=(0, 1)
            ).stdout.strip()
            if process.isdigit() and process != "0":
                yield text(f"/proc/{process}/environ", MAX_TEXT).replace("\0", "\n")
    for place in ("/etc/nginx", "/etc/appliance"):
        for folder, _, names in os.walk(place):
            for name in sorted(names)[:MAX_FILES]:
                path = Path(folder) / name
                if path.is_file() and not path.is_symlink() and path.stat().st_size <= MAX_TEXT:
                    yield text(path, MAX_TEXT)


def _said(argv: list[str], troubles: dict[str, str]) -> str:
    try:
        return _tail(run(argv, timeout_s=20).stdout)
    except ApplianceError as error:
        troubles[" ".join(argv[:3])] = error.what[:300]
        return ""


def _tail(held: str) -> str:
    """The newest end, from the beginning of a line."""
    return held if len(held) <= MAX_TEXT else held[-MAX_TEXT:].partition("\n")[2]


def _listing(base: Path) -> list[str]:
    if not base.is_dir():
        return []
    entries = [
        *base.iterdir(),
        *(p for d in ("releases", "generations", "runtimes") if (base / d).is_dir() for p in (base / d).iterdir()),
    ]
    return sorted(f"{p} -> {os.readlink(p)}" if p.is_symlink() else str(p) for p in entries)


def _document(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True) + "\n"
