"""What changes while the gateway runs: keys, issuers, wrong configurations, a full disk; and when it says that it is ready."""

from __future__ import annotations

import copy
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests import gatewaysite as lab
from tests.integration.gateway.running import Running, chat, running, wait_for

LONG = "do:tokens=100000 do:pause=0.02"
NEW_KEY = "sk-lab-" + "n" * 43


@pytest.fixture(scope="module")
def provider() -> lab.Provider:
    made = lab.Provider()
    for kid in ("old", "new"):
        made.add(kid, "RS256")
    return made


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, provider: lab.Provider) -> Iterator[Running]:
    where = tmp_path_factory.mktemp("site")
    (where / "jwks.json").write_text(json.dumps(provider.jwks("old")))
    with running(where, workers=2, issuers=[lab.issuer(where / "jwks.json")]) as made:
        yield made


@contextmanager
def _stream(site: Running, key: str, worker: int = 0) -> Iterator[Iterator[bytes]]:
    answer = site.ask(chat(LONG, stream=True, max_tokens=256), preload_content=False, key=key, worker=worker)
    parts = answer.stream(64)
    assert b"data: " in next(parts)
    yield parts
    answer.close()


def _code(raw: bytes) -> str:
    """The code of the error that a stream ended with."""
    event = raw.decode().strip().split("\n\n")[-1]
    code: str = json.loads(event.removeprefix("data: "))["error"]["code"]
    return code


def _changed(site: Running, **changes: Any) -> dict[str, Any]:
    data = copy.deepcopy(site.data)
    return data | changes


def _applied(site: Running, data: dict[str, Any]) -> None:
    """Write a configuration and wait until it is in force."""
    before = len(site.audit("administrative"))
    site.write(data)
    wait_for(lambda: len(site.audit("administrative")) > before, "the change")


def test_a_revoked_key_is_refused_and_its_streams_end_on_every_worker(site: Running) -> None:
    with (
        _stream(site, lab.KEY, 0) as first,
        _stream(site, lab.KEY, 1) as second,
        _stream(site, lab.OTHER_KEY, 1) as other,
    ):
        data = _changed(site)
        data["tenants"][0]["keys"] = []
        _applied(site, data)
        assert [_code(b"".join(stream)) for stream in (first, second)] == ["credential_revoked"] * 2
        assert next(other)
        for worker in (0, 1):
            refused = wait_for(partial(_refused, site, lab.KEY, worker), "401")
            assert refused.json()["error"]["code"] == "invalid_api_key"
    ended = wait_for(lambda: [line for line in site.audit() if line["code"] == "credential_revoked"], "their lines")
    assert {line["outcome"] for line in ended} == {"ended"}
    assert site.audit("administrative")[-1]["removed"] == ["credential a-1"]
    _applied(site, site.data)
    wait_for(lambda: site.ask(chat()).status == 200, "the key again")


def _refused(site: Running, key: str, worker: int) -> Any:
    answer = site.ask(chat(), key=key, worker=worker)
    return answer if answer.status == 401 else None


def test_a_key_is_replaced_without_one_refusal(site: Running) -> None:
    data = _changed(site)
    data["tenants"][0]["keys"].append(lab.key_entry("a-2", NEW_KEY))
    _applied(site, data)
    wait_for(lambda: site.ask(chat(), key=NEW_KEY).status == 200, "the new key")
    assert [
        site.ask(chat(), key=key, worker=w).status for key in (lab.KEY, NEW_KEY) for w in (0, 1) for _ in range(20)
    ] == [200] * 80
    _applied(site, site.data)
    wait_for(lambda: site.ask(chat(), key=NEW_KEY).status == 401, "the end of the new key")
    assert site.ask(chat(), key=lab.KEY).status == 200


def test_a_key_set_changes_in_one_step_and_a_removed_key_ends_streams(site: Running, provider: lab.Provider) -> None:
    old, new = provider.token("old"), provider.token("new")
    assert [site.ask(chat(), key=t).status for t in (old, new)] == [200, 401]

    def written(*kids: str) -> None:
        path = site.where / "jwks.json.new"
        path.write_text(json.dumps(provider.jwks(*kids)))
        path.replace(site.where / "jwks.json")

    written("old", "new")
    wait_for(lambda: site.ask(chat(), key=new).status == 200, "the second key")
    with _stream(site, old) as stream:
        assert [site.ask(chat(), key=t, worker=w).status for t in (old, new) for w in (0, 1)] == [200] * 4
        written("new")
        assert _code(b"".join(stream)) == "credential_revoked"
    assert [site.ask(chat(), key=t).status for t in (old, new)] == [401, 200]
    (site.where / "jwks.json").write_text("{")  # half written: the last good set stays in force
    wait_for(lambda: site.audit("administrative")[-1]["act"] == "configuration refused", "the refusal")
    assert site.ask(chat(), key=new).status == 200
    written("old")
    wait_for(lambda: site.ask(chat(), key=old).status == 200, "the first key again")


