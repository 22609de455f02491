"""How long eight nodes take to get one artifact over links of 200 Mbit/s each, whatever happens to one of them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.bench import torrent
from tests.bench.measure import Claim, Pair, call, command
from tests.bench.slices import slices
from tests.bundles import make
from tests.links import links
from tests.relaysite import RelaySite

NODES, SIZE, RATE = 8, 100_000_000, "200mbit"
MODEL = "content/models/m/weights.bin"
CLAIMS = (
    Claim("relay-8-nodes", "s", "one node from the depot", 1.15),
    Claim("relay-against-star", "s", "eight nodes from the depot", 0.16),
    Claim("relay-against-ansible", "s", "ansible's copy to the eight nodes, eight forks", 0.05),
    Claim("relay-against-aria2", "s", "aria2 with BitTorrent, plain text, piece exchange", 1.0),
    Claim("relay-against-nginx", "s", "a chain of nginx caching slices of 1 MiB, plain text", 1.0),
    Claim("relay-node-dies", "s", "the same undisturbed; the seven others", 1.5),
    Claim("relay-node-slow", "s", "the same undisturbed; the seven others", 1.5),
)


def pairs(work: Path, only: str) -> Iterator[Pair]:
    """All stores lie in a tmpfs: nodes have disks of their own, and these eight would share one."""
    with ExitStack() as stack:
        work.chmod(0o711)
        place = stack.enter_context(_memory(work / "memory"))
        network = stack.enter_context(links(NODES, RATE))
        site = RelaySite(network, place, make(place / "bundles", {MODEL.removeprefix("content/"): os.urandom(SIZE)}))
        stack.enter_context(site.served())
        for node in site.nodes:
            network.agent(node)

        def relay() -> float:
            return _fetch(site, site.nodes)

        yield Pair("relay-8-nodes", relay, lambda: _fetch(site, site.nodes[:1]))
        yield Pair("relay-against-star", relay, lambda: _fetch(site, site.nodes, chained=False), rounds=3, warm=False)
        if only in "relay-against-ansible":
            yield Pair("relay-against-ansible", relay, lambda: _ansible(site), rounds=3, warm=False)
        if only in "relay-against-aria2":
            yield Pair("relay-against-aria2", relay, lambda: torrent.spread(site, place / "torrent"), rounds=3)
        if only in "relay-against-nginx":
            yield Pair("relay-against-nginx", relay, lambda: slices(site, place / "slices"), rounds=3)
        yield Pair("relay-node-dies", lambda: _fetch(site, site.nodes, fault=_die), relay, rounds=5, warm=False)
        yield Pair("relay-node-slow", lambda: _fetch(site, site.nodes, fault=_slow), relay, rounds=5, warm=False)


def _fetch(
    site: RelaySite, nodes: list[str], *, chained: bool = True, fault: Callable[[RelaySite, str], None] | None = None
) -> float:
    """Seconds until the last of the nodes has everything; with a fault in the fourth, until the last of the others has."""
    odd = nodes[3] if fault else ""
    begin = time.perf_counter()
    for node in nodes:
        site.start(node, chain=nodes if chained and len(nodes) > 1 else None)
    if fault:
        partial = site.store(odd) / "blobs" / "partial" / site.files[MODEL][0]
        while not partial.exists() or partial.stat().st_size < SIZE // 2:
            time.sleep(0.01)
        fault(site, odd)
    others = [n for n in nodes if n != odd]
    said = site.finish(*others)
    took = time.perf_counter() - begin
    if bad := [s for s in said.values() if "error" in s]:
        raise SystemExit(f"bench: {bad[0]['error']}")
    if fault:
        site.links.agents[odd].kill()
        site.links.plug(odd)
        site.links.shape(odd, RATE)
        site.links.agent(odd)
    if not all(site.holds(n) for n in others):
        raise SystemExit("bench: a node holds other bytes than were sent")
    site.close_relays(*nodes)
    site.forget()
    return took


def _die(site: RelaySite, node: str) -> None:
    site.links.unplug(node)


def _slow(site: RelaySite, node: str) -> None:
    site.links.shape(node, "20mbit")


def _ansible(site: RelaySite) -> float:
    """Seconds of one playbook with one task, and sshd on every node."""
    where = site.place / "ansible"
    where.mkdir()
    call(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", where / "key"])
    Path("/run/sshd").mkdir(exist_ok=True)
    servers, hosts, stack = [], {}, ExitStack()
    for node in site.nodes:
        address = site.links.address(node)
        options = [f"-oHostKey={where / 'key'}", f"-oAuthorizedKeysFile={where / 'key.pub'}", f"-oPidFile={where / node}.pid",
                   "-oStrictModes=no", "-oPasswordAuthentication=no", "-oUsePAM=no", "-oPermitRootLogin=yes",
                   "-oSubsystem=sftp internal-sftp"]  # fmt: skip
        servers.append(
            site.links.spawn(node, "/usr/sbin/sshd", "-D", "-f", "/dev/null", f"-oListenAddress={address}", *options)
        )
        hosts[node] = {"ansible_host": address, "target": str(site.store(node) / "weights.bin")}
        site.store(node).mkdir(parents=True)
    shared = {"ansible_ssh_private_key_file": str(where / "key"), "ansible_python_interpreter": "/usr/bin/python3",
              "ansible_ssh_common_args": "-oStrictHostKeyChecking=no -oUserKnownHostsFile=/dev/null"}  # fmt: skip
    (where / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts, "vars": shared}}))
    task = {"ansible.builtin.copy": {"src": str(site.bundle.path / MODEL), "dest": "{{ target }}", "mode": "0644"}}
    (where / "play.yml").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": [task]}]))
    try:
        time.sleep(1)
        sockets = stack.enter_context(tempfile.TemporaryDirectory(prefix="appl-"))  # a socket's path must be short
        argv = ["ip", "netns", "exec", site.links.namespace("control"), shutil.which("ansible-playbook") or "",
                "-i", str(where / "hosts.json"), "-f", str(NODES), str(where / "play.yml")]  # fmt: skip
        environment = os.environ | {"ANSIBLE_PIPELINING": "1", "ANSIBLE_SSH_CONTROL_PATH_DIR": sockets}
        took = command(*argv, env=environment)()
    finally:
        stack.close()
        for server in servers:
            server.send_signal(signal.SIGTERM)
            server.wait()
    shutil.rmtree(where)
    site.forget()
    return took


@contextmanager
def _memory(place: Path) -> Iterator[Path]:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3g,mode=0755", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)
