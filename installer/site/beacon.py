"""Listen where the depot will be, while nodes are asked whether they reach it, and say a word that only this host knows."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from engine.rules.networks import with_port


@contextmanager
def listening(address: str, port: int, word: str) -> Iterator[str]:
    """Answer every connection with ``word`` until the block ends; yields why that cannot be, or nothing."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind((address, port))
            server.listen(128)
        except OSError as error:
            yield f"this host cannot listen on {with_port(address, port)}: {error.strerror}"
            return
        thread = threading.Thread(target=_serve, args=(server, word.encode()), daemon=True)
        thread.start()
        try:
            yield ""
        finally:
            with suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
            thread.join(5)


def _serve(server: socket.socket, word: bytes) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:  # shut down
            return
        with connection, suppress(OSError):
            connection.settimeout(2)
            connection.sendall(word)
