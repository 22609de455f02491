"""The relay's program: what it tells whom. Each neighbour has an address of its own on loopback."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.blobs import Blobs
from engine.relay import Offer
from installer.pki import utc_now
from tests.bundles import PASSPHRASE
from tests.links import Certificates

HERE, FRIEND, STRANGER = "127.0.0.1", "127.0.0.2", "127.0.0.3"
DATA, OTHER = b"content " * 200_000, b"of another release"


class Door:
    """A relay that runs, and certificates to knock with."""

    def __init__(self, place: Path) -> None:
        self.site = Certificates(place / "site")
        self.elsewhere = Certificates(place / "elsewhere")
        self.tls = self.site.node("relay", HERE)
        self.friend = self.site.node("friend", FRIEND)
        blobs, source = Blobs(place / "blobs"), place / "source"
        digests = []
        for data in (DATA, OTHER):
            source.write_bytes(data)
            digests.append(blobs.keep(source)[0])
        self.digest, self.other = digests
        self.growing = "ab" * 32
        self.partial = blobs.root / "partial" / self.growing
        self.partial.parent.mkdir()
        (place / "offer").write_text(Offer({self.digest: len(DATA), self.growing: 8}, frozenset([self.growing])).dump())
        with socket.create_server((HERE, 0)) as free:
            self.port = free.getsockname()[1]
        argv = ["-m", "engine.cli", "relay", f"--listen={HERE}:{self.port}", f"--offer={place / 'offer'}",
                f"--blobs={blobs.root}", f"--tls={self.tls}", f"--peer={FRIEND}"]  # fmt: skip
        ready = place / "notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(str(ready))
            notify.settimeout(20)
            self.process = subprocess.Popen([sys.executable, *argv], env={"NOTIFY_SOCKET": str(ready)})
            assert notify.recv(100) == b"READY=1"

    def ask(
        self, request: str, *, shown: Path | None = None, source: str = FRIEND, trusted: Path | None = None
    ) -> tuple[bytes, bytes]:
        """Head and body of the answer.

        Raises:
            OSError: there is none.
        """
        context = ssl.create_default_context(cafile=str((trusted or self.tls) / "ca.crt"))
        if shown:
            context.load_cert_chain(shown / "node.crt", shown / "node.key")
        with (
            socket.create_connection((HERE, self.port), 5, source_address=(source, 0)) as plain,
            context.wrap_socket(plain, server_hostname=HERE) as tls,
        ):
            tls.sendall(f"{request}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            answer = b""
            while part := tls.recv(1 << 16):
                answer += part
        if not answer:
            raise ConnectionError("nothing came")
        head, _, body = answer.partition(b"\r\n\r\n")
        return head, body


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    made = Door(tmp_path_factory.mktemp("relay"))
    yield made
    made.process.kill()
    made.process.wait()


def test_a_neighbour_gets_a_blob_and_any_rest_of_it(door: Door) -> None:
    head, body = door.ask(f"GET /sha256/{door.digest} HTTP/1.1", shown=door.friend)
    assert head.startswith(b"HTTP/1.1 200")
    assert body == DATA
    head, body = door.ask(f"GET /sha256/{door.digest} HTTP/1.1\r\nRange: bytes=1000000-", shown=door.friend)
    assert head.startswith(b"HTTP/1.1 206")
    assert body == DATA[1_000_000:]
    head, body = door.ask(f"HEAD /sha256/{door.digest} HTTP/1.1", shown=door.friend)
    assert (f"X-Appliance-Have: {len(DATA)}".encode() in head, body) == (True, b"")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET /sha256/{other} HTTP/1.1", 404),  # it lies there, and is of another release
        ("GET /sha256/../offer HTTP/1.1", 404),
        ("GET / HTTP/1.1", 404),
        ("GET /sha256/{digest} HTTP/1.1\r\nRange: bytes=0-5", 416),
        ("GET /sha256/{digest} HTTP/1.1\r\nRange: bytes=99999999999-", 416),
        ("PUT /sha256/{digest} HTTP/1.1\r\nContent-Length: 0", 501),
        ("DELETE /sha256/{digest} HTTP/1.1", 501),
    ],
)
def test_nothing_else_is_answered(door: Door, request_line: str, status: int) -> None:
    head, _ = door.ask(request_line.format(digest=door.digest, other=door.other), shown=door.friend)
    assert head.split(b" ")[1] == str(status).encode()


def test_bytes_of_a_growing_blob_come_when_they_are_there(door: Door) -> None:
    door.partial.write_bytes(b"half")

    def grow() -> None:
        time.sleep(0.1)
        with door.partial.open("ab") as file:
            file.write(b"done")

    writer = threading.Thread(target=grow)
    writer.start()
    assert door.ask(f"GET /sha256/{door.growing} HTTP/1.1", shown=door.friend)[1] == b"halfdone"
    writer.join()


def test_a_growing_blob_that_is_thrown_away_ends_the_answer(door: Door) -> None:
    door.partial.write_bytes(b"bad")
    threading.Timer(0.1, door.partial.unlink).start()
    try:
        body = door.ask(f"GET /sha256/{door.growing} HTTP/1.1", shown=door.friend)[1]
    except OSError:  # the end comes without a goodbye
        body = b""
    assert len(body) < 8


def knocks(door: Door, who: str) -> dict[str, Any]:
    """Certificates and addresses that must not be let in."""
    ways: dict[str, Callable[[], dict[str, Any]]] = {
        "without a certificate": lambda: {},
        "of another authority": lambda: {"shown": door.elsewhere.node("friend", FRIEND)},
        "a tenant": lambda: {"shown": door.site.node("tenant", FRIEND, "client")},
        "a node that is not of this run": lambda: {"shown": door.site.node("stranger", STRANGER), "source": STRANGER},
        "a node in the place of another": lambda: {"shown": door.site.node("stranger", STRANGER)},
    }
    return ways[who]()


@pytest.mark.parametrize(
    "who",
    [
        "without a certificate", "of another authority", "a tenant", "a node that is not of this run", "a node in the place of another",
    ],
)  # fmt: skip
def test_strangers_get_no_answer(door: Door, who: str) -> None:
    with pytest.raises(OSError):  # a reset, an alert or an end, as TLS likes
        door.ask(f"GET /sha256/{door.digest} HTTP/1.1", **knocks(door, who))


def test_a_neighbour_that_was_revoked_is_refused_from_the_next_run_on(tmp_path: Path) -> None:
    made = Door(tmp_path)
    made.process.kill()
    made.process.wait()
    made.site.authority.revoke("friend", passphrase=PASSPHRASE, now=utc_now())
    (made.tls / "crl.pem").write_bytes(made.site.authority.crl_path.read_bytes())
    argv = ["-m", "engine.cli", "relay", f"--listen={HERE}:{made.port}", f"--offer={tmp_path / 'offer'}",
            f"--blobs={tmp_path / 'blobs'}", f"--tls={made.tls}", f"--peer={FRIEND}"]  # fmt: skip
    made.process = subprocess.Popen([sys.executable, *argv])
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection((HERE, made.port), 1).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        with pytest.raises(OSError):
            made.ask(f"GET /sha256/{made.digest} HTTP/1.1", shown=made.friend)
    finally:
        made.process.kill()
        made.process.wait()


def test_a_taken_port_is_one_sentence(door: Door, tmp_path: Path) -> None:
    (tmp_path / "offer").write_text(json.dumps({"sizes": {}, "growing": []}))
    argv = [
        "relay",
        f"--listen={HERE}:{door.port}",
        f"--offer={tmp_path / 'offer'}",
        f"--blobs={tmp_path}",
        f"--tls={door.tls}",
    ]
    done = subprocess.run([sys.executable, "-m", "engine.cli", *argv], capture_output=True, text=True, check=False)
    assert done.returncode == 6
    assert "cannot relay: Address already in use" in json.loads(done.stderr)["error"]["what"]