WRONG = ("models: [", "schema: 2", "surplus: 1", "tenants: 5", "cache_salt_seed: short")


def _acts(site: Running, before: int) -> list[dict[str, Any]]:
    return site.audit("administrative")[before:]


def test_wrong_configurations_are_refused_whole_and_no_stream_notices(site: Running) -> None:
    with _stream(site, lab.OTHER_KEY) as stream:
        good = site.config.read_text()
        for number, line in enumerate(WRONG):
            before = len(site.audit("administrative"))
            new = site.config.with_suffix(".new")
            new.write_text(f"{good}{line}\n")
            new.replace(site.config)
            found = wait_for(partial(_acts, site, before), f"the refusal of {line}")[-1]
            assert found["act"] == "configuration refused"
            assert f"{site.config}:" in found["reason"], found
            assert site.ask(chat(), worker=number % 2).status == 200
        site.config.write_text(good)
        assert next(stream)


def test_a_change_of_limits_is_in_force_without_a_restart(site: Running) -> None:
    data = _changed(site)
    data["tenants"][1]["limits"] = {"requests_per_minute": 0}
    with _stream(site, lab.KEY) as stream:
        _applied(site, data)
        wait_for(lambda: site.ask(chat(), key=lab.OTHER_KEY).status == 400, "the limit")
        assert next(stream)
    _applied(site, site.data)


@pytest.mark.skipif(os.geteuid() != 0, reason="a file system of its own needs root")
def test_a_full_disk_refuses_new_work_and_keeps_streams(tmp_path: Path) -> None:
    (tmp_path / "ledger").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", tmp_path / "ledger"], check=True)
    try:
        with running(tmp_path) as site:
            answer = site.ask(chat("do:tokens=60 do:gate-at=30", stream=True), preload_content=False)
            stream = answer.stream(64)
            assert next(stream)
            ballast = tmp_path / "ledger/ballast"
            with ballast.open("wb", buffering=0) as file:
                while True:
                    try:
                        file.write(b"x" * 4096)
                    except OSError:
                        break
            refused = wait_for(lambda: (a := site.ask(chat())).status == 503 and a, "the refusal")
            assert refused.json()["error"]["code"] == "unavailable"
            (tmp_path / "gate").touch()
            assert b"".join(stream).endswith(b"data: [DONE]\n\n")
            ballast.unlink()
            wait_for(lambda: site.ask(chat()).status == 200, "new work")
            line = wait_for(
                lambda: [r for r in site.audit() if r.get("request") == answer.headers["x-request-id"]],
                "the line of the stream",
            )[0]
            assert (line["outcome"], line["completion_tokens"]) == ("completed", 60)
    finally:
        subprocess.run(["umount", tmp_path / "ledger"], check=True)


def test_ledger_and_worker_say_that_they_are_ready_after_their_self_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(where))
        manager.settimeout(240)
        monkeypatch.setenv("NOTIFY_SOCKET", str(where))
        site = Running(tmp_path)
        try:
            site.ledger()
            assert manager.recv(64) == b"READY=1"
            site.worker("worker0")
            assert manager.recv(64) == b"READY=1"
            assert site.ask(chat(), "/v1/models", method="GET").status == 200
        finally:
            site.stop()


def test_a_worker_ends_its_streams_before_it_stops(tmp_path: Path) -> None:
    with running(tmp_path) as site:
        answer = site.ask(chat("do:tokens=60 do:gate-at=30", stream=True), preload_content=False)
        stream = answer.stream(64)
        assert next(stream)
        old = site.processes.pop("worker0")
        site.worker("worker0")  # a new one takes the name of the socket
        old.terminate()
        assert site.ask(chat()).status == 200
        assert old.poll() is None
        (tmp_path / "gate").touch()
        assert b"".join(stream).endswith(b"data: [DONE]\n\n")
        assert old.wait(240) in (0, -15)  # uvicorn ends by the signal when it is done


def test_settings_of_the_ledger_need_a_restart_and_say_so(tmp_path: Path) -> None:
    with running(tmp_path) as site:
        assert site.ask(chat()).status == 200
        data = _changed(site)
        data["ledger"]["checkpoint_s"] = 1.0
        site.write(data)
        found = wait_for(
            lambda: [a for a in site.audit("administrative") if a["act"] == "configuration refused"], "the refusal"
        )[0]
        assert "Restart the ledger" in found["reason"]
        assert site.ask(chat()).status == 200
