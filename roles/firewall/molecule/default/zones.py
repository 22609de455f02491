"""Neighbours of the node in four zones, as network namespaces behind veth pairs, and what they must and must not reach.

zones.py up | down      make or remove the interfaces and neighbours
zones.py check          try everything; prints one JSON document; an assertion says what was wrong
"""

from __future__ import annotations

import json
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ZONES = {"man": 1, "inf": 2, "sto": 3, "peer": 4}
LISTED = {"man": {22}, "inf": {8444}, "sto": set(), "peer": {7444}}
NOBODY = 9998  # listens everywhere and is listed nowhere
SOURCE_PORT = 40404
ALL = range(1, 65536)


def node(zone: str, version: int) -> str:
    return f"10.91.{ZONES[zone]}.1" if version == 4 else f"2001:db8:91:{ZONES[zone]}::1"


def neighbour(zone: str, version: int) -> str:
    return node(zone, version) + "1"


def sh(command: str) -> str:
    return subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout


def up() -> None:
    for zone, number in ZONES.items():
        inside = f"ip netns exec n-{zone}"
        sh(f"""
          ip netns add n-{zone}
          ip link add {zone}0 type veth peer name eth0 netns n-{zone}
          ip addr add {node(zone, 4)}/24 dev {zone}0; ip addr add {node(zone, 6)}/64 dev {zone}0 nodad
          {inside} ip addr add {neighbour(zone, 4)}/24 dev eth0; {inside} ip addr add {neighbour(zone, 6)}/64 dev eth0 nodad
          ip link set {zone}0 up; {inside} ip link set lo up; {inside} ip link set eth0 up
        """)
        for other in set(ZONES.values()) - {number}:
            sh(f"""
              {inside} ip route add 10.91.{other}.0/24 via {node(zone, 4)}
              {inside} ip -6 route add 2001:db8:91:{other}::/64 via {node(zone, 6)}
            """)
    # Nothing may pass from one zone to another, also on a node that forwards.
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")


def down() -> None:
    for zone in ZONES:
        subprocess.run(f"ip link del {zone}0; ip netns del n-{zone}", shell=True, check=False, capture_output=True)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("0")
    Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("0")


def scan(asked: list[tuple[str, Iterable[int]]], source: str, *, wait_s: float = 0.7) -> set[tuple[str, int]]:
    """Addresses and ports of one IP version that answered a bare SYN in any way, asked from this network namespace."""
    version = 6 if ":" in source else 4
    family = socket.AF_INET6 if version == 6 else socket.AF_INET
    found: set[tuple[str, int]] = set()
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_TCP) as out:
        out.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        if version == 6:
            out.setsockopt(socket.IPPROTO_IPV6, 7, 16)  # IPV6_CHECKSUM: the kernel fills it in at this offset
        listening = threading.Event()
        listening.set()

        def listen() -> None:
            while listening.is_set():
                if not select.select([out], [], [], 0.1)[0]:
                    continue
                packet, sender = out.recvfrom(256)
                segment = packet[(packet[0] & 15) * 4 :] if version == 4 else packet
                if struct.unpack("!H", segment[2:4])[0] == SOURCE_PORT:
                    found.add((sender[0], struct.unpack("!H", segment[:2])[0]))

        listener = threading.Thread(target=listen)
        listener.start()
        for target, ports in asked:
            ends = socket.inet_aton(source) + socket.inet_aton(target) if version == 4 else b""
            pseudo = ends + struct.pack("!HH", 6, 20) if ends else b""
            for count, port in enumerate(ports):
                out.sendto(syn(port, pseudo), (target, 0))
                if count % 256 == 255:
                    time.sleep(0.003)
        time.sleep(wait_s)
        listening.clear()
        listener.join()
    return found


def look(zone: str) -> list[tuple[str, int]]:
    """What a neighbour in ``zone`` is answered by: every port of the node's address there, those that listen somewhere at its
    other addresses, and the neighbours of the other zones, who are one hop away from a node that forwards."""
    found: set[tuple[str, int]] = set()
    for version in (4, 6):
        asked: list[tuple[str, Iterable[int]]] = [(node(zone, version), ALL)]
        asked += [(node(other, version), (22, 7444, 8444, NOBODY)) for other in set(ZONES) - {zone}]
        asked += [(neighbour(other, version), (22, 7000)) for other in set(ZONES) - {zone}]
        found |= scan(asked, neighbour(zone, version))
    return sorted(found)


def syn(port: int, pseudo: bytes) -> bytes:
    head = struct.pack("!HHIIBBH", SOURCE_PORT, port, 7, 0, 5 << 4, 2, 1024)
    total = sum(struct.unpack(f"!{(len(pseudo) + 20) // 2}H", pseudo + head + bytes(4))) if pseudo else 0
    total = (total >> 16) + (total & 0xFFFF)
    return head + struct.pack("!HH", ~((total >> 16) + total) & 0xFFFF if pseudo else 0, 0)


def within(zone: str, *arguments: object) -> object:
    """Run a verb of this file among the neighbours of ``zone``."""
    said = subprocess.run(
        ["ip", "netns", "exec", f"n-{zone}", sys.executable, __file__, *map(str, arguments)],
        check=True, capture_output=True, text=True, timeout=120,
    ).stdout  # fmt: skip
    return json.loads(said)


def counter(name: str) -> int:
    listed = json.loads(sh(f"nft -j list counter inet appliance {name}"))
    return sum(e["counter"]["packets"] for e in listed["nftables"] if "counter" in e)


