"""The same artifact through aria2's BitTorrent: a candidate for the relay that was measured and not taken (decision 0040)."""

from __future__ import annotations

import hashlib
import shutil
import sys
import time
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from tests.bench.measure import call
from tests.links import CONTROL
from tests.relaysite import RelaySite

PIECE, PORT, TRACKER = 256 << 10, 6881, 6969
FILE = "content/models/m/weights.bin"


def encode(value: object) -> bytes:
    """Bencoding of bytes, numbers, lists and dictionaries (BEP 3)."""
    if isinstance(value, dict):
        return b"d" + b"".join(encode(k) + encode(v) for k, v in sorted(value.items())) + b"e"
    if isinstance(value, int):
        return b"i%de" % value
    assert isinstance(value, bytes)
    return b"%d:%s" % (len(value), value)


def spread(site: RelaySite, place: Path) -> float:
    """Seconds until every node has the file; a seeder on the control host, a tracker beside it."""
    place.mkdir()
    source = site.bundle.path / FILE
    data = source.read_bytes()
    pieces = b"".join(
        hashlib.sha1(data[i : i + PIECE], usedforsecurity=False).digest() for i in range(0, len(data), PIECE)
    )
    info = {b"name": source.name.encode(), b"length": len(data), b"piece length": PIECE, b"pieces": pieces}
    torrent = place / "file.torrent"
    torrent.write_bytes(encode({b"announce": f"http://{CONTROL}:{TRACKER}/announce".encode(), b"info": info}))
    started = [site.links.spawn("control", sys.executable, "-m", "tests.bench.torrent", CONTROL)]
    common = ["--quiet=true", "--enable-dht=false", "--bt-enable-lpd=false", "--enable-peer-exchange=true", f"--listen-port={PORT}",
              "--file-allocation=none", "--seed-ratio=0.0", "--bt-tracker-interval=1", "--follow-torrent=mem"]  # fmt: skip
    time.sleep(0.5)
    seed = ["--bt-seed-unverified=true", f"--dir={source.parent}", str(torrent)]
    started.append(site.links.spawn("control", "aria2c", *common, *seed))
    time.sleep(1)
    begin = time.perf_counter()
    try:
        waiting = {}
        for node in site.nodes:
            where = place / node
            where.mkdir()
            started.append(site.links.spawn(node, "aria2c", *common, f"--dir={where}", torrent))
            waiting[node] = where
        # The control file goes when the last piece is there and right.
        while waiting:
            waiting = {n: w for n, w in waiting.items() if not _complete(w / source.name, len(data))}
            time.sleep(0.02)
            if time.perf_counter() - begin > 300:
                raise SystemExit("bench: aria2 does not end")
        return time.perf_counter() - begin
    finally:
        for process in started:
            process.kill()
            process.wait()
        for node in site.nodes:
            if (place / node / source.name).exists():
                call(["cmp", source, place / node / source.name])
        shutil.rmtree(place)


def _complete(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size and not path.with_name(path.name + ".aria2").exists()


def _track(address: str) -> None:
    """A tracker: whoever announces is told of all others."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer  # only the tracker's process serves

    known: set[bytes] = set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            port = int(parse_qs(urlsplit(self.path).query)["port"][0])
            own = bytes(map(int, self.client_address[0].split("."))) + port.to_bytes(2, "big")
            body = encode({b"interval": 1, b"min interval": 1, b"peers": b"".join(known - {own})})
            known.add(own)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None: ...

    ThreadingHTTPServer((address, TRACKER), Handler).serve_forever()


if __name__ == "__main__":
    _track(sys.argv[1])
