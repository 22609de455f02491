"""Budgets over real processes: exact for parallel requests, never less than was generated, also over kill -9."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engine.gateway.configuration import KINDS
from tests import gatewaysite as lab
from tests.integration.gateway import flood
from tests.integration.gateway.running import Running, chat, running, wait_for

SCOPES = ("key", "project", "tenant", "model")
MANY, ROOM = 200, 10
MAX_TOKENS = 20


def _site(where: Path, workers: int) -> tuple[Running, list[tuple[str, str]]]:
    """A site with a tenant for each scope and kind of limit, and room for ten requests in each."""
    made = Running(where, workers=workers)
    cases = [(scope, kind) for scope in SCOPES for kind in KINDS]
    base, made.data["tenants"], made.data["models"] = made.data["models"][0], [], []
    for scope, kind in cases:
        name = f"{scope}-{kind.replace('_', '-')}"
        hold = -(-len(json.dumps(_body(name)).encode()) // 3) + MAX_TOKENS
        limits = {kind: ROOM * hold + hold - 1 if kind.startswith("tokens") else ROOM}

        def of(asked: str, scope: str = scope, limits: dict[str, int] = limits) -> dict[str, Any]:
            return {"limits": limits} if asked == scope else {}

        made.data["models"].append({**base, "name": name, "context_tokens": 1 << 20, **of("model")})
        key = lab.key_entry(f"k-{name}", _key(name), project="p", **of("key"))
        projects = [{"name": "p", **of("project")}]
        made.data["tenants"].append(
            {"name": name, "cost_centre": "1", "models": [name], "projects": projects, "keys": [key], **of("tenant")}
        )
    made.write()
    return made, cases


def _key(name: str) -> str:
    return f"sk-lab-{(name * 5)[:43]}"


def _body(name: str) -> dict[str, Any]:
    return chat("do:gate", max_tokens=MAX_TOKENS) | {"model": name}


@pytest.mark.parametrize("workers", [1, 4])
def test_of_200_parallel_requests_exactly_10_pass_where_there_is_room_for_10(workers: int, tmp_path: Path) -> None:
    site, cases = _site(tmp_path, workers)
    # With several workers one kind a scope: where requests meet is the same for all.
    chosen = cases if workers == 1 else cases[::6]
    sockets = [tmp_path / f"{name}.sock" for name in site.names]

    async def run(scope: str, kind: str) -> tuple[list[flood.Answer], int]:
        name = f"{scope}-{kind.replace('_', '-')}"
        raw = flood.request(_body(name), _key(name))
        tasks = [asyncio.create_task(flood.one(sockets[i % workers], raw)) for i in range(MANY)]
        while sum(t.done() for t in tasks) < MANY - ROOM:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        refused = [t.result() for t in tasks if t.done()]
        (tmp_path / "gate").touch()  # what was accepted waits until here, so nothing was given back meanwhile
        answers = await asyncio.gather(*tasks)
        (tmp_path / "gate").unlink()
        return answers, len(refused)

    try:
        site.start()
        for scope, kind in chosen:
            answers, refused = asyncio.run(asyncio.wait_for(run(scope, kind), 600))
            codes = sorted(a.status for a in answers)
            assert (codes, refused) == ([200] * ROOM + [429] * (MANY - ROOM), MANY - ROOM), (scope, kind)
            one = next(a for a in answers if a.status == 429)
            assert kind.replace("_", " ").split()[0] in one.json()["error"]["message"]
            assert int(one.headers["retry-after"]) >= 1
            name = f"{scope}-{kind.replace('_', '-')}"
            begun = [r for r in site.record("begin") if r["body"]["model"] == name]
            assert len(begun) == ROOM  # a refused request reached no model server
            wait_for(partial(_written, site, name, codes), "a line of each request")
    finally:
        site.stop()


def _written(site: Running, tenant: str, codes: list[int]) -> bool:
    return sorted(line["status"] for line in site.audit() if line.get("tenant") == tenant) == codes


def test_a_request_that_can_never_fit_is_told_so_at_once_and_an_unstated_length_is_cut_to_fit(tmp_path: Path) -> None:
    site = Running(tmp_path)
    site.data["tenants"][0]["limits"] = {"tokens_per_minute": 100}
    site.write()
    try:
        site.start()
        refused = site.ask(chat(max_tokens=200))
        assert (refused.status, refused.json()["error"]["code"]) == (400, "request_exceeds_limit")
        assert "retry-after" not in refused.headers
        assert site.ask(chat()).status == 200
        (begun,) = site.record("begin")
        assert 0 < begun["body"]["max_completion_tokens"] < 100
    finally:
        site.stop()


class _Load:
    """Clients that ask until they are stopped, with streams of different lengths; some leave before the end."""

    def __init__(self, site: Running, seed: int) -> None:
        self._sockets = [site.where / f"{name}.sock" for name in site.names]
        self._random = random.Random(seed)  # noqa: S311  # the same load in every run
        self.stopped = False

    async def client(self, number: int) -> None:
        while not self.stopped:
            tokens = self._random.randint(1, 40)
            raw = flood.request(
                chat(f"do:tokens={tokens} do:pause=0.005", stream=self._random.random() < 0.7, max_tokens=60), lab.KEY
            )
            try:
                async with asyncio.timeout(0.05 if self._random.random() < 0.2 else 60):
                    await flood.one(self._sockets[number % len(self._sockets)], raw)
            except TimeoutError:
                pass
            await asyncio.sleep(0.01)


def test_killing_ledger_and_workers_never_charges_less_than_was_generated(tmp_path: Path) -> None:
    site = Running(tmp_path, workers=2)
    site.data["ledger"] |= {"worker_grace_s": 1.0, "checkpoint_s": 1.0}
    site.data["tenants"][0]["limits"] = {"tokens_per_day": 1 << 40, "concurrent_requests": 1 << 40}
    site.write()
    chance = random.Random(19)  # noqa: S311  # the same rounds in every run

    async def run() -> None:
        load = _Load(site, 19)
        clients = [asyncio.create_task(load.client(i)) for i in range(12)]
        for _ in range(10):
            before = len(site.record("end"))
            while len(site.record("end")) < before + chance.randint(
                5, 25
            ):  # at any point of the load, however slow it is
                await asyncio.sleep(0.05)
            name = chance.choice(["ledger", "worker0", "worker1"])
            await asyncio.to_thread(site.kill, name)
            await asyncio.sleep(chance.uniform(0, 0.3))
            await asyncio.to_thread(site.ledger if name == "ledger" else partial(site.worker, name))
        await asyncio.sleep(1)
        load.stopped = True
        await asyncio.gather(*clients)

    try:
        site.start()
        asyncio.run(run())
        wait_for(lambda: site.budget()["tenant"]["concurrent_requests"]["used"] == 0, "all slots are free")
        wait_for(lambda: len(site.record("end")) == len(site.record("begin")), "the model server ended")
        used = site.budget()["tenant"]["tokens_per_day"]["used"]
        site.kill("ledger", signal.SIGTERM)
        lines = site.audit()
    finally:
        site.stop()
    charged = {line["request"]: line for line in lines if "request" in line}
    assert len(charged) == sum("request" in line for line in lines)  # each once
    for seen in site.record("end"):
        assert charged[seen["id"]]["charged_tokens"] >= seen["prompt"] + seen["generated"], (seen, charged[seen["id"]])
    assert used == sum(line["charged_tokens"] for line in lines)
    lost = [line for line in lines if line["outcome"] == "lost"]
    assert lost, "no round killed a worker that had requests"
    exact = [line for line in lines if line["outcome"] == "completed"]
    by_id = {seen["id"]: seen for seen in site.record("end")}
    assert len(exact) > 50
    assert all(
        line["charged_tokens"] == by_id[line["request"]]["prompt"] + by_id[line["request"]]["generated"]
        for line in exact
    )
    last = max((tmp_path / "exported").glob("checkpoint-*.json"))
    argv = [
        "audit",
        "verify",
        "--directory",
        tmp_path / "ledger/audit",
        "--key",
        tmp_path / "checkpoint.pub",
        "--checkpoint",
        last,
    ]
    done = subprocess.run(
        [sys.executable, "-m", "engine.gateway.cli", *map(str, argv)], capture_output=True, text=True, check=False
    )
    assert (done.returncode, json.loads(done.stdout)["faults"]) == (0, [])


def test_while_the_ledger_is_away_streams_go_on_and_new_requests_wait_or_are_told_when_to_come(tmp_path: Path) -> None:
    with running(tmp_path, bounds={"ledger_s": 0.5}) as site:
        answer = site.ask(chat("do:tokens=100 do:gate-at=50", stream=True), preload_content=False)
        stream = answer.stream(64)
        assert next(stream)
        site.kill("ledger")
        began = time.monotonic()
        refused = site.ask(chat())
        assert (refused.status, refused.json()["error"]["code"], refused.headers["retry-after"]) == (
            503,
            "unavailable",
            "5",
        )
        assert time.monotonic() - began < 60
        (tmp_path / "gate").touch()
        rest = b"".join(stream)
        assert rest.endswith(b"data: [DONE]\n\n")
        site.ledger()
        assert wait_for(lambda: site.ask(chat()).status == 200, "new requests")
        wait_for(
            lambda: [line for line in site.audit() if line.get("completion_tokens") == 100], "the line of the stream"
        )
        (line,) = [line for line in site.audit() if line.get("completion_tokens") == 100]
        assert (line["outcome"], line["estimated"]) == ("completed", False)
