"""Whatever tries to reach out of a watched node is seen at the call, whatever stands in its way."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.process import run
from installer.lab import cgroups, network, state
from installer.lab.lab import Lab, down, labs, up
from installer.lab.plan import names_of
from installer.lab.sighting import Sighting
from installer.rehearse.attempts import read

pytestmark = pytest.mark.nodes

PRELUDE = "import contextlib, ctypes, socket\nsocket.setdefaulttimeout(0.5)\nwith contextlib.suppress(OSError):\n    "
QUERY = b"\7\7\1\0\0\1\0\0\0\0\0\0\4data\7example\3org\0\0\1\0\1"
# What is tried, and kind, address, port and name that must have been seen.
TRIES = {
    "tcp": ("socket.create_connection(('203.0.113.9', 443))", ("tcp", "203.0.113.9", 443, "")),
    "udp-query": (
        "n = next(l.split()[1] for l in open('/etc/resolv.conf') if l.startswith('nameserver'));"
        f"socket.socket(type=socket.SOCK_DGRAM).sendto({QUERY!r}, (n, 53))",
        ("lookup", "127.0.0.1", 53, "data.example.org"),
    ),
    "query-elsewhere": (
        f"socket.socket(type=socket.SOCK_DGRAM).sendto({QUERY!r}, ('203.0.113.53', 53))",
        ("lookup", "203.0.113.53", 53, "data.example.org"),
    ),
    "getaddrinfo": ("socket.getaddrinfo('huggingface.co', 443)", ("lookup", "127.0.0.1", 53, "huggingface.co")),
    "one-query": ("socket.gethostbyname('hub.example.org')", ("lookup", "127.0.0.1", 53, "hub.example.org")),
    "ipv6": ("socket.socket(socket.AF_INET6).connect(('2001:db8::9', 443))", ("tcp", "2001:db8::9", 443, "")),
    "sendto": ("socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('203.0.113.9', 123))", ("udp", "203.0.113.9", 123, "")),
    "sendmsg": (
        "socket.socket(type=socket.SOCK_DGRAM).sendmsg([b'x'], [], 0, ('203.0.113.9', 514))",
        ("udp", "203.0.113.9", 514, ""),
    ),
    "icmp": (
        "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).sendto(bytes(8), ('203.0.113.9', 0))",
        ("raw", "203.0.113.9", 0, ""),
    ),
    "frames": ("socket.socket(socket.AF_PACKET, socket.SOCK_RAW)", ("frame", "", 0, "")),
}  # fmt: skip
QUIET = (
    "socket.create_connection(('127.0.0.1', 9))",
    "socket.socket(socket.AF_UNIX).connect('/nowhere')",
    "socket.getaddrinfo('localhost', 80)",
)
SHUT = "table inet shut { chain output { type filter hook output priority 0; policy drop; oifname lo accept; ct state established accept; }\n}\n"


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    name = f"watch-{os.getpid()}"
    made = up(name, host_names=["gpu-1"], watch=True, owner_pid=os.getpid())
    try:
        yield made
    finally:
        down(name)


def tried(lab: Lab, command: str) -> list[Sighting]:
    """What was seen while the command ran on the node."""
    file = lab.sightings(lab.nodes[0])
    before = len(file.read_text())
    done = subprocess.run(
        [*lab.ssh(lab.nodes[0].address), command], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    seen, blind = read(file.read_text()[before:])
    assert blind == []
    return seen


def _init(lab: Lab) -> int:
    """The node's first process, as this host sees it: the one whose root is the node's disk and that is 1 inside."""
    record = state.read(lab.name)
    assert record is not None
    for pid in cgroups.pids(record.cgroups):
        try:
            status = Path(f"/proc/{pid}/status").read_text()
        except FileNotFoundError:  # it ended meanwhile; the first process does not
            continue
        if any(line.split()[0] == "NSpid:" and line.split()[-1] == "1" for line in status.splitlines() if line.strip()):
            return pid
    raise AssertionError("the node has no first process")


def python(code: str) -> str:
    return shlex.join(["python3", "-c", PRELUDE + code])


def check(seen: list[Sighting], expected: tuple[str, str, int, str], unit: str) -> None:
    mine = [s for s in seen if (s.kind, s.address, s.port, s.name) == expected]
    assert mine, seen
    assert {(s.process, s.unit) for s in mine} == {("python3", unit)}
    assert all("python3 -c" in s.command for s in mine)


@pytest.mark.parametrize("what", TRIES)
def test_every_way_out_is_seen_with_its_caller(lab: Lab, what: str) -> None:
    code, expected = TRIES[what]
    check(tried(lab, python(code)), expected, "ssh.service")


@pytest.mark.parametrize("what", ["tcp", "getaddrinfo", "ipv6", "udp-query"])
def test_a_service_without_a_network_is_seen_as_well(lab: Lab, what: str) -> None:
    """As the model servers are: loopback alone, so no packet ever begins."""
    code, expected = TRIES[what]
    run_it = f"systemd-run --quiet --wait --collect --unit=served.service -p PrivateNetwork=yes -p PrivateUsers=yes {python(code)}"
    check(tried(lab, run_it), expected, "served.service")


def test_a_firewall_on_the_node_does_not_hide_an_attempt(lab: Lab) -> None:
    inside = ["nsenter", "--net", f"--target={_init(lab)}", "nft"]
    run([*inside, "-f", "-"], stdin=SHUT)
    try:
        code, expected = TRIES["tcp"]
        check(tried(lab, python(code)), expected, "ssh.service")
    finally:
        run([*inside, "delete", "table", "inet", "shut"])


@pytest.mark.parametrize("code", QUIET)
def test_what_stays_on_the_node_is_not_told(lab: Lab, code: str) -> None:
    assert tried(lab, python(code)) == []


def test_what_left_the_node_is_counted_where_the_lab_ends(lab: Lab) -> None:
    before = network.left(names_of(lab.name))
    tried(lab, python(TRIES["tcp"][0]))
    assert network.left(names_of(lab.name)) > before


def test_the_kernel_s_other_door_is_shut(lab: Lab) -> None:
    """io_uring would connect past the filter."""
    code = (
        "r = ctypes.CDLL(None, use_errno=True).syscall(425, 1, bytes(120)); assert (r, ctypes.get_errno()) == (-1, 38)"
    )
    tried(lab, python(code))


def test_a_node_is_named_as_asked_and_knows_no_name_server(lab: Lab) -> None:
    done = run([*lab.ssh(lab.nodes[0].address), "hostname && cat /etc/resolv.conf"])
    assert done.stdout.split() == ["gpu-1", "nameserver", "127.0.0.1"]
    assert [n.name for found, is_up in labs() if found.name == lab.name and is_up for n in found.nodes] == ["gpu-1"]


def test_the_record_is_json_that_root_alone_reads(lab: Lab) -> None:
    file = lab.sightings(lab.nodes[0])
    assert file.stat().st_mode & 0o077 == 0
    assert all(json.loads(line)["time"] > 0 for line in file.read_text().splitlines())
