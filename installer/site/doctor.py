"""`appliance doctor`: one file with what a support person needs, and without secrets.

Every text is on a list of what is collected; nodes redact theirs before they send them, and everything is redacted once more here.
The file is a tar archive in name order with fixed times, so that two bundles of the same state differ in what they say alone.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import re
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import installer
from engine import durable, strictjson
from engine.daytwo.redact import redacted
from engine.errors import ApplianceError, InputError
from engine.process import run
from engine.report import Report
from installer.site import errand, needs, records, services
from installer.site.errand import Reply, Send
from installer.site.inventory import Host, Inventory
from installer.site.status import Places

TIMEOUT_S = 120.0
MAX_OUTPUT = 48 << 20  # bytes of one node
MAX_FILES = 1000
RUNS = 5  # newest reports that are taken
LEVEL = 9
ENDING = ".tar.gz"  # what tar opens on every system without another package
_NAME = re.compile(r"[A-Za-z0-9@_.:\\+-]+(/[A-Za-z0-9@_.:\\+-]+)*")


@dataclass(frozen=True)
class Diagnosis:
    """What is in the file: its entries, what was taken out of each, nodes that could not be asked."""

    out: Path
    size: int
    contents: list[dict[str, Any]]
    removed: Mapping[str, Mapping[str, int]]
    failures: tuple[Reply, ...]


def doctor(inventory: Inventory, places: Places, out: Path, report: Report, *, limit: tuple[str, ...] = (), send: Send | None = None) -> Diagnosis:  # fmt: skip
    """Ask every node at once and write ``out``.

    Raises:
        InputError: ``out`` is there already, or has another ending than .tar.gz.
    """
    if not out.name.endswith(ENDING):
        raise InputError(f"the file's name must end with {ENDING}", where=str(out), remedy=f"Give --out NAME{ENDING}.")
    if out.exists():
        raise InputError("there is such a file already", where=str(out), remedy="Name another one.")
    ask = send or _send

    def one(host: Host) -> Reply:
        reply = ask(host, errand.connection(inventory, host), "collect", _question(host, inventory))
        if reply.value is not None:  # who failed is told with the result, once
            report.say(f"{host.name}: collected")
        return reply

    replies = errand.everywhere(errand.nodes(inventory, limit), one)
    files = {f"control/{n}": t for n, t in control(inventory, places).items()}
    counts: dict[str, dict[str, int]] = {}
    for reply in replies:
        for name, text in _files(reply).items():
            files[f"nodes/{reply.node}/{name}"] = text
        for name, kinds in dict((reply.value or {}).get("removed") or {}).items():
            counts[f"nodes/{reply.node}/{name}"] = {str(k): int(n) for k, n in dict(kinds).items()}
    clean, again = redacted(files)
    for name, kinds in again.items():
        counts[name] = {k: kinds.get(k, 0) + counts.get(name, {}).get(k, 0) for k in {*kinds, *counts.get(name, {})}}
    data = {name: text.encode() for name, text in clean.items()}
    troubles = {r.node: r.what for r in replies if r.value is None} | {
        f"{r.node}: {k}": str(v) for r in replies if r.value for k, v in dict(r.value.get("troubles") or {}).items()
    }
    data["REMOVED.json"] = _document({n: dict(sorted(k.items())) for n, k in sorted(counts.items())})
    data["TROUBLES.json"] = _document(redacted({"t": json.dumps(troubles)})[0]["t"])
    contents = [{"path": n, "size": len(d), "sha256": hashlib.sha256(d).hexdigest()} for n, d in sorted(data.items())]
    data["CONTENTS.json"] = _document(contents)
    packed = gzip.compress(archive(data), LEVEL, mtime=0)
    durable.write(out, packed, mode=0o600)
    return Diagnosis(out, len(packed), contents, counts, tuple(r for r in replies if r.value is None))


def control(inventory: Inventory, places: Places) -> dict[str, str]:
    """What this host adds: the site as it was understood, records, reports, versions. No file of the inventory is copied."""
    hosts = [{"name": h.name, "address": h.address, "groups": list(h.groups)} for h in inventory.hosts]
    found = {
        "inventory.json": {"hosts": hosts, "site": inventory.shown()},
        "records.json": records.control(places.depot, places.ca, places.runs),
        "versions.json": _versions(),
    }
    texts = {name: _document(value).decode() for name, value in found.items()}
    reports = sorted(places.runs.glob("*/report.json"), reverse=True)[:RUNS] if places.runs.is_dir() else []
    for path in reports:
        texts[f"runs/{path.parent.name}/report.txt"] = plain(path.read_text(errors="replace")[: errand.MAX_TEXT])
    return texts


def archive(data: Mapping[str, bytes]) -> bytes:
    """A tar file of ``data`` that depends on nothing else."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(data):
            entry = tarfile.TarInfo(f"doctor/{name}")
            entry.size, entry.mode = len(data[name]), 0o644
            tar.addfile(entry, io.BytesIO(data[name]))
    return buffer.getvalue()


def _files(reply: Reply) -> dict[str, str]:
    """A node's texts under names that cannot lead anywhere else."""
    if reply.value is None:
        return {}
    found = {}
    for name, text in list(dict(reply.value.get("files") or {}).items())[:MAX_FILES]:
        if (
            isinstance(text, str)
            and _NAME.fullmatch(name)
            and len(name) < 200
            and not {"..", "."} & set(name.split("/"))
        ):
            found[name] = text
    return found


def _question(host: Host, inventory: Inventory) -> dict[str, Any]:
    asked = needs.question(host, needs.Release(None, None), inventory, word="", listening=False, outside=())
    return {**services.question(inventory.site, host), "preflight": asdict(replace(asked, outside_names=(), disk=""))}


def _versions() -> dict[str, str]:
    told = {"appliance": installer.__version__, "python": platform.python_version(), "kernel": platform.release()}
    for name, argv in {"ssh": ["ssh", "-V"], "nginx": ["nginx", "-v"], "os": ["cat", "/etc/os-release"]}.items():
        try:
            done = run(argv, timeout_s=10)
            told[name] = (done.stdout + done.stderr).strip()
        except ApplianceError as error:
            told[name] = error.what
    return told


def _document(value: Any) -> bytes:
    return (json.dumps(value, indent=1, sort_keys=True, default=str) + "\n").encode()


def _send(host: Host, connection: Any, verb: str, question: Mapping[str, Any]) -> Reply:
    return errand.send(host, connection, verb, question, timeout_s=TIMEOUT_S, max_output=MAX_OUTPUT)


def plain(text: str) -> str:
    """JSON as lines of `path:` and value, its strings as they were before they were quoted: what removes secrets reads them as the
    files and journals that they came from, and no quote within a quote hides one. Text that is no JSON stays. Pure."""
    try:
        data = strictjson.loads(text.encode())
    except ValueError:
        return text
    return "\n".join(_leaves("", data)) + "\n"


def _leaves(path: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(f"{path}/{name}", inner)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _leaves(f"{path}/{number}", inner)
    elif isinstance(value, str) and value:
        yield from (f"{path} is", value)
    else:
        yield f"{path} is {value}"
