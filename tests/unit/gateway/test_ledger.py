"""The ledger over its files: what a crash, a full disk or damage leaves, and that each request has one audit line."""

from __future__ import annotations

import asyncio
import errno
import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import ApplianceError, InputError
from engine.gateway.audit import writer as audit_writer
from engine.gateway.ledger import core, wal
from engine.gateway.ledger.clock import Clock
from engine.gateway.ledger.server import Server
from tests import gatewaysite as lab


def _lines(where: Path, kind: str = "request") -> list[dict[str, Any]]:
    found = [
        json.loads(line)
        for path in sorted(where.glob("ledger/audit/*.jsonl"))
        for line in path.read_text().splitlines()
    ]
    return [line for line in found if line["kind"] == kind]


def test_a_request_has_one_line_with_what_was_reserved_and_charged(tmp_path: Path) -> None:
    with lab.closing(lab.ledger(lab.configuration(tmp_path))) as made:
        assert made.reserve("w", lab.ask("r1"))["verdict"] == "run"
        made.commit()
        assert made.settle("r1", 7, {"status": 200, "prompt_tokens": 3, "completion_tokens": 4})
        assert not made.settle("r1", 7, {"status": 200})
        made.commit()
    (line,) = _lines(tmp_path)
    assert line["request"] == "r1"
    assert (line["tenant"], line["project"], line["credential"], line["model"]) == ("team-a", "search", "a-1", "tiny")
    assert (line["reserved_tokens"], line["charged_tokens"], line["prompt_tokens"], line["completion_tokens"]) == (
        10,
        7,
        3,
        4,
    )


def test_after_a_crash_the_same_is_open_and_what_nobody_claims_is_charged_in_full(tmp_path: Path) -> None:
    config = lab.configuration(tmp_path)
    made = lab.ledger(config)
    made.reserve("w", lab.ask("r1", hold=10, ceiling=25))
    made.commit()
    before = made.books.dump()
    # No close: the process ended here.
    with lab.closing(lab.ledger(config)) as again:
        assert again.books.dump() == before
        assert again.reserve("w", lab.ask("r1"))["verdict"] == "run"  # the worker asks again; nothing counts twice
        assert again.books.dump() == before
        again.lose(list(again.books.open.values()))
        again.commit()
        assert again.books.usages["tenant", "team-a"].day_tokens == 25
        assert again.admission.counts("tiny") == (0, 0)
    (line,) = _lines(tmp_path)
    assert (line["outcome"], line["charged_tokens"], line["estimated"]) == ("lost", 25, True)


def test_a_line_that_a_crash_left_out_is_written_at_the_next_start_and_only_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = lab.configuration(tmp_path)
    made = lab.ledger(config)
    made.reserve("w", lab.ask("r1"))
    made.settle("r1", 5, {"status": 200})
    monkeypatch.setattr(made, "_write_lines", lambda: None)  # the process ends between the log and the audit log
    made.commit()
    assert _lines(tmp_path) == []
    for _ in range(3):
        lab.ledger(config).log.close()
        assert [line["request"] for line in _lines(tmp_path)] == ["r1"]


def test_a_full_disk_refuses_new_work_and_settles_what_runs_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = lab.configuration(tmp_path)
    with lab.closing(lab.ledger(config)) as made:
        made.reserve("w", lab.ask("r1"))
        made.commit()

        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patch:
            for module in (wal, audit_writer):
                patch.setattr(module, "write_whole", full)
            before = made.books.dump()
            assert made.reserve("w", lab.ask("r2"))["verdict"] == "run"
            assert made.commit() == {"r2"}  # it could not be written, so it does not count
            assert made.books.dump() == before
            assert made.reserve("w", lab.ask("r3"))["reason"] == "storage"
            assert made.settle("r1", 5, {"status": 200})
            made.commit()
        made.commit()
        assert made.full == ""
        assert made.reserve("w", lab.ask("r4"))["verdict"] == "run"
        made.commit()
        expected = json.loads(json.dumps(made.books.dump()))
    assert [(line["status"], line.get("request")) for line in _lines(tmp_path)] == [(503, None), (200, "r1")]
    with lab.closing(lab.ledger(config)) as again:
        assert json.loads(json.dumps(again.books.dump())) == expected


