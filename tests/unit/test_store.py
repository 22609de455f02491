"""What a node holds is hashed again and again; what rots is found, set aside and named."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine import metadata, trust
from engine.blobs import Blobs
from engine.errors import ApplianceError, Exit, TrustError
from engine.memory import Memory
from engine.store import cli, holdings, metrics, state
from engine.store.state import Bad, Pass, State
from engine.store.verifying import Pace, Verifier
from tests.bundles import make

MODEL = "content/models/tiny/model.safetensors"
FILES = {
    "models/tiny/model.safetensors": b"weights" * 40_000,
    "models/tiny/config.json": b"{}",
    "models/other/model.safetensors": b"others" * 1000,
    "runtimes/vllm.squashfs": b"image" * 1000,
}


class Node:
    """A node's store as a fetch leaves it, with what a test needs to look at it."""

    def __init__(self, where: Path) -> None:
        bundle = make(where / "media", FILES)
        self.store, self.record = where / "node", where / "verification/state.json"
        self.root = where / "root.json"
        self.root.write_bytes(bundle.root)
        self.view = self.store / "views/demo-1.0.0"
        trusted = Memory(self.store / "trust", bundle.root).refresh(
            trust.FilesFetcher(metadata.read(bundle.path).content), "file://"
        )
        self.blobs = Blobs(self.store / "blobs")
        for path, target in trusted.targets.items():
            copy = where / "copy"
            shutil.copyfile(bundle.path / path, copy)
            assert self.blobs.keep(copy) == (target.sha256, target.size)
            self.blobs.link(target.sha256, self.view / path)
        self.services = where / "vllm"
        self.services.mkdir()
        for name, model in (("chat", "tiny"), ("embed", "other")):
            (self.services / f"{name}.yaml").write_text(
                f"# written by a role\nmodel: {json.dumps(str(self.view / 'content/models' / model))}\nport: 1\n"
            )

    def blob(self, path: str) -> Path:
        return self.blobs.path(hashlib.sha256(FILES[path.removeprefix("content/")]).hexdigest())

    def flip(self, path: str) -> None:
        """One bit, in place, as a disk would: name, size and inode stay."""
        blob = self.blob(path)
        raw = bytearray(blob.read_bytes())
        raw[len(raw) // 2] ^= 1
        blob.chmod(0o644)
        with blob.open("r+b") as file:
            file.write(raw)

    def verify(self, *more: str) -> tuple[int, dict[str, Any]]:
        argv = ["verify", f"--store={self.store}", f"--record={self.record}", f"--root={self.root}"]
        done = subprocess.run(
            [sys.executable, "-m", "engine.cli", "store", *argv, f"--services={self.services}", *more],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        self.said = done.stderr
        return done.returncode, json.loads(done.stdout or "{}")


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def test_a_sound_store_is_verified_whole(node: Node) -> None:
    code, found = node.verify()
    size = sum(map(len, FILES.values())) + len(b"a bundle\n")
    assert code == 0
    assert found["complete"]
    assert found["bad"] == found["unsigned"] == []
    assert found["total"] == size
    assert found["last"]["size"] == size


def test_a_flipped_bit_is_found_set_aside_and_named_with_its_service(node: Node) -> None:
    node.flip(MODEL)
    rotten = node.blob(MODEL).read_bytes()
    opened = (node.view / MODEL).open("rb")  # a service that has it open
    code, found = node.verify()
    assert code == Exit.UNTRUSTED
    (bad,) = found["bad"]
    assert bad["paths"] == [f"demo-1.0.0/{MODEL}"]
    assert bad["services"] == ["chat"]
    assert not node.blob(MODEL).exists()
    assert not (node.view / MODEL).exists()
    assert Path(bad["kept"]).read_bytes() == rotten == opened.read()
    assert (node.view / "content/models/other/model.safetensors").exists()
    assert "Services that read it: chat." in node.said


def test_a_bad_runtime_image_touches_every_service(node: Node) -> None:
    node.flip("content/runtimes/vllm.squashfs")
    _, found = node.verify()
    assert found["bad"][0]["services"] == ["chat", "embed"]


def test_what_is_bad_stays_on_record_until_it_is_back(node: Node) -> None:
    node.flip(MODEL)
    node.verify()
    code, found = node.verify()
    assert code == Exit.UNTRUSTED
    assert len(found["bad"]) == 1
    copy = node.store / "copy"
    copy.write_bytes(FILES["models/tiny/model.safetensors"])
    node.blobs.keep(copy)  # what a fetch does
    node.blobs.link(node.blob(MODEL).name, node.view / MODEL)
    assert node.verify()[0] == 0


def test_a_file_that_cannot_be_read_is_bad(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> tuple[str, int]:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("engine.store.verifying.hash_stream", fails)
    found = Verifier(node.store, node.record).run(State(), Pace())
    assert {b.found for b in found.bad} == {"cannot be read: Input/output error"}
    assert len(found.bad) == len(FILES) + 1


def test_a_name_that_leads_to_another_file_is_reported_and_left(node: Node) -> None:
    (node.view / MODEL).unlink()
    (node.view / MODEL).write_bytes(b"weights of somebody else")
    (node.view / "content/models/tiny/added.json").write_text("{}")
    code, found = node.verify()
    assert code == Exit.UNTRUSTED
    assert found["unsigned"] == [f"demo-1.0.0/content/models/tiny/{n}" for n in ("added.json", "model.safetensors")]
    assert (node.view / MODEL).exists()


def test_a_pass_that_was_stopped_goes_on_where_it_was(node: Node) -> None:
    names = holdings.blobs(node.blobs.root)
    left = iter([False] * 2 + [True] * 9)  # stop is asked for in the third file (the small ones are one piece each)
    stopped = Verifier(node.store, node.record).run(State(), Pace(asked=lambda: next(left)))
    assert stopped.running is not None
    done = stopped.running.files
    assert 0 < done < len(names)
    assert stopped.running.cursor == names[done - 1]
    again = Verifier(node.store, node.record).run(state.read(node.record), Pace())
    assert again.running is None
    assert again.last is not None
    assert again.last.files == len(names)
    assert again.last.started == stopped.running.started
    assert again.total == again.last.size  # nothing was hashed twice


def test_who_watches_hears_of_a_bad_file_at_once_and_not_when_the_pass_ends(node: Node) -> None:
    node.flip(MODEL)
    heard: list[State] = []
    Verifier(node.store, node.record, keep=heard.append).run(State(), Pace())
    first = next(s for s in heard if s.bad)
    assert first.running is not None
    assert first.last is None
    assert "appliance_store_bad_files 1" in metrics.render(first)


def test_reading_keeps_to_the_rate() -> None:
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    pace = Pace(rate=1000, clock=lambda: now[0], sleep=sleep)
    for _ in range(10):
        pace.advance(500)
    assert now[0] == pytest.approx(5.0)  # 5000 bytes at 1000 bytes a second
    assert all(s > 0 for s in slept)


def test_signatures_on_the_kept_metadata_are_checked_and_its_age_is_not(node: Node) -> None:
    pinned = node.root.read_bytes()
    (release,) = holdings.signed(node.store / "trust", pinned)
    assert release.release == "demo-1.0.0"
    targets = node.store / "trust/names/demo/targets.json"
    changed = json.loads(targets.read_text())
    changed["signed"]["expires"] = "2000-01-01T00:00:00Z"
    targets.write_text(json.dumps(changed))
    with pytest.raises(TrustError, match="cannot be trusted"):
        list(holdings.signed(node.store / "trust", pinned))


def cut(raw: bytes) -> bytes:
    return raw[:-20]


def changed(raw: bytes) -> bytes:
    return raw.replace(b'"total": 7', b'"total": 8')


@pytest.mark.parametrize("damage", [cut, changed, lambda _: b"[]", lambda _: b"\xff"])
def test_a_damaged_record_is_noticed_and_a_new_pass_begins(node: Node, damage: Callable[[bytes], bytes]) -> None:
    State(total=7).write(node.record)
    assert state.read(node.record).total == 7
    node.record.write_bytes(damage(node.record.read_bytes()))
    with pytest.raises(TrustError, match="damaged"):
        state.read(node.record)
    code, found = node.verify()
    assert (code, found["complete"]) == (0, True)
    assert "a new pass begins" in node.said


def test_a_store_that_is_not_mounted_is_an_error_and_not_a_sound_store(node: Node) -> None:
    shutil.rmtree(node.store / "blobs")
    code, found = node.verify()
    assert (code, found) == (Exit.FAILED, {})
    assert "Mount the store's file system" in node.said


def test_a_model_is_not_started_while_a_file_of_it_is_set_aside(node: Node) -> None:
    node.flip(MODEL)
    node.verify()
    where = [f"--store={node.store}", f"--record={node.record}"]
    with pytest.raises(TrustError, match="set aside"):
        cli.main(["check", f"--config={node.services / 'chat.yaml'}", *where])
    assert cli.main(["check", f"--config={node.services / 'embed.yaml'}", *where]) == 0


def test_a_last_pass_long_ago_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = tmp_path / "state.json"
    last = Pass("2000-01-01T00:00:00+00:00", ended="2000-01-01T01:00:00+00:00")
    State(last=last).write(record)
    config = tmp_path / "chat.yaml"
    config.write_text('model: "/models/x"\n')
    assert cli.main(["check", f"--config={config}", f"--record={record}", "--max-age=10"]) == 0
    assert "not verified completely within 10 days" in capsys.readouterr().err


def test_metrics_tell_what_is_bad_and_when_the_last_pass_ended() -> None:
    bad = Bad("a" * 64, "b" * 64, 5, "2026-01-01T00:00:00+00:00", "/q", ("r/content/m",), ('cha"t',))
    last = Pass("2026-01-01T00:00:00+00:00", files=3, size=9, ended="2026-01-01T00:00:00+00:00")
    text = metrics.render(State(last=last, bad=(bad,), total=42))
    lines = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert lines["appliance_store_verified_bytes_total"] == "42"
    assert lines["appliance_store_last_complete_pass_timestamp_seconds"] == "1767225600"
    assert lines["appliance_store_bad_files"] == "1"
    assert lines['appliance_store_bad_service{service="cha\\"t"}'] == "1"
    assert metrics.render(replace(State(), total=1)).count("# TYPE") == 7


def test_two_verifications_do_not_meet(node: Node) -> None:
    import fcntl

    node.record.parent.mkdir(parents=True)
    with (node.record.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        code, _ = node.verify()
    assert code == ApplianceError.exit_code
    assert "another verification is under way" in node.said
