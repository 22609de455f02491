"""The nodes' evidence that nothing got out, fetched and checked against what this control host knows: key and last record."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from engine import durable, strictjson
from engine.egress_chain import Head, Memory, Verdict, head_of, verify
from engine.egress_log import public_key
from engine.report import printable
from engine.talk import Talk, talk
from installer.site import remote, skew
from installer.site.inventory import Connection, Host, Inventory
from installer.site.retire import put_away

ENGINE = "/opt/appliance/current/engine/bin/python"
TIMEOUT_S = 120.0
MAX_OUTPUT = 128 << 20  # bytes; the role keeps 64 MiB
AT_ONCE = 8
LATE_AFTER = timedelta(minutes=15)


@dataclass(frozen=True)
class Export:
    """What a node said: its key, its head, and its segments with their lines."""

    key: str
    head: Head | None
    segments: tuple[tuple[str, tuple[bytes, ...]], ...]


@dataclass
class Evidence:
    """What became of one node's evidence. ``good``: it is sound, recent, and its last proof was good.

    ``fetched`` says whether the node answered with evidence. ``tried``, ``denied`` and ``unroutable`` are attempts of its last proof, the
    last of them among the denied ones.
    """

    node: str
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    records: int = 0
    proofs: int = 0
    bad_proofs: int = 0
    last_time: str = ""
    last_faults: list[str] = field(default_factory=list)
    fetched: bool = False
    tried: int = 0
    denied: int = 0
    unroutable: int = 0
    last_proof_time: str = ""

    @property
    def good(self) -> bool:
        return not self.problems and not self.last_faults


def collect(
    inventory: Inventory,
    directory: Path,
    hosts: Sequence[Host],
    *,
    late_after: timedelta = LATE_AFTER,
    whole: bool = False,
) -> list[Evidence]:
    """Fetch and check the evidence of ``hosts``; remember below ``directory`` how far each was seen.

    Args:
        directory: holds egress/NODE.pub, which the install pinned, and egress/NODE.seen.
        whole: check all that a node has, also what was checked before.
    """
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return list(
            pool.map(lambda h: shown(_of(h, inventory.connections[h.name], directory, late_after, whole)), hosts)
        )


def retire(directory: Path, node: str, now: datetime) -> bool:
    """Put away the key and the last record of a node that was uninstalled: installed again, it signs with another key.

    Both stay beside as ``NODE.pub.until-TIME`` and ``NODE.seen.until-TIME``, for evidence from before must remain checkable.

    Returns:
        Whether there was a key.
    """
    return bool(put_away((directory / "egress" / f"{node}.{end}" for end in ("pub", "seen")), now))


def _of(host: Host, connection: Connection, directory: Path, late_after: timedelta, whole: bool) -> Evidence:
    found = Evidence(host.name)
    pin, seen = (directory / "egress" / f"{host.name}.{end}" for end in ("pub", "seen"))
    if not pin.is_file():
        found.problems.append(f"no key of this node is pinned in {pin}; an install pins it")
        return found
    memory = _seen(seen, found)
    try:
        said = _ask(connection, memory.n if memory and not whole else 0)
        if why := skew.refusal(said, ("egress", "export"), connection):
            raise ValueError(why)
        export = understand(said)
    except ValueError as error:
        found.problems.append(str(error))
        return found
    found.fetched = True
    judge(found, export, pin.read_text(errors="replace").strip(), memory, now=datetime.now(UTC), late_after=late_after)
    return _remember(seen, found, export)


def shown(found: Evidence) -> Evidence:
    """The same with nothing in it that would drive a terminal: most of the words are the node's."""
    texts: dict[str, Any] = {
        name: [printable(t) for t in getattr(found, name)] for name in ("problems", "notes", "last_faults")
    }
    return replace(
        found, **texts, last_time=printable(found.last_time), last_proof_time=printable(found.last_proof_time)
    )


