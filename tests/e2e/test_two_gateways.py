"""Two nodes that are gateways and serve, with the real engine: an upgrade, and a rollback, that no client notices."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import urllib3
import yaml

from installer.lab.lab import Lab, down, up
from tests.demo import TREE, Demo, install_argv, site_environment
from tests.e2e.asked import PLAIN
from tests.e2e.onenode import following

pytestmark = [pytest.mark.nodes, pytest.mark.slow]


@dataclass
class Seen:
    """What a client got that asks one gateway, and the other on a fresh connection when the first does not answer."""

    answers: int = 0
    retried: int = 0
    failed: list[str] = field(default_factory=list)


@pytest.fixture(scope="module")
def lab(demo: Demo) -> Iterator[Lab]:
    """Two nodes."""
    name = f"two-{os.getpid()}"
    made = up(name, nodes=2, owner_pid=os.getpid())
    site_environment(demo, made)
    try:
        yield made
    finally:
        down(name)


@pytest.fixture(scope="module")
def site(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's inventory with two nodes, each of which is everything."""
    where = tmp_path_factory.mktemp("two") / "site"
    shutil.copytree(TREE / "inventories/demo", where)
    hosts = yaml.safe_load((where / "hosts.yml").read_text())
    both = {f"node-{n}": {"ansible_host": one.address} for n, one in enumerate(lab.nodes, 1)}
    hosts["all"]["children"] = {"gateway": {"hosts": both}, "gpu": {"hosts": dict.fromkeys(both)}}
    (where / "hosts.yml").write_text(yaml.safe_dump(hosts))
    return where


@contextmanager
def asking(demo: Demo, lab: Lab) -> Iterator[Seen]:
    """Somebody asks all the time while the block runs."""
    out = demo.work / "client"
    if not (out / "demo.crt").exists():
        demo.appliance("certs", "client", "demo", "--dir", demo.work / "control" / "ca", "--out", out)
    context = ssl.create_default_context(cafile=str(out / "ca.crt"))
    context.load_cert_chain(out / "demo.crt", out / "demo.key")
    seen, over, body = Seen(), threading.Event(), json.dumps(PLAIN)

    def one(address: str) -> str:
        """Why there was no answer; empty when there was."""
        pool = urllib3.PoolManager(ssl_context=context, retries=False, timeout=120)
        url = f"https://{address}:8443/v1/chat/completions"
        try:
            answer = pool.request("POST", url, body=body, headers={"Content-Type": "application/json"})
        except urllib3.exceptions.HTTPError as error:
            return repr(error)
        return "" if answer.status == 200 else f"{answer.status} {answer.data[:200]!r}"

    def always() -> None:
        turn = 0
        while not over.is_set():
            first, second = (lab.nodes[(turn + n) % 2].address for n in (0, 1))
            turn += 1
            if one(first):
                seen.retried += 1
                if why := one(second):
                    seen.failed.append(why)
                    continue
            seen.answers += 1
            over.wait(0.2)

    thread = threading.Thread(target=always)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join(150)


def releases(outcome: dict[str, Any]) -> list[str]:
    return sorted(outcome["rollout"]["batches"][0] + outcome["rollout"]["batches"][1])


def test_an_upgrade_and_the_way_back_fail_no_request(demo: Demo, lab: Lab, site: Path) -> None:
    first = demo.appliance(*install_argv(demo, site), demo.bundle, json_output=True)
    assert first["good"], first["failures"]
    control = demo.work / "control"
    with asking(demo, lab) as seen:
        made = demo.appliance(*install_argv(demo, site), following(demo), json_output=True)
        assert made["good"], made["failures"]
        assert releases(made) == ["node-1", "node-2"] and len(made["rollout"]["batches"]) == 2
        places = [w for n in ("ca", "runs") for w in (f"--{n}", control / n)]
        back = demo.appliance("rollback", "-i", site, *places, "--site-keys", control / "site", json_output=True)
        assert {n["release"] for n in back["nodes"].values()} == {"demo-1.0.0"}
    assert seen.failed == []
    # Each node was away twice, and clients did notice that much: they asked the other one.
    assert seen.retried > 0 and seen.answers > 20
