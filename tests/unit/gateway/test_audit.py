"""The audit log: every change of it is found, given the last checkpoint that left the host; and what it adds up to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ApplianceError, InputError
from engine.gateway.audit import chain
from engine.gateway.audit.cli import public_key
from engine.gateway.audit.report import report
from engine.gateway.audit.verify import Verdict, verify
from engine.gateway.audit.writer import Writer, signing_key
from tests import gatewaysite as lab

Lines = list[bytes]


def _writer(where: Path, **settings: Any) -> Writer:
    config = lab.configuration(where, ledger=lab.site(where)["ledger"] | {"segment_bytes": 4096, **settings})
    return Writer(where / "audit", config.ledger, signing_key(where / "checkpoint.pem"), "lab")


def _fill(writer: Writer, count: int, every: int = 10) -> None:
    for i in range(count):
        writer.append([{"kind": "request", "tenant": "team-a", "charged_tokens": i}])
        if i % every == every - 1:
            writer.checkpoint()


def _verify(where: Path, exported: chain.Checkpoint | None = None) -> Verdict:
    segments = [(p.name, p.read_bytes().splitlines()) for p in sorted((where / "audit").glob("*.jsonl"))]
    return verify(segments, public_key(where / "checkpoint.pub"), exported)


def _exported(where: Path) -> chain.Checkpoint:
    return chain.checkpoint_of(json.loads(max((where / "exported").glob("*.json")).read_bytes()))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    where = tmp_path_factory.mktemp("whole")
    _fill(_writer(where), 60)
    return where


def test_a_log_that_nobody_touched_is_sound(whole: Path) -> None:
    found = _verify(whole, _exported(whole))
    assert (found.faults, found.notes, found.last, found.checkpoints) == ([], [], 67, 6)
    assert len(list((whole / "audit").iterdir())) > 2


def _edit(lines: Lines) -> Lines:
    return [line.replace(b'"charged_tokens":33', b'"charged_tokens":3') for line in lines]


def _edit_and_rebuild(lines: Lines) -> Lines:
    """Who owns the disk can make every hash fit again, but has no key for the checkpoints."""
    made: Lines = []
    for line in _edit(lines):
        record = json.loads(line)
        record["prev"] = chain.digest(made[-1]) if made else chain.NOTHING
        made.append(chain.line_of(record))
    return made


CHANGES: dict[str, Callable[[Lines], Lines]] = {
    "edit": _edit,
    "edit and rebuild": _edit_and_rebuild,
    "delete": lambda lines: lines[:30] + lines[31:],
    "delete the first": lambda lines: lines[1:],
    "reorder": lambda lines: [*lines[:30], lines[31], lines[30], *lines[32:]],
    "duplicate": lambda lines: [*lines[:30], lines[29], *lines[30:]],
    "cut the end off": lambda lines: lines[:-5],
    "cut a whole segment off": lambda lines: lines[:20],
    "garbage": lambda lines: [*lines[:30], b"not json", *lines[30:]],
    "nothing left": lambda lines: [],
    "another signature": lambda lines: [line.replace(b'"signature":"', b'"signature":"00') for line in lines],
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_found(change: str, whole: Path, tmp_path: Path) -> None:
    lines: Lines = [line for p in sorted((whole / "audit").glob("*.jsonl")) for line in p.read_bytes().splitlines()]
    assert lines != CHANGES[change](list(lines))
    found = verify([("a", CHANGES[change](list(lines)))], public_key(whole / "checkpoint.pub"), _exported(whole))
    assert found.faults, change


def test_an_older_copy_and_another_log_are_found(whole: Path, tmp_path: Path) -> None:
    where = tmp_path / "site"
    shutil.copytree(whole, where)
    writer = _writer(where)
    _fill(writer, 10)
    later = _exported(where)
    assert _verify(where, later).faults == []
    shutil.rmtree(where / "audit")
    shutil.copytree(whole / "audit", where / "audit")  # a restored virtual machine
    assert any("older copy" in fault.what for fault in _verify(where, later).faults)
    _fill(_writer(where), 40)  # and it went on from there
    assert any("exported checkpoint" in fault.what for fault in _verify(where, later).faults)
    (fresh := tmp_path / "fresh").mkdir()
    for name in ("checkpoint.pem", "checkpoint.pub"):
        shutil.copy(whole / name, fresh / name)
    _fill(_writer(fresh), 80)
    assert any("another log" in fault.what for fault in _verify(fresh, _exported(whole)).faults)


def test_without_an_exported_checkpoint_the_missing_certainty_is_told(whole: Path) -> None:
    found = _verify(whole)
    assert (found.faults, len(found.notes)) == ([], 1)


def test_old_segments_go_after_a_record_said_so(tmp_path: Path) -> None:
    writer = _writer(tmp_path, retain_days=1)
    _fill(writer, 60)
    first = min((tmp_path / "audit").glob("*.jsonl"))
    os.utime(first, (0, time.time() - 2 * 86_400))
    writer.retain(time.time())
    assert not first.exists()
    assert _verify(tmp_path, _exported(tmp_path)).faults == []
    min((tmp_path / "audit").glob("*.jsonl")).unlink()  # one more, which no record speaks of
    assert any("no record says" in fault.what for fault in _verify(tmp_path, _exported(tmp_path)).faults)


def test_a_writer_continues_where_it_ended_and_cuts_half_a_line_off(tmp_path: Path) -> None:
    _fill(_writer(tmp_path), 25)
    last = max((tmp_path / "audit").glob("*.jsonl"))
    last.write_bytes(last.read_bytes() + b'{"half')
    writer = _writer(tmp_path)
    _fill(writer, 10)
    found = _verify(tmp_path, _exported(tmp_path))
    assert (found.faults, found.last) == ([], writer.n)
    last = max((tmp_path / "audit").glob("*.jsonl"))
    last.write_bytes(b"garbage\n" + last.read_bytes())
    with pytest.raises(ApplianceError, match="cannot be continued"):
        _writer(tmp_path)


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    _writer(tmp_path)
    with pytest.raises(InputError, match="checkpoint_key"):
        signing_key(tmp_path / "checkpoint.pub")
    with pytest.raises(InputError, match="public key"):
        public_key(tmp_path / "checkpoint.pem")


def test_the_report_adds_up_tokens_and_cost(tmp_path: Path) -> None:
    config = lab.configuration(tmp_path)  # 2 for a million tokens in, 6 for a million out
    base = {
        "kind": "request",
        "tenant": "team-a",
        "project": "search",
        "cost_centre": "4712",
        "model": "tiny",
        "outcome": "completed",
    }
    records: list[dict[str, Any]] = [
        {
            **base,
            "prompt_tokens": 1_000_000,
            "completion_tokens": 500_000,
            "cached_tokens": 0,
            "charged_tokens": 1_500_000,
        },
        {
            **base,
            "outcome": "client_left",
            "prompt_tokens": 1000,
            "completion_tokens": 0,
            "cached_tokens": 1000,
            "charged_tokens": 1000,
        },
        {**base, "outcome": "lost", "estimated": True, "charged_tokens": 1_000_000},
        {**base, "outcome": "refused", "charged_tokens": 0},
        {"kind": "administrative", "act": "x"},
        {"kind": "request", "outcome": "refused", "charged_tokens": 0},
    ]
    found = report(records, config).dump()
    assert found["total"] == {
        "requests": 5, "refused": 2, "aborted": 2, "prompt_tokens": 1_001_000, "cached_tokens": 1000, "completion_tokens": 500_000,
        "aborted_tokens": 1000, "estimated_tokens": 1_000_000, "charged_tokens": 2_501_000, "cost": 11.002,
    }  # fmt: skip
    assert set(found["project"]) == {"team-a/search", "-"}
    assert found["cost_centre"]["4712"]["requests"] == 4


def test_the_command_tells_whether_a_log_is_sound(whole: Path, tmp_path: Path) -> None:
    def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
        argv = [sys.executable, "-P", "-m", "engine.gateway.cli", "audit", *map(str, words)]
        return subprocess.run(argv, capture_output=True, text=True, check=False)

    given: list[str | Path] = [
        "verify",
        "--key",
        whole / "checkpoint.pub",
        "--checkpoint",
        max((whole / "exported").glob("*.json")),
    ]
    good = run(*given, "--directory", whole / "audit")
    assert (good.returncode, json.loads(good.stdout)["sound"]) == (0, True)
    shutil.copytree(whole / "audit", tmp_path / "audit")
    path = min((tmp_path / "audit").glob("*.jsonl"))
    path.write_bytes(path.read_bytes().replace(b'"charged_tokens":3', b'"charged_tokens":4', 1))
    bad = run(*given, "--directory", tmp_path / "audit")
    found = json.loads(bad.stdout)["faults"][0]
    assert (bad.returncode, found["segment"]) == (3, path.name)
    exported = run("export", "--directory", whole / "audit")
    assert len(exported.stdout.splitlines()) == 67
    assert run("export", "--directory", whole / "audit", "--since", "2999").stdout == ""
    assert run("verify", "--directory", tmp_path, "--key", whole / "checkpoint.pub").returncode == 2