def judge(
    found: Evidence, export: Export, pinned: str, memory: Memory | None, *, now: datetime, late_after: timedelta
) -> Verdict | None:
    """Check an export and write down in ``found`` what came of it. Pure, but for ``found``."""
    if export.key != pinned:
        found.problems.append(
            f"it signs with another key than the one pinned at its install. If another machine took its name, run `appliance retire {found.node} -i SITE` and install again; if not, find out who made a new key"
        )
        return None
    verdict = verify(
        export.segments, public_key(pinned, found.node), export.head, memory=memory, now=now, late_after=late_after
    )
    found.problems += [
        f"{f.segment}{f':{f.line}' if f.line else ''}{': ' if f.segment else ''}{f.what}" for f in verdict.faults
    ]
    found.notes += verdict.notes
    found.records, found.last_time = verdict.last, verdict.last_time
    found.proofs, found.bad_proofs = verdict.proofs, verdict.bad_proofs
    if verdict.last_proof:
        found.last_proof_time = str(verdict.last_proof["time"])
        found.tried, found.denied, found.unroutable = (
            _sum(verdict.last_proof, n) for n in ("tried", "denied", "unroutable")
        )
    if verdict.last_proof and verdict.last_proof.get("good") is not True:
        said = verdict.last_proof.get("faults")
        faults = [str(f)[:300] for f in said][:20] if isinstance(said, list) else []
        found.last_faults = faults or ["the last proof was not good"]
    elif verdict.sound and not verdict.last_proof:
        found.last_faults = ["there is no proof yet"]
    return verdict


def _sum(proof: Mapping[str, Any], what: str) -> int:
    """Over all kinds of attempts of a proof; a node writes what it likes, so what is no count counts as none. Pure."""
    kinds = proof.get("attempts")
    counts = [kind.get(what) for kind in kinds.values() if isinstance(kind, dict)] if isinstance(kinds, dict) else []
    return sum(n for n in counts if isinstance(n, int) and not isinstance(n, bool) and n >= 0)


def _remember(seen: Path, found: Evidence, export: Export) -> Evidence:
    """Only what was sound is remembered: a chain that was tampered with must not become the measure."""
    if not found.problems and export.head:
        memory = Memory(export.head.chain, export.head.n, export.head.hash)
        durable.write(seen, json.dumps(asdict(memory)) + "\n", mode=0o600)
    return found


def _seen(path: Path, found: Evidence) -> Memory | None:
    try:
        return Memory(**strictjson.loads(path.read_bytes(), max_parts=10))
    except FileNotFoundError:
        found.notes.append("seen for the first time")
    except (OSError, ValueError, TypeError):
        found.problems.append(f"{path} is damaged, so nobody knows how far this evidence was seen before")
    return None


def _ask(connection: Connection, after: int) -> Talk:
    if connection.unsupported:
        raise ValueError(f"the inventory asks for what this command does not do: {connection.unsupported}")
    argv = [ENGINE, "-m", "engine.egress", "export", "--after", str(after)]
    script = f"import os; os.execv({ENGINE!r}, {argv!r})".encode()
    return talk(remote.argv(connection), stdin=script, timeout_s=TIMEOUT_S, limit_bytes=MAX_OUTPUT)


def understand(said: Talk) -> Export:
    """What a node exported.

    Raises:
        ValueError: it did not answer, or not with evidence.
    """
    if said.cut:
        raise ValueError("it took too long" if said.cut == "time" else "it said more than evidence may have")
    if said.code != 0:
        raise ValueError(f"it cannot be asked: {said.stderr.strip()[-300:] or f'exit code {said.code}'}")
    lines = [line for _, line in said.lines]
    first: Any = strictjson.loads(lines[0], max_parts=100) if lines else None
    if not isinstance(first, dict) or not isinstance(first.get("key"), str):
        raise ValueError("its answer is no evidence")
    head = head_of(json.dumps(first["head"]).encode()) if first.get("head") else None
    segments: list[tuple[str, list[bytes]]] = []
    for line in lines[1:]:
        if line.startswith(b'{"segment": '):
            name = strictjson.loads(line, max_parts=10)["segment"]
            segments.append((str(name)[:40], []))
        elif segments:
            segments[-1][1].append(line)
        else:
            raise ValueError("its answer is no evidence")
    return Export(first["key"], head, tuple((name, tuple(records)) for name, records in segments))
