"""Started for each watched node, around it: writes down every attempt of its processes to reach something over a network.

Runs as `python -m installer.lab.watch FILE -- COMMAND...`; FILE gets one JSON document a line. Calls go on as if nobody looked.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from engine.errors import ApplianceError
from installer.lab import notify
from installer.lab.notify import Call
from installer.lab.sighting import DNS, Sighting, command, destination, question, stays, unit

MOST_LINES = 20_000  # of one node; a loop that tries for ever must not fill the disk
MAX_QUERY = 1232  # bytes of a DNS message over UDP (RFC 9715)
MAX_MESSAGES = 16  # of one sendmmsg that are looked at
_SOCKADDR = 28  # bytes, struct sockaddr_in6


def main(argv: list[str]) -> int:
    """Exit with the code of the command."""
    out, separator, *wrapped = argv
    if separator != "--" or not wrapped:
        raise SystemExit("usage: python -m installer.lab.watch FILE -- COMMAND...")
    watcher = Watcher(Path(out))
    ready = threading.Event()

    def start() -> None:
        # The filter holds for this thread and what it starts; the main thread, which answers, stays free of it.
        try:
            watcher.listener = notify.listen()
        except ApplianceError as error:
            sys.stderr.write(f"{error}\n")  # the node's console, which whoever started it shows
            return
        finally:
            ready.set()
        os._exit(subprocess.call(wrapped))

    threading.Thread(target=start, daemon=True).start()
    ready.wait()
    if watcher.listener < 0:
        return 1
    watcher.serve()
    return 0


class Watcher:
    """Answers the notifications of one node."""

    def __init__(self, out: Path) -> None:
        self.listener = -1
        self._out = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._lines = 0
        self._asking: dict[tuple[int, int], tuple[str, int]] = {}  # sockets that were connected to a name server

    def serve(self) -> None:
        """For as long as this process lives."""
        while True:
            call = notify.receive(self.listener)
            if call is None:
                continue
            try:
                self._look(call)
            except (OSError, ValueError, struct.error) as error:
                # What it tried is unknown, and the reader has to know that.
                if notify.waits(self.listener, call):
                    self._write({"blind": f"{call.name}: {type(error).__name__}: {error}", "time": time.time()})
            finally:
                notify.proceed(self.listener, call)

    def _look(self, call: Call) -> None:
        arguments = call.arguments
        if call.name == "socket":
            self._note(call, None, "frame", "", 0)
        elif call.name == "connect":
            target = destination(self._memory(call, arguments[1], min(arguments[2], _SOCKADDR)))
            self._asking.pop((call.thread, arguments[0]), None)
            if target and not stays(*target):
                if target[1] == DNS:
                    self._asking[call.thread, arguments[0]] = target
                self._note(call, arguments[0], "", *target)
        elif call.name == "sendto":
            self._sent(call, arguments[4], arguments[5], (arguments[1], arguments[2]))
        else:
            self._messages(call)

    def _messages(self, call: Call) -> None:
        """sendmsg and sendmmsg: ``struct msghdr``, of 56 bytes, or 64 with a length in the latter."""
        count = min(call.arguments[2], MAX_MESSAGES) if call.name == "sendmmsg" else 1
        headers = self._memory(call, call.arguments[1], 64 * (count - 1) + 56)
        for number in range(count):
            name, name_length, vectors, n_vectors = struct.unpack_from("=QI4xQQ", headers, 64 * number)
            first = (0, 0)
            if vectors and n_vectors and self._asks(call, name):
                first = struct.unpack("=QQ", self._memory(call, vectors, 16))
            self._sent(call, name, name_length, first)

    def _asks(self, call: Call, address: int) -> bool:
        return bool(address) or (call.thread, call.arguments[0]) in self._asking

    def _sent(self, call: Call, address: int, length: int, payload: tuple[int, int]) -> None:
        """A message to a named address, or on a socket that was connected before."""
        if not self._asks(call, address):
            return
        if address:
            target = destination(self._memory(call, address, min(length, _SOCKADDR)))
        else:
            target = self._asking[call.thread, call.arguments[0]]
        if target is None or stays(*target):
            return
        asked = question(self._memory(call, payload[0], min(payload[1], MAX_QUERY))) if target[1] == DNS else ""
        if asked:
            self._note(call, None, "lookup", *target, name=asked)
        elif address:
            self._note(call, call.arguments[0], "", *target)

    def _memory(self, call: Call, address: int, size: int) -> bytes:
        if not address or not size:
            return b""
        with Path(f"/proc/{call.thread}/mem").open("rb", buffering=0) as memory:
            memory.seek(address)
            return memory.read(size) or b""

    def _note(self, call: Call, descriptor: int | None, kind: str, address: str, port: int, *, name: str = "") -> None:
        place = Path(f"/proc/{call.thread}")
        status = dict(line.split(":\t", 1) for line in (place / "status").read_text().splitlines() if ":\t" in line)
        process = int(status["Tgid"])
        sighting = Sighting(
            time=round(time.time(), 3),
            pid=process,
            process=status["Name"],
            command=command((place / "cmdline").read_bytes().decode(errors="replace").rstrip("\0").split("\0")),
            unit=unit((place / "cgroup").read_text()),
            kind=kind or _kind(process, descriptor or 0),
            address=address,
            port=port,
            name=name,
        )
        if notify.waits(self.listener, call):
            self._write(asdict(sighting))

    def _write(self, line: dict[str, object]) -> None:
        self._lines += 1
        if self._lines == MOST_LINES:
            line = {"blind": f"more than {MOST_LINES} attempts; the rest was not written down", "time": time.time()}
        if self._lines <= MOST_LINES:
            os.write(self._out, json.dumps(line).encode() + b"\n")


def _kind(process: int, descriptor: int) -> str:
    """What the socket speaks, asked of a copy of it."""
    with suppress(OSError), socket.socket(fileno=notify.borrow(process, descriptor)) as copy:
        return {socket.SOCK_STREAM: "tcp", socket.SOCK_DGRAM: "udp"}.get(copy.type, "raw")
    return "unknown"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
