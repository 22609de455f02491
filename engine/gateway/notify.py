"""Tell systemd what state a service is in (sd_notify)."""

from __future__ import annotations

import os
import socket


def ready() -> None:
    """The service answers; does nothing where systemd does not wait for it."""
    tell(b"READY=1")


def tell(message: bytes) -> None:
    """Send one message to the service manager."""
    if not (where := os.environ.get("NOTIFY_SOCKET")):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto(message, f"\0{where[1:]}" if where.startswith("@") else where)
