"""A source that sends a byte now and then ends a fetch in bounded time, and is named with file and rate."""

from __future__ import annotations

import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from engine.blobs import Blobs
from engine.download import Downloader, Item
from engine.errors import TrustError, UpstreamError
from engine.fetch import Door, main
from engine.neighbours import Neighbourly
from engine.pace import KIB, Pace, Pool, Watch
from engine.report import Silent
from engine.sources import Source, Sources
from tests.bundles import make

DATA = bytes(range(256)) * (16 << 10)  # 4 MiB
SHA = hashlib.sha256(DATA).hexdigest()
FAST = Pace(lowest_rate=512 * KIB, window_s=1.0, begin_s=60.0)
LIMIT_S = 30.0  # far beyond the window, for a busy machine; the sources here never end by themselves
Answer = Callable[[socket.socket, threading.Event], None]


def trickle(connection: socket.socket, over: threading.Event, head: bytes = b"") -> None:
    with suppress(OSError):
        connection.sendall(head)
        while not over.wait(0.02):
            connection.sendall(b"x")


def body(connection: socket.socket, over: threading.Event) -> None:
    trickle(connection, over, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DATA) + DATA[: 64 << 10])


def closing(connection: socket.socket, over: threading.Event) -> None:
    trickle(connection, over, b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(DATA))


def headers(connection: socket.socket, over: threading.Event) -> None:
    trickle(connection, over, b"HTTP/1.1 200 OK\r\nX-Never: ")


def chunks(connection: socket.socket, over: threading.Event) -> None:
    with suppress(OSError):
        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while not over.wait(0.02):
            connection.sendall(b"1\r\nx\r\n")


def whole(connection: socket.socket, over: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DATA))
    for start in range(0, len(DATA), 256 << 10):  # slower than it could, faster than it must
        connection.sendall(DATA[start : start + (256 << 10)])
        over.wait(0.1)


@contextmanager
def serve(answer: Answer) -> Iterator[str]:
    """A server on loopback that answers every connection's first request in this way."""
    over, threads = threading.Event(), []
    listener = socket.create_server(("127.0.0.1", 0))

    def one(connection: socket.socket) -> None:
        with connection:
            connection.recv(65536)
            answer(connection, over)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threads.append(threading.Thread(target=one, args=(connection,)))
                threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        over.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("answer", [body, closing, headers, chunks])
@pytest.mark.parametrize("files", [1, 3])
def test_a_source_that_trickles_is_left_and_named(tmp_path: Path, answer: Answer, files: int) -> None:
    begin = time.monotonic()
    with serve(answer) as url, pytest.raises(UpstreamError, match="too little comes") as failed:
        pool = Pool(timeout=30.0)
        items = [Item(f"content/weights-{n}", f"{url}/w{n}", f"{n:064x}", len(DATA)) for n in range(files)]
        with Watch(FAST, pool, url) as watch:
            watch.expect(sum(i.size for i in items))
            Downloader(Blobs(tmp_path), pool=pool, watch=watch).fetch_all(items)
    assert time.monotonic() - begin < LIMIT_S
    message = str(failed.value)
    assert "content/weights-" in message
    assert f"from {url}/w" in message
    assert "KiB/s in the last 1 s, and 512.0 KiB/s is the lowest rate" in message
    assert "--lowest-rate" in message


def test_a_slow_source_above_the_lowest_rate_is_waited_for(tmp_path: Path) -> None:
    with serve(whole) as url:
        pool = Pool(timeout=30.0)
        with Watch(FAST, pool, url) as watch:
            watch.expect(len(DATA))
            assert Downloader(Blobs(tmp_path), pool=pool, watch=watch).fetch_all(
                [Item("a", url, SHA, len(DATA))]
            ) == len(DATA)


def test_what_arrived_before_is_kept(tmp_path: Path) -> None:
    def most(connection: socket.socket, over: threading.Event) -> None:
        trickle(connection, over, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(DATA) + DATA[: 3 << 20])

    with serve(most) as url, pytest.raises(UpstreamError, match="too little comes"):
        pool = Pool(timeout=30.0)
        with Watch(FAST, pool, url) as watch:
            watch.expect(len(DATA))
            Downloader(Blobs(tmp_path), pool=pool, watch=watch).fetch_all([Item("a", url, SHA, len(DATA))])
    assert (tmp_path / "partial" / SHA).read_bytes().startswith(DATA[: 3 << 20])


def test_the_deadline_follows_from_the_size(tmp_path: Path) -> None:
    pace = Pace(lowest_rate=8 << 20, window_s=60.0, begin_s=1.0)  # 4 MiB in 1.5 s, and no window ends before
    assert pace.deadline_s(len(DATA)) == 1.5
    with (
        serve(body) as url,
        pytest.raises(UpstreamError, match=r"did not end within 2 s, which 4,194,304 bytes may take at") as failed,
    ):
        pool = Pool(timeout=30.0)
        with Watch(pace, pool, url) as watch:
            watch.expect(len(DATA))
            Downloader(Blobs(tmp_path), pool=pool, watch=watch).fetch_all([Item("content/w", url, SHA, len(DATA))])
    assert "waiting for content/w from" in str(failed.value)


@pytest.mark.parametrize("answer", [body, headers])
def test_metadata_that_trickles_ends_the_fetch(tmp_path: Path, answer: Answer) -> None:
    begin = time.monotonic()
    with serve(answer) as url, pytest.raises((UpstreamError, TrustError), match="did not end within 1 s") as failed:
        made = make(tmp_path / "b", {"files/a.txt": b"a"})
        pace = Pace(begin_s=1.0, window_s=4.0)
        Door(tmp_path / "store", f"{url}/ours-1.0.0", Pool(timeout=30.0), made.keys.root_bytes(), pace=pace).fetch(
            "ours-1.0.0", {"gpu"}
        )
    assert url in str(failed.value)
    assert time.monotonic() - begin < LIMIT_S


def test_a_chain_whose_depot_trickles_ends_and_names_the_depot(tmp_path: Path) -> None:
    with serve(body) as url, pytest.raises(UpstreamError, match="too little comes") as failed:
        pool = Pool(timeout=30.0)
        with Watch(FAST, pool, url) as watch:
            watch.expect(len(DATA))
            sources = Sources([], Source("depot", url, peer=False))
            loader = Neighbourly(Blobs(tmp_path), pool, sources, {}, frozenset(), Silent(), watch)
            loader.fetch_all([Item("content/w", f"{url}/w", SHA, len(DATA))])
    assert f"waiting for content/w from {url}/w" in str(failed.value)


@pytest.mark.parametrize("given", ["0", "-1", "fast", "1.5", "9" * 12, "٣"])
def test_a_rate_that_is_not_one_is_a_wrong_command_line(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--lowest-rate", given])
    assert ended.value.code == 2
    assert "whole number of KiB" in capsys.readouterr().err
