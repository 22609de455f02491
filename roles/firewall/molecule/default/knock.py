"""Knock at ports of a node, all at once: knock.py ADDRESS {"22": true, "9999": false, …}; exits with 1 when one is not as it should be.

A port that should be open is tried again until it answers or 20 s are over; one that should be shut is tried once, for 2 s.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor


def answers(address: str, port: int) -> bool:
    """A connection comes about; of SSH, also its greeting."""
    try:
        with socket.create_connection((address, port), 2) as line:
            return port != 22 or line.recv(100).startswith(b"SSH-2.0-OpenSSH")
    except OSError:
        return False


def as_wanted(address: str, port: int, wanted: bool) -> bool:
    deadline = time.monotonic() + 20
    while (found := answers(address, port)) != wanted and wanted and time.monotonic() < deadline:
        time.sleep(0.1)
    return found == wanted


def main() -> int:
    address, wanted = sys.argv[1], {int(port): bool(opened) for port, opened in json.loads(sys.argv[2]).items()}
    with ThreadPoolExecutor(len(wanted)) as pool:
        good = dict(zip(wanted, pool.map(lambda port: as_wanted(address, port, wanted[port]), wanted), strict=True))
    for port in (p for p, fine in good.items() if not fine):
        print(f"port {port} of {address} should be {'open' if wanted[port] else 'shut'}", file=sys.stderr)
    return 0 if all(good.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
