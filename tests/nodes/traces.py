"""Everything on this host that a lab could leave behind, as lines that can be compared."""

from __future__ import annotations

from pathlib import Path

from engine.process import run
from installer.lab import state
from installer.lab.plan import names_of


def traces(name: str) -> set[str]:
    """Processes, mounts, interfaces, rules, control groups and files that carry the lab's name or its hash."""
    digest = names_of(name).machine_prefix
    found = {f"process {p}" for p in _processes(f"/{name}/", digest)}
    found |= {f"mount {m}" for m in Path("/proc/self/mountinfo").read_text().splitlines() if f"/{name}/" in m}
    found |= {f"interface {i.name}" for i in Path("/sys/class/net").iterdir() if digest in i.name}
    found |= {f"table {t}" for t in run(["nft", "list", "tables"]).stdout.splitlines() if digest in t}
    found |= {f"group {g}" for g in Path("/sys/fs/cgroup").rglob(f"apl-{digest}")}
    places = [state.RUN, state.DISK, *(Path("/run/systemd/nspawn") / p for p in ("propagate", "unix-export"))]
    for place in places:
        if place.is_dir():
            found |= {f"file {f}" for f in place.iterdir() if name in f.name or digest in f.name}
    return found


def nspawn_locks() -> set[str]:
    """Lock files that systemd-nspawn keeps by inode; they carry no name."""
    place = Path("/run/systemd/nspawn/locks")
    return {f.name for f in place.iterdir()} if place.is_dir() else set()


def _processes(*words: str) -> set[str]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except (FileNotFoundError, ProcessLookupError):
                continue
            if any(w in line for w in words):
                found.add(f"{entry.name} {line}")
    return found
