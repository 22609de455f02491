"""Ports that are taken, ways that are open, names that resolve. Connections are opened and closed; nothing is sent."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
import struct
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from engine.preflight import reading
from engine.preflight.facts import Listener, Network, Question, Reach
from engine.preflight.probe_leases import leases

TIMEOUT_S = 3.0
NAME_TIMEOUT_S = 6.0
MAX_LISTENERS = 512
MAX_WORD = 256  # bytes of what the control host says
_LISTEN = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}  # states of tcp_states.h; 7 is an unconnected socket


def network(question: Question) -> Network:
    """All of it. Attempts to connect run at the same time, so that silence costs its time once."""
    targets = list(question.outside) + ([question.control] if question.control else [])
    with ThreadPoolExecutor(max(1, len(targets))) as pool:
        control = pool.submit(reach, question.control, question.word) if question.control else None
        outside = [pool.submit(reach, target) for target in question.outside]
        names = resolve([*question.outside_names, socket.gethostname()])
        return Network(
            listeners=listeners(),
            control=control.result() if control else None,
            outside=tuple(attempt.result() for attempt in outside),
            default_route=_default_route(),
            nameservers=tuple(re.findall(r"^\s*nameserver\s+(\S{1,64})", reading.text("/etc/resolv.conf"), re.M)[:8]),
            asked_outside=question.outside_names,
            resolved_outside=tuple(name for name in question.outside_names if names.get(name)),
            own_name=socket.gethostname(),
            own_addresses=names.get(socket.gethostname(), ()),
            leases=leases(),
        )


def reach(target: tuple[str, int], word: str = "") -> Reach:
    """Connect to an address and port; with ``word`` the other side must say exactly that."""
    address, port = target
    name = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
    try:
        with socket.create_connection((address, port), timeout=TIMEOUT_S) as connection:
            if not word:
                return Reach(name, "connected", "")
            said = b""
            while len(said) < len(word) and (more := connection.recv(MAX_WORD)):
                said += more
            return Reach(name, "connected" if said == word.encode() else "wrong", "")
    except OSError as error:
        if error.errno is None or isinstance(error, TimeoutError):  # before Python 3.10 a timeout was another class
            return Reach(name, "silent", f"no answer within {TIMEOUT_S:g} s")
        unroutable = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
        return Reach(name, "unroutable" if error.errno in unroutable else "refused", error.strerror or str(error))


def resolve(names: list[str]) -> dict[str, tuple[str, ...]]:
    """Addresses of names as programs here get them. A resolver that hangs is left behind after NAME_TIMEOUT_S."""
    found: dict[str, tuple[str, ...]] = {}

    def one(name: str) -> None:
        with suppress(OSError):
            found[name] = tuple(sorted({str(entry[4][0]) for entry in socket.getaddrinfo(name, None)}))[:8]

    threads = [threading.Thread(target=one, args=(name,), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + NAME_TIMEOUT_S
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(found)


def listeners(proc: Path = Path("/proc")) -> tuple[Listener, ...]:
    """Bound ports with their owners. Without root the owners of others' sockets stay unknown (pid 0)."""
    sockets = {}
    for protocol, state in _LISTEN.items():
        for line in reading.text(proc / "net" / protocol).splitlines()[1:]:
            fields = line.split()
            if len(fields) > 9 and fields[3] == state:
                address, port = fields[1].split(":")
                sockets[fields[9]] = (protocol.rstrip("6"), _address(address), int(port, 16))
    owners = _owners(proc, set(sockets))
    found = [Listener(*bound, *owners.get(inode, (0, "", ""))) for inode, bound in sockets.items()]
    return tuple(sorted(found, key=lambda x: (x.port, x.protocol, x.address, x.pid))[:MAX_LISTENERS])


def _owners(proc: Path, inodes: set[str]) -> dict[str, tuple[int, str, str]]:
    found = {}
    for process in proc.glob("[0-9]*"):
        with suppress(OSError):
            for descriptor in (process / "fd").iterdir():
                with suppress(OSError):
                    match = re.fullmatch(r"socket:\[(\d+)\]", str(descriptor.readlink()))
                    if match and match[1] in inodes:
                        found[match[1]] = (int(process.name), reading.text(process / "comm", 64), _unit(process))
    return found


def _unit(process: Path) -> str:
    """The innermost systemd unit that the process's control group belongs to."""
    names = re.findall(r"([^/\n]+\.(?:service|socket|scope))", reading.text(process / "cgroup"))
    return names[-1] if names else ""


def _address(raw: str) -> str:
    """An address of /proc/net: words of the machine's own byte order, in hexadecimal."""
    words = [struct.pack("=I", int(raw[i : i + 8], 16)) for i in range(0, len(raw), 8)]
    return str(ipaddress.ip_address(b"".join(words)))


def _default_route() -> bool:
    four = [line.split() for line in reading.text("/proc/net/route").splitlines()[1:]]
    six = [line.split() for line in reading.text("/proc/net/ipv6_route").splitlines()]
    return any(f[1] == "00000000" and f[7] == "00000000" for f in four if len(f) > 7) or any(
        f[0] == "0" * 32 and f[1] == "00" and f[9] != "lo" for f in six if len(f) > 9
    )