def test_a_crash_while_the_disk_is_full_charges_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = lab.configuration(tmp_path)
    made = lab.ledger(config)
    made.reserve("w", lab.ask("r1", ceiling=99))
    made.commit()
    with monkeypatch.context() as patch:
        patch.setattr(wal, "write_whole", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        made.settle("r1", 5, {"status": 200})
        made.commit()
    with lab.closing(lab.ledger(config)) as again:
        assert [r.rid for r in again.books.open.values()] == ["r1"]


def test_half_a_record_at_the_end_is_cut_off_and_damage_before_it_is_told(tmp_path: Path) -> None:
    config = lab.configuration(tmp_path)
    made = lab.ledger(config)
    for i in range(3):
        made.reserve("w", lab.ask(f"r{i}"))
        made.commit()
    made.log.close()
    (path,) = (tmp_path / "ledger/state").glob("wal-*.log")
    whole = path.read_bytes()
    path.write_bytes(whole[:-7])
    log = wal.Log(tmp_path / "ledger/state")
    assert [r["rid"] for r in log.open()[1]] == ["r0", "r1"]
    log.close()
    path.write_bytes(whole.replace(b'"r1"', b'"rX"', 1))
    with pytest.raises(wal.DamagedError) as refused:
        wal.Log(tmp_path / "ledger/state").open()
    assert refused.value.where == f"{path}:2"


def test_the_state_of_a_newer_release_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = lab.configuration(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(wal, "SCHEMA", 2)
        lab.ledger(config).log.close()
    before = (tmp_path / "ledger/state/state.json").read_bytes()
    with pytest.raises(InputError, match="a newer release wrote it"):
        lab.ledger(config)
    assert (tmp_path / "ledger/state/state.json").read_bytes() == before


def test_a_compacted_log_holds_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = lab.configuration(tmp_path)
    monkeypatch.setattr(core, "COMPACT_BYTES", 2000)
    made = lab.ledger(config)
    for i in range(30):
        made.reserve("w", lab.ask(f"r{i}"))
        made.settle(f"r{i}", i, {"status": 200}) if i % 3 else None
        made.commit()
    assert made.log.size < 4000
    assert len(list((tmp_path / "ledger/state").iterdir())) == 2
    with lab.closing(lab.ledger(config)) as again:
        assert again.books.dump() == made.books.dump()
    assert [line["request"] for line in _lines(tmp_path)] == [f"r{i}" for i in range(30) if i % 3]


def test_a_credential_that_left_the_configuration_reserves_nothing(tmp_path: Path) -> None:
    config = lab.configuration(tmp_path)
    with lab.closing(lab.ledger(config)) as made:
        made.configure(config.model_copy(update={"tenants": config.tenants[1:]}))
        assert made.reserve("w", lab.ask("r1"))["reason"] == "revoked"
        assert made.books.open == {}


def test_a_lower_limit_holds_at_once_and_counts_what_was_used(tmp_path: Path) -> None:
    config = lab.configuration(tmp_path)
    with lab.closing(lab.ledger(config)) as made:
        made.reserve("w", lab.ask("r1", hold=500, ceiling=500))
        tenant = config.tenants[0].model_copy(
            update={"limits": config.tenants[0].limits.model_copy(update={"tokens_per_day": 505})}
        )
        made.configure(config.model_copy(update={"tenants": (tenant, *config.tenants[1:])}))
        told = made.reserve("w", lab.ask("r2", hold=10))
        assert (told["reason"], told["kind"], told["remaining"], told["never"]) == ("limit", "tokens_per_day", 5, False)
        assert told["reset_s"] == pytest.approx(made.clock.until_next_day(made.clock.now()), abs=5)
        assert made.standing(lab.entry())["tenant"]["tokens_per_day"]["used"] == 500


def test_two_replicas_share_by_load_and_one_that_is_away_comes_last(tmp_path: Path) -> None:
    data = lab.site(tmp_path)
    data["models"][0] |= {"replicas": [{"url": "unix:/a"}, {"url": "unix:/b"}], "slots": 2}
    config = lab.configuration(tmp_path, models=data["models"])
    times = lab.Times()
    with lab.closing(lab.ledger(config, times)) as made:
        assert [made.reserve("w", lab.ask(f"r{i}"))["replicas"] for i in range(3)] == [[0, 1], [1, 0], [0, 1]]
        made.unreachable("tiny", 1)
        assert made.reserve("w", lab.ask("r3"))["verdict"] == "wait"  # one live replica has two slots, three run
        times.pass_(6)
        made.grant()
        assert made.granted == ["r3"]
        assert made.assign("r3") == [1, 0]


def test_clocks_tell_the_zone_they_are_given() -> None:
    assert Clock("Pacific/Kiritimati", wall=lambda: 1_796_083_200.0).now().day == "2026-12-01"
    assert Clock("Pacific/Pago_Pago", wall=lambda: 1_796_083_200.0).now().day == "2026-11-30"


def test_a_ledger_that_can_no_longer_flush_stops_with_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lab.write(tmp_path, lab.site(tmp_path))
    server = Server(path)

    def broken() -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(server.ledger.log, "flush", broken)
    monkeypatch.setattr(server.ledger.log, "close", lambda: None)
    with pytest.raises(ApplianceError, match="stopped after a failure"):
        asyncio.run(asyncio.wait_for(_dirty(server, tmp_path), 120))


async def _dirty(server: Server, where: Path) -> None:
    run = asyncio.create_task(server.run(where / "ledger.sock"))
    while not (where / "ledger.sock").exists():
        await asyncio.sleep(0.01)
    server.ledger.log.dirty = True
    await run
