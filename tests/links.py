"""Nodes in network namespaces behind links of a chosen rate, for tests and benchmarks of the relay.

The bridge has a namespace of its own: in the root one, packet filters of other programs would look at bridged frames.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.process import run
from installer.pki import Authority, utc_now
from tests.bundles import PASSPHRASE

TREE = Path(__file__).resolve().parents[1]
CONTROL = "10.99.0.1"
DEPOT_PORT, RELAY_PORT = 7443, 7444
_NUMBERS = itertools.count()


@dataclass
class Agent:
    """A process in a namespace that does what it is told, one JSON line at a time (tests/linknode.py)."""

    name: str
    address: str
    process: subprocess.Popen[str]

    def tell(self, **order: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order, default=str) + "\n")
        self.process.stdin.flush()

    def answer(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise AssertionError(f"{self.name} ended: {self.process.wait()}")
        said: dict[str, Any] = json.loads(line)
        return said

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Links:
    """A control host and ``count`` nodes, each with its own link of ``rate`` in both directions (as tc understands it)."""

    def __init__(self, count: int, rate: str = "") -> None:
        self._prefix = f"al{os.getpid()}x{next(_NUMBERS)}"
        self.names = ["control", *(f"n{i}" for i in range(1, count + 1))]
        self.agents: dict[str, Agent] = {}
        self._switch = f"{self._prefix}-sw"
        try:
            run(["ip", "netns", "add", self._switch])
            self._in(self._switch, "ip", "link", "add", "br0", "type", "bridge")
            self._in(self._switch, "ip", "link", "set", "br0", "up")
            for name in self.names:
                self._connect(name)
                if rate:
                    self.shape(name, rate)
        except BaseException:
            self.close()
            raise

    def address(self, name: str) -> str:
        return CONTROL if name == "control" else f"10.99.0.{10 + int(name[1:])}"

    def namespace(self, name: str) -> str:
        return f"{self._prefix}-{name}"

    def _in(self, namespace: str, *argv: str | Path) -> None:
        run(["ip", "netns", "exec", namespace, *argv])

    def _connect(self, name: str) -> None:
        namespace = self.namespace(name)
        run(["ip", "netns", "add", namespace])
        run(["ip", "-n", namespace, "link", "add", "eth0", "type", "veth", "peer", "name", name, "netns", self._switch])
        run(["ip", "-n", namespace, "addr", "add", f"{self.address(name)}/24", "dev", "eth0"])
        for argv in (["-n", namespace, "link", "set", "lo", "up"], ["-n", namespace, "link", "set", "eth0", "up"],
                     ["-n", self._switch, "link", "set", name, "master", "br0", "up"]):  # fmt: skip
            run(["ip", *argv])

    def shape(self, name: str, rate: str) -> None:
        """Give a link another rate."""
        for namespace, device in ((self.namespace(name), "eth0"), (self._switch, name)):
            run(["tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", "tbf", "rate", rate, "burst", "128kb",
                 "latency", "50ms"])  # fmt: skip

    def unplug(self, name: str) -> None:
        """Nothing passes and nobody is told."""
        run(["ip", "-n", self._switch, "link", "set", name, "down"])

    def plug(self, name: str) -> None:
        run(["ip", "-n", self._switch, "link", "set", name, "up"])

    def spawn(self, name: str, *argv: str | Path, **settings: Any) -> subprocess.Popen[str]:
        return subprocess.Popen(
            ["ip", "netns", "exec", self.namespace(name), *map(str, argv)], cwd=TREE, text=True, **settings
        )

    def agent(self, name: str) -> Agent:
        """The process of a node; started when it is first needed."""
        if name not in self.agents or self.agents[name].process.poll() is not None:
            process = self.spawn(
                name, sys.executable, "-m", "tests.linknode", stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            self.agents[name] = Agent(name, self.address(name), process)
            self.agents[name].answer()
        return self.agents[name]

    def close(self) -> None:
        for agent in self.agents.values():
            agent.kill()
        for name in [*map(self.namespace, self.names), self._switch]:
            subprocess.run(["ip", "netns", "pids", name], check=False, capture_output=True)
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


class Certificates:
    """A site's authority with a passphrase in a file, and node directories as the role pki makes them."""

    def __init__(self, place: Path) -> None:
        self.directory = place
        self.authority = Authority(place / "ca")
        self.passphrase = place / "passphrase"
        place.mkdir(parents=True, exist_ok=True)
        self.passphrase.write_text(PASSPHRASE)
        self.authority.create("site", PASSPHRASE, now=utc_now())

    def node(self, name: str, address: str, kind: Any = "node") -> Path:
        """Directory with ca.crt, crl.pem, node.crt and node.key."""
        where = self.directory / name
        where.mkdir(exist_ok=True)
        key, certificate = self.authority.issue(
            kind=kind, name=name, names=[name, address], passphrase=PASSPHRASE, days=2, now=utc_now()
        )
        (where / "node.key").write_bytes(key)
        (where / "node.key").chmod(0o600)
        (where / "node.crt").write_bytes(certificate)
        (where / "ca.crt").write_bytes(self.authority.certificate_path.read_bytes())
        (where / "crl.pem").write_bytes(self.authority.crl_path.read_bytes())
        return where


@contextlib.contextmanager
def links(count: int, rate: str = "") -> Iterator[Links]:
    made = Links(count, rate)
    try:
        yield made
    finally:
        made.close()


def order(names: Sequence[str], name: str) -> list[str]:
    """Who is before ``name``, nearest first."""
    return list(reversed(names[: names.index(name)]))
