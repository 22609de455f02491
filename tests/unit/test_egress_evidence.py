"""The evidence of egress proofs: every change of a written record is located, and a full disk harms nothing that is there."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from engine import egress_cli, egress_log
from engine.egress_chain import Head, Memory, Record, Verdict, digest, head_of, line_of, parse, verify
from engine.egress_log import Bounds, EvidenceLog
from engine.errors import ApplianceError, Exit, ResourceError
from installer.site.egress import retire

BEGIN = datetime(2026, 11, 21, 12, 0, tzinfo=UTC)


class Clock:
    """Five minutes later at every look, unless the test turns it."""

    def __init__(self) -> None:
        self.now = BEGIN

    def __call__(self) -> datetime:
        self.now += timedelta(minutes=5)
        return self.now


def log_of(tmp_path: Path, bounds: Bounds | None = None, clock: Clock | None = None) -> EvidenceLog:
    made = EvidenceLog(tmp_path / "egress", bounds or Bounds(seal_every=4), node="gpu-1", clock=clock or Clock())
    made.ensure_key()
    return made


def test_two_that_ask_for_a_key_at_once_end_with_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The role and the first proof do: the control host pins what the role was told."""
    both = threading.Barrier(2)

    def generate() -> Ed25519PrivateKey:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.5)  # whoever is here has found no key
        return make()

    make = Ed25519PrivateKey.generate
    monkeypatch.setattr(egress_log, "Ed25519PrivateKey", SimpleNamespace(generate=generate))
    told: list[tuple[bool, bytes]] = []

    def ask() -> None:
        log = EvidenceLog(tmp_path / "egress", Bounds(), node="gpu-1")
        made = log.ensure_key()
        told.append((made, (tmp_path / "egress/key.pem").read_bytes()))

    asking = [threading.Thread(target=ask) for _ in range(2)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert sorted(made for made, _ in told) == [False, True]
    assert len({key for _, key in told}) == 1


def filled(tmp_path: Path, count: int = 10, bounds: Bounds | None = None) -> EvidenceLog:
    log = log_of(tmp_path, bounds)
    for i in range(count):
        log.append("proof", {"good": True, "i": i})
    return log


def checked(log: EvidenceLog, memory: Memory | None = None) -> Verdict:
    return verify(log.lines(), log.public(), log.head(), memory=memory)


def remembered(log: EvidenceLog) -> Memory:
    head = log.head()
    assert head is not None
    return Memory(head.chain, head.n, head.hash)


def test_what_was_written_is_sound_and_counted(tmp_path: Path) -> None:
    log = filled(tmp_path)
    found = checked(log)
    assert found.sound, found.faults
    assert (found.proofs, found.bad_proofs, found.first) == (10, 0, 1)
    assert found.sealed > found.last - 4
    assert found.last_proof is not None
    assert found.last_proof["i"] == 9
    assert oct((tmp_path / "egress/key.pem").stat().st_mode)[-3:] == "600"


def test_a_bad_proof_is_sealed_at_once_and_counted(tmp_path: Path) -> None:
    log = filled(tmp_path, 1)
    log.append("proof", {"good": False}, seal=True)
    found = checked(log)
    assert (found.sound, found.bad_proofs, found.sealed) == (True, 1, found.last)


# Each takes the lines of a sound chain and the number of one, and gives those of a chain that was tampered with.
TAMPERINGS: dict[str, Callable[[list[bytes], int], list[bytes]]] = {
    "edit": lambda lines, i: [*lines[:i], lines[i].replace(b'"uptime_s":', b'"uptime_s":1'), *lines[i + 1 :]],
    "delete": lambda lines, i: [*lines[:i], *lines[i + 1 :]],
    "reorder": lambda lines, i: [*lines[:i], lines[i + 1], lines[i], *lines[i + 2 :]] if i + 1 < len(lines)
    else [*lines[:-2], lines[-1], lines[-2]],
    "truncate": lambda lines, i: lines[:i],
    "replay": lambda lines, i: [*lines[: i + 1], lines[i], *lines[i + 1 :]],
    "replay at the end": lambda lines, i: [*lines, lines[i]],
    "garbage": lambda lines, i: [*lines[:i], b"{}", *lines[i:]],
}  # fmt: skip


@pytest.mark.parametrize("how", TAMPERINGS)
def test_every_tampering_is_found_wherever_it_happens(how: str, tmp_path: Path) -> None:
    log = filled(tmp_path)
    ((_, lines),) = log.lines()
    head, memory = log.head(), remembered(log)
    for i in range(len(lines)):
        changed = TAMPERINGS[how](lines, i)
        found = verify([("000001.jsonl", changed)], log.public(), head)
        assert not found.sound, f"{how} at {i} was not found"
        assert not verify([("000001.jsonl", changed)], log.public(), None, memory=memory).sound
        located = [f.line for f in found.faults if f.line]
        assert how == "truncate" or not located or min(located) >= i, (how, i, found.faults)
    middle = verify([("000001.jsonl", TAMPERINGS[how](lines, 5))], log.public(), head).faults[0]
    assert (middle.segment, middle.line) == {
        "truncate": ("", 0), "edit": ("000001.jsonl", 7), "replay": ("000001.jsonl", 7),
        "replay at the end": ("000001.jsonl", len(lines) + 1),
    }.get(how, ("000001.jsonl", 6))  # fmt: skip


def relinked(lines: list[bytes], i: int) -> list[bytes]:
    """An edit by somebody who can compute hashes but has not the key: every later record is fitted to the one before."""
    records = [parse(line) for line in lines]
    records[i]["i"] = 99
    made: list[bytes] = []
    for record in records:
        if made:
            record["prev"] = digest(made[-1])
        made.append(line_of(record))
    return made


def test_a_chain_made_fit_again_lacks_the_key(tmp_path: Path) -> None:
    log = filled(tmp_path)
    ((_, lines),) = log.lines()
    for i, line in enumerate(lines):
        if parse(line)["kind"] != "proof":
            continue
        found = verify([("s", relinked(lines, i))], log.public(), log.head())
        following = next((n for n, other in enumerate(lines) if n > i and parse(other)["kind"] == "seal"), None)
        assert not found.sound
        expected = ("s", following + 1) if following is not None else ("", 0)
        assert (found.faults[0].segment, found.faults[0].line) == expected


def test_an_old_state_put_back_whole_is_found_by_who_saw_a_later_one_and_by_its_age(tmp_path: Path) -> None:
    log = filled(tmp_path, 5)
    kept = {p: p.read_bytes() for p in (*log.segments(), tmp_path / "egress/head.json")}
    log.append("proof", {"good": True})
    memory = remembered(log)
    for path, raw in kept.items():
        path.write_bytes(raw)
    assert checked(log).sound  # nothing on the node itself can tell
    assert "was seen before, but the chain ends" in checked(log, memory).faults[0].what
    late = verify(
        log.lines(), log.public(), log.head(), now=BEGIN + timedelta(days=1), late_after=timedelta(minutes=15)
    )
    assert "the newest record is" in late.faults[0].what


def test_another_node_s_chain_or_key_is_refused(tmp_path: Path) -> None:
    one, other = filled(tmp_path / "a"), filled(tmp_path / "b")
    assert not verify(one.lines(), other.public(), one.head()).sound
    assert not verify(other.lines(), one.public(), one.head()).sound
    seen = verify(other.lines(), other.public(), other.head(), memory=remembered(one))
    assert any("another chain" in fault.what for fault in seen.faults)


def test_rotation_keeps_the_chain_and_says_what_it_dropped(tmp_path: Path) -> None:
    log = filled(tmp_path, 60, Bounds(segment_bytes=2000, segments=3, seal_every=4))
    assert len(log.segments()) == 3
    found = checked(log)
    assert found.sound, found.faults
    assert found.first > 1
    assert found.last > 60
    # Removing more than was said is found, and so is removing the middle.
    paths = log.segments()
    for gone in (paths[0], paths[1]):
        rest = [(p.name, p.read_bytes().splitlines()) for p in paths if p != gone]
        assert not verify(rest, log.public(), log.head()).sound


def test_a_part_is_enough_for_who_saw_what_came_before(tmp_path: Path) -> None:
    log = filled(tmp_path, 10, Bounds(segment_bytes=2000, segments=99, seal_every=4))
    memory = remembered(log)
    for _ in range(10):
        log.append("proof", {"good": True})
    for skipped in range(1, len(log.segments())):
        part = list(log.lines())[skipped:]
        holds_it = parse(part[0][1][0])["n"] <= memory.n
        assert verify(part, log.public(), log.head(), memory=memory).sound is holds_it
        assert not verify(part, log.public(), log.head()).sound


def test_a_clock_that_goes_back_is_written_down_and_no_tampering(tmp_path: Path) -> None:
    clock = Clock()
    log = log_of(tmp_path, clock=clock)
    log.append("proof", {"good": True})
    clock.now -= timedelta(hours=2)
    record = log.append("proof", {"good": True})
    assert record["clock_back_s"] == 6900
    found = checked(log)
    assert found.sound, found.faults
    assert any("went back by 115 min" in note for note in found.notes), found.notes


def test_half_a_line_that_a_power_cut_left_is_cut_away(tmp_path: Path) -> None:
    log = filled(tmp_path, 3)
    path = log.segments()[-1]
    with path.open("ab") as file:
        file.write(b'{"n": 99, "ki')
    log.append("proof", {"good": True})
    assert checked(log).sound
    assert checked(log).proofs == 4


def test_a_record_whose_head_was_not_signed_in_time_is_taken_over(tmp_path: Path) -> None:
    log = filled(tmp_path, 3)
    head = (tmp_path / "egress/head.json").read_bytes()
    log.append("proof", {"good": True})
    (tmp_path / "egress/head.json").write_bytes(head)  # as if the power had gone between the two
    assert checked(log).sound
    assert "before its head was signed" in checked(log).notes[0]
    log.append("proof", {"good": True})
    assert checked(log).sound
    assert checked(log).proofs == 5


def test_writing_on_after_a_cut_does_not_hide_it(tmp_path: Path) -> None:
    log = filled(tmp_path, 10)
    path = log.segments()[-1]
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:5]))
    log.append("proof", {"good": True})
    found = checked(log)
    assert [(f.segment, f.line) for f in found.faults] == [("000002.jsonl", 1)]
    assert "are missing between them" in found.faults[0].what


