"""What runs in the namespace of a node (tests/links.py): the product's fetch and relay, told by lines of JSON.

The relay is a child with the rights of nobody instead of a unit of systemd, which a namespace does not have. As a liar it flips
bits of what it sends, which the product cannot do.
"""

from __future__ import annotations

import ctypes
import json
import os
import pwd
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine import relay
from engine.blobs import Blobs
from engine.chain import Chain
from engine.errors import ApplianceError
from engine.fetch import Door, tls_pool
from engine.process import run
from installer.site.controlpki import server_tls
from installer.site.serve import serving


class Child:
    """Opens and closes a relay that is a child of this process."""

    def __init__(self, order: dict[str, Any], pki: Path, store: Path) -> None:
        self._order = order
        self._pki = pki
        self._store = store
        self.pid = 0

    def open(self, offer: relay.Offer) -> bool:
        ready, said = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.close(ready)
                self._serve(offer, said)
            finally:
                os._exit(1)
        os.close(said)
        up = os.read(ready, 1) == b"1"
        os.close(ready)
        return up

    def _serve(self, offer: relay.Offer, said: int) -> None:
        pki = self._pki
        context = relay.server_context(pki / "ca.crt", pki / "node.crt", pki / "node.key", pki / "crl.pem")
        if self._order.get("lie") is not None:
            _lie(int(self._order["lie"]))
        nobody = pwd.getpwnam("nobody")
        os.setgroups([])
        os.setgid(nobody.pw_gid)
        os.setuid(nobody.pw_uid)
        ctypes.CDLL(None).prctl(
            1, signal.SIGKILL
        )  # PR_SET_PDEATHSIG: no relay outlives a killed agent and keeps its port
        shelf = relay.Shelf(Blobs(self._store / "blobs"), offer)
        server = relay.Server(self._order["address"], self._order["port"], shelf, context, self._order["downstream"])

        def ready() -> None:
            os.write(said, b"1")

        relay.serve(server, ready)

    def close(self) -> bool:
        if not self.pid:
            return False
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)
        self.pid = 0
        return True


def _lie(after: int) -> None:
    """From this byte of a blob on, the first bit of whatever is sent at once is wrong."""
    honest = os.preadv

    def preadv(fd: int, buffers: Sequence[Any], offset: int) -> int:
        n = honest(fd, buffers, offset)
        if n and offset >= after:
            buffers[0][0] ^= 1
        return n

    os.preadv = preadv  # type: ignore[assignment]


def fetch(order: dict[str, Any], children: list[Child]) -> dict[str, Any]:
    """One fetch. Seconds are of the whole: metadata, relay, content, view."""
    begin = time.monotonic()
    pki, store = Path(order["pki"]), Path(order["store"])
    pool = tls_pool(pki / "ca.crt", pki / "node.crt", pki / "node.key")
    chain = None
    if "downstream" in order:
        children.append(Child(order, pki, store))
        chain = Chain(order["upstream"], order["port"], children[-1])
    door = Door(store, order["url"], pool, Path(order["root"]).read_bytes(), chain=chain)
    try:
        return asdict(door.fetch(order["release"], {"gpu"})) | {"seconds": time.monotonic() - begin}
    except ApplianceError as error:
        return {"error": str(error), "kind": type(error).__name__, "seconds": time.monotonic() - begin}
    finally:
        pool.clear()


def main() -> None:
    """Until standard input ends."""
    run(["true"])  # whatever is loaded on first use is loaded before anybody measures
    children: list[Child] = []
    _say({"ready": True})
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "fetch":
            _say(fetch(order, children))
        elif order["do"] == "close":
            _say({"closed": [c.close() for c in children]})
            children.clear()
        elif order["do"] == "depot":
            tls = server_tls(Path(order["ca"]), Path(order["passphrase"]), order["address"])
            lists = Path(order["lists"]) if order["lists"] else None
            with serving(Path(order["bundles"]), order["address"], order["port"], tls, lists) as url:
                _say({"url": url})
                sys.stdin.readline()
            _say({"ended": True})
    for child in children:
        child.close()


def _say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