def forged(source: str, target: str, through: str) -> None:
    """A SYN to port 22 of ``target`` that claims to come from ``source``, as a frame for the node behind ``through``."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind(("eth0", 0))
        mac = bytes.fromhex(through.replace(":", ""))
        if ":" in target:
            a, b = (socket.inet_pton(socket.AF_INET6, x) for x in (source, target))
            pseudo = a + b + struct.pack("!IHBB", 20, 0, 0, 6)
            packet = struct.pack("!IHBB", 6 << 28, 20, 6, 64) + a + b + syn(22, pseudo)
            kind = 0x86DD
        else:
            a, b = socket.inet_aton(source), socket.inet_aton(target)
            head = struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0, 64, 6, 0) + a + b
            total = sum(struct.unpack("!10H", head))
            total = (total >> 16) + (total & 0xFFFF)
            packet = head[:10] + struct.pack("!H", ~((total >> 16) + total) & 0xFFFF) + head[12:]
            packet += syn(22, a + b + struct.pack("!HH", 6, 20))
            kind = 0x0800
        out.send(mac + out.getsockname()[4] + struct.pack("!H", kind) + packet)


def check() -> dict[str, object]:
    said: dict[str, object] = {}
    with ThreadPoolExecutor(len(ZONES)) as pool:
        seen = dict(zip(ZONES, pool.map(lambda zone: within(zone, "look", zone), ZONES), strict=True))
    for zone, listed in LISTED.items():
        expected = sorted([node(zone, version), port] for version in (4, 6) for port in listed)
        assert seen[zone] == expected, f"{zone}: {seen[zone]} answered and not {expected}"
        said[zone] = seen[zone]
    for zone in set(ZONES) - {"man"}:
        for version in (4, 6):
            before, denied = counter("spoof_denied"), counter("ingress_denied")
            for target in (node(zone, version), node("man", version)):
                mac = Path(f"/sys/class/net/{zone}0/address").read_text().strip()
                within(zone, "forge", neighbour("man", version), target, mac)
            assert counter("spoof_denied") >= before + 2, f"{zone}: a forged source was not dropped as one"
            said[f"forged {zone}{version}"] = [counter("spoof_denied") - before, counter("ingress_denied") - denied]
    # Not even the question who has an address of another zone is answered.
    assert within("sto", "who-has", node("man", 4)) == []
    assert within("sto", "who-has", node("sto", 4)) != []
    said["flow"] = flow()
    return said


def flow() -> list[str]:
    """The storage flow leaves by the storage interface and by no other, at both doors."""
    target = neighbour("sto", 4)
    with subprocess.Popen(
        ["ip", "netns", "exec", "n-sto", sys.executable, "-m", "http.server", "2049"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    ) as server:  # fmt: skip
        try:
            deadline = time.monotonic() + 10
            while (first := knock(target)) != "connected" and time.monotonic() < deadline:
                time.sleep(0.1)
            assert first == "connected", first
            right = frame("sto0", target)
            sh(f"ip route add {target}/32 via {neighbour('inf', 4)} dev inf0")
            before = counter("egress_denied")
            second = knock(target)
            assert second.startswith("refused"), second
            assert counter("egress_denied") > before
            wrong = frame("inf0", target)
            assert (right, wrong) == ("sent", "refused ENOBUFS"), (right, wrong)
        finally:
            subprocess.run(["ip", "route", "del", f"{target}/32"], check=False, capture_output=True)
            server.terminate()
    return [first, second, right, wrong]


def knock(target: str) -> str:
    try:
        socket.create_connection((target, 2049), 2).close()
    except OSError as error:
        return f"refused {error}"
    return "connected"


def frame(interface: str, target: str) -> str:
    import errno

    head = (
        struct.pack("!BBHHHBBH", 0x45, 0, 40, 1, 0, 64, 6, 0) + socket.inet_aton("10.91.3.1") + socket.inet_aton(target)
    )
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind((interface, 0))
        try:
            out.send(bytes(12) + b"\x08\x00" + head + struct.pack("!HHIIBBHHH", 1, 2049, 7, 0, 5 << 4, 2, 1024, 0, 0))
        except OSError as error:
            return f"refused {errno.errorcode[error.errno or 0]}"
    return "sent"


def who_has(target: str) -> list[str]:
    """Hardware addresses that answered for ``target`` on eth0."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as out:
        out.bind(("eth0", 0x0806))
        mac = out.getsockname()[4]
        own = socket.inet_aton(neighbour("sto", 4))
        ask = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + mac + own + bytes(6) + socket.inet_aton(target)
        out.send(b"\xff" * 6 + mac + b"\x08\x06" + ask)
        found, deadline = set(), time.monotonic() + 1
        while (left := deadline - time.monotonic()) > 0 and select.select([out], [], [], left)[0]:
            said = out.recv(64)
            if said[20:22] == b"\x00\x02" and said[28:32] == socket.inet_aton(target):
                found.add(said[22:28].hex())
    return sorted(found)


if __name__ == "__main__":
    verb, *rest = sys.argv[1:]
    match verb:
        case "up":
            up()
        case "down":
            down()
        case "look":
            print(json.dumps(look(rest[0])))
        case "forge":
            forged(*rest)
            print("null")
        case "who-has":
            print(json.dumps(who_has(rest[0])))
        case _:
            print(json.dumps(check()))
