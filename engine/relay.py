"""What a node serves to its neighbours while a release is being fetched: blobs of that release by digest, and nothing else.

Reads the store that the fetch writes. A blob that is still arriving is served as far as it is there, for the fetch only writes
pieces that it has checked (engine.pieces). Whoever receives checks everything again.
"""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import json
import os
import re
import socket
import socketserver
import ssl
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import IO, Any, BinaryIO

from engine.blobs import Blobs
from engine.errors import InputError, ResourceError
from engine.pieces import PIECE

HANDSHAKE_S = 5.0
QUIET_S = 60.0  # a neighbour that neither asks nor takes anything for so long is let go
IDLE_S = 300.0  # nobody has been connected for so long: the run that wanted this relay is over or dead
CONNECTIONS = 128
HAVE = "X-Appliance-Have"
BLOB = re.compile(r"/sha256/([0-9a-f]{64})")
RANGE = re.compile(r"bytes=([0-9]{1,18})-")


@dataclass(frozen=True)
class Offer:
    """What may be asked for: sizes in bytes by SHA-256, and which of them may be served before they are complete."""

    sizes: dict[str, int]
    growing: frozenset[str]

    def dump(self) -> str:
        return json.dumps({"sizes": self.sizes, "growing": sorted(self.growing)})

    @classmethod
    def load(cls, path: Path) -> Offer:
        """Read what ``dump`` made.

        Raises:
            InputError: it is something else.
        """
        try:
            data = json.loads(path.read_bytes())
            return cls({str(k): int(v) for k, v in data["sizes"].items()}, frozenset(data["growing"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(
                f"the list of what may be relayed cannot be read: {error}",
                where=str(path),
                remedy="Run the install again; the fetch writes it.",
            ) from error


class Shelf:
    """The blobs behind an offer, as far as they are here."""

    def __init__(self, blobs: Blobs, offer: Offer) -> None:
        self._blobs = blobs
        self._offer = offer

    def size(self, sha256: str) -> int | None:
        """Bytes of the whole blob; None when it is not on offer."""
        return self._offer.sizes.get(sha256)

    def have(self, sha256: str) -> int:
        """Bytes of it that could be served now."""
        file = self.open(sha256)
        if file is None:
            return 0
        with file:
            return os.fstat(file.fileno()).st_size

    def open(self, sha256: str) -> BinaryIO | None:
        """The blob, or what is there of it; None when nothing is."""
        places = [self._blobs.path(sha256)]
        if sha256 in self._offer.growing:
            # Looked for on both sides of the first: it gets its final name in between.
            places += [self._blobs.root / "partial" / sha256, places[0]]
        for place in places:
            with contextlib.suppress(FileNotFoundError):
                return os.fdopen(os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb", buffering=0)
        return None


class Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A thread a connection, at most CONNECTIONS of them."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = True
    request_queue_size = 64

    def __init__(
        self,
        address: str,
        port: int,
        shelf: Shelf,
        context: ssl.SSLContext,
        peers: Collection[str],
        idle_s: float = IDLE_S,
    ) -> None:
        self.shelf = shelf
        self.context = context
        self.peers = frozenset(ipaddress.ip_address(p) for p in peers)
        self._places = threading.Semaphore(CONNECTIONS)
        self._idle_s = idle_s
        self._open: set[Any] = set()
        self._last = time.monotonic()
        ip = ipaddress.ip_address(address)
        self.address_family = socket.AF_INET6 if ip.version == 6 else socket.AF_INET
        try:
            super().__init__((address, port), Handler)
        except OSError as error:
            raise ResourceError(
                f"cannot relay: {error.strerror}",
                where=f"{address}:{port}",
                remedy="Free the port, or set relay.port in the site.",
            ) from error

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Only neighbours of this run get as far as a handshake."""
        if ipaddress.ip_address(client_address[0]) not in self.peers or not self._places.acquire(blocking=False):
            return False
        self._open.add(request)
        return True

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.discard(request)
            self._last = time.monotonic()
            self._places.release()

    def service_actions(self) -> None:
        if not self._open and time.monotonic() - self._last > self._idle_s:
            threading.Thread(target=self.shutdown, daemon=True).start()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A neighbour that hangs up is no fault."""


class Handler(BaseHTTPRequestHandler):
    """GET and HEAD of /sha256/DIGEST, with ranges that have no end."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "appliance", ""
    timeout = QUIET_S
    server: Server
    connection: socket.socket

    def setup(self) -> None:
        self.request.settimeout(HANDSHAKE_S)
        self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.request = self.server.context.wrap_socket(self.request, server_side=True)
        if not is_node(self.request.getpeercert() or {}, self.client_address[0]):
            self.request.close()
            raise ConnectionError("not the certificate of that node")
        super().setup()

    def finish(self) -> None:
        super().finish()
        self.request.close()

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: Any) -> None:
        """Not a line a blob; what matters is in the report of the node that fetched."""

    def _answer(self, *, body: bool) -> None:
        asked, shelf = BLOB.fullmatch(self.path), self.server.shelf
        size = shelf.size(asked[1]) if asked else None
        wanted = RANGE.fullmatch(self.headers.get("Range") or "bytes=0-")
        if asked is None or size is None:
            self._refuse(404)
        elif wanted is None or int(wanted[1]) > size:
            self._refuse(416)
        else:
            start = int(wanted[1])
            self.send_response(206 if "Range" in self.headers else 200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(size - start))
            self.send_header("Content-Range", f"bytes {start}-{max(size - 1, 0)}/{size}")
            self.send_header(HAVE, str(shelf.have(asked[1])))
            self.end_headers()
            if body and not self._send(asked[1], start, size):
                self.close_connection = True

    def _refuse(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send(self, sha256: str, start: int, size: int) -> bool:
        """Bytes as they arrive here; False when they stopped coming."""
        buffer, file, patience, pause = memoryview(bytearray(PIECE)), None, time.monotonic() + QUIET_S, 0.002
        try:
            while start < size:
                file = file or self.server.shelf.open(sha256)
                n = os.preadv(file.fileno(), [buffer[: size - start]], start) if file else 0
                if n:
                    self.connection.sendall(buffer[:n])
                    start, patience, pause = start + n, time.monotonic() + QUIET_S, 0.002
                elif time.monotonic() > patience or (file and _gone(file, start)):
                    return False
                else:
                    time.sleep(pause)
                    pause = min(pause * 1.5, 0.02)
            return True
        finally:
            if file:
                file.close()


def _gone(file: IO[bytes], start: int) -> bool:
    """Whether the file was thrown away, or cut behind what was sent of it."""
    now = os.fstat(file.fileno())
    return now.st_nlink == 0 or now.st_size < start


def is_node(certificate: Any, address: str) -> bool:
    """Whether a certificate, whose signature was checked, is that of the node at ``address``."""
    units = [
        value for names in certificate.get("subject", ()) for key, value in names if key == "organizationalUnitName"
    ]
    told = [value for kind, value in certificate.get("subjectAltName", ()) if kind == "IP Address"]
    return units == ["node"] and ipaddress.ip_address(address) in {ipaddress.ip_address(a.strip()) for a in told}


def server_context(ca: Path, certificate: Path, key: Path, crl: Path | None) -> ssl.SSLContext:
    """TLS 1.3, and no word with anybody who shows no certificate of the site's authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.num_tickets = 0  # sessions are not resumed: each connection proves itself
    try:
        context.load_verify_locations(cafile=str(ca))
        context.load_cert_chain(str(certificate), str(key))
        if crl is not None:
            context.load_verify_locations(cafile=str(crl))
            context.verify_flags |= ssl.VerifyFlags.VERIFY_CRL_CHECK_LEAF
    except (OSError, ssl.SSLError) as error:
        raise ResourceError(
            f"cannot use the node's certificate: {error}",
            where=str(certificate),
            remedy="Run the install again; it renews certificates.",
        ) from error
    return context


def serve(server: Server, ready: Callable[[], None]) -> None:
    """Until nobody has been connected for a while."""
    with server:
        ready()
        server.serve_forever(poll_interval=0.5)


def main(argv: list[str]) -> int:
    """`appliance-engine relay`: started by the fetch as a unit of its own; also closes that unit."""
    parser = argparse.ArgumentParser(
        prog="appliance-engine relay", description="Serve blobs of one release to neighbours."
    )
    parser.add_argument(
        "--close", action="store_true", help="end the relay of this node, if one runs, and nothing else"
    )
    parser.add_argument("--listen", default="", metavar="ADDRESS:PORT")
    parser.add_argument("--peer", action="append", default=[], dest="peers", metavar="ADDRESS", help="who may ask")
    parser.add_argument("--offer", type=Path, help="list of what may be asked for, as the fetch writes it")
    parser.add_argument("--blobs", type=Path, help="the store's directory of blobs")
    parser.add_argument("--tls", type=Path, help="directory with ca.crt, node.crt, node.key and crl.pem")
    options = parser.parse_args(argv)
    if options.close:
        from engine import relay_unit  # noqa: PLC0415  # the server itself starts no process

        print(json.dumps({"closed": relay_unit.close()}))  # noqa: T201
        return 0
    if not (options.listen and options.offer and options.blobs and options.tls):
        parser.error("--listen, --offer, --blobs and --tls are needed")
    address, port = split(options.listen)
    tls: Path = options.tls
    crl = tls / "crl.pem"
    context = server_context(tls / "ca.crt", tls / "node.crt", tls / "node.key", crl if crl.exists() else None)
    shelf = Shelf(Blobs(options.blobs), Offer.load(options.offer))
    serve(Server(address, port, shelf, context, options.peers), _tell_systemd)
    return 0


def split(listen: str) -> tuple[str, int]:
    """Address and port of ``ADDRESS:PORT``; IPv6 in brackets.

    Raises:
        InputError: it is not that.
    """
    address, _, port = listen.rpartition(":")
    try:
        return str(ipaddress.ip_address(address.strip("[]"))), int(port)
    except ValueError as error:
        raise InputError(f"{listen!r} is not ADDRESS:PORT", remedy="Write it like 192.0.2.21:7444.") from error


def _tell_systemd() -> None:
    """sd_notify(3): the unit is up."""
    place = os.environ.get("NOTIFY_SOCKET", "")
    if place:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notify:
            notify.connect("\0" + place[1:] if place.startswith("@") else place)
            notify.send(b"READY=1")