def test_a_key_that_others_can_read_signs_nothing(tmp_path: Path) -> None:
    log = filled(tmp_path, 1)
    (tmp_path / "egress/key.pem").chmod(0o644)
    with pytest.raises(ApplianceError, match="others could read the key"):
        log.append("proof", {"good": True})


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 kB."""
    if os.geteuid() != 0:
        pytest.fail("mounting a small file system needs root: run the tests with sudo")
    where = tmp_path / "disk"
    where.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "none", where], check=True)
    yield where
    subprocess.run(["umount", where], check=True)


def test_a_full_disk_is_loud_and_leaves_the_evidence_as_it_was(small_disk: Path) -> None:
    log = log_of(small_disk)
    with pytest.raises(ResourceError, match="the disk is full"):
        for i in range(1000):
            log.append("proof", {"good": True, "words": "x" * 300, "i": i})
    found = checked(log)
    assert found.sound, found.faults
    assert found.proofs > 10
    written = [p.read_bytes() for p in log.segments()]
    for _ in range(3):
        with pytest.raises(ResourceError, match="the disk is full"):
            log.append("proof", {"good": True, "words": "x" * 5000})
    assert all(new.startswith(old) for old, new in zip(written, [p.read_bytes() for p in log.segments()], strict=True))
    assert checked(log).sound


@settings(max_examples=60)
@given(st.data())
def test_no_change_of_any_byte_goes_unnoticed(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    log, raw = _shared(tmp_path_factory)
    at = data.draw(st.integers(0, len(raw) - 1))
    flipped = data.draw(st.integers(1, 255))
    changed = raw[:at] + bytes([raw[at] ^ flipped]) + raw[at + 1 :]
    assert not verify([("s", changed.split(b"\n")[:-1])], log.public(), log.head()).sound


_made: list[tuple[EvidenceLog, bytes]] = []


def _shared(factory: pytest.TempPathFactory) -> tuple[EvidenceLog, bytes]:
    if not _made:
        log = filled(factory.mktemp("shared"), 6)
        _made.append((log, log.segments()[0].read_bytes()))
    return _made[0]


def test_a_hundred_thousand_records_are_checked_in_a_second_or_few(tmp_path: Path) -> None:
    log = log_of(tmp_path)
    key = log._private()
    lines, prev = [], "0" * 64
    for n in range(1, 100_001):
        record: Record = {
            "n": n,
            "kind": "proof" if n > 1 else "start",
            "prev": prev,
            "time": "2026-11-21T12:00:00+00:00",
            "chain": "c",
        }
        lines.append(line_of(record))
        prev = digest(lines[-1])
    head = Head("c", 100_000, prev, "2026-11-21T12:00:00+00:00", 0)
    head = replace(head, signature=key.sign(head.statement()).hex())
    begin = time.process_time()
    assert verify([("s", lines)], key.public_key(), head).sound
    assert time.process_time() - begin < 5  # 1 s on an idle core


def test_the_verbs_say_it_in_json_and_by_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = str(tmp_path / "egress")
    assert egress_cli.main(["key", "--dry-run", "--state", state]) == Exit.OK
    assert json.loads(capsys.readouterr().out) == {"changed": True, "key": ""}
    assert egress_cli.main(["key", "--state", state]) == Exit.OK
    key = json.loads(capsys.readouterr().out)["key"]
    assert egress_cli.main(["verify", "--state", state]) == Exit.UNTRUSTED
    assert "there is no evidence" in capsys.readouterr().err
    log = EvidenceLog(Path(state), node="gpu-1")
    log.append("proof", {"good": True})
    assert egress_cli.main(["verify", "--state", state]) == Exit.OK
    assert json.loads(capsys.readouterr().out)["sound"] is True
    assert egress_cli.main(["export", "--state", state]) == Exit.OK
    head, segment, *records = capsys.readouterr().out.splitlines()
    assert json.loads(head)["key"] == key
    assert head_of(json.dumps(json.loads(head)["head"]).encode()).n == len(records) == 2
    assert json.loads(segment) == {"segment": "000001.jsonl"}
    path = log.segments()[0]
    path.write_bytes(path.read_bytes().replace(b'"good":true', b'"good":1234'))
    assert egress_cli.main(["verify", "--state", state]) == Exit.UNTRUSTED
    assert "was changed" in capsys.readouterr().err


def test_the_key_of_a_node_that_was_removed_is_put_away_and_not_lost(tmp_path: Path) -> None:
    (tmp_path / "egress").mkdir()
    for name in ("a.pub", "a.seen", "ab.pub"):
        (tmp_path / "egress" / name).write_text(name)
    then = datetime(2026, 7, 1, 12, tzinfo=UTC)
    assert retire(tmp_path, "a", then)
    names = {p.name: p.read_text() for p in (tmp_path / "egress").iterdir()}
    assert names == {
        "a.pub.until-20260701T120000Z": "a.pub",
        "a.seen.until-20260701T120000Z": "a.seen",
        "ab.pub": "ab.pub",
    }
    assert not retire(tmp_path, "a", then) and not retire(tmp_path / "none", "a", then)
