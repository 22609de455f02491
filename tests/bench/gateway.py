"""What the gateway costs: processor time a request and a streamed chunk, and added latency, beside nginx alone and the model server's double alone.

Processor time is that of the gateway's own processes (worker and ledger) or of nginx's, user and system: it hardly depends on what else
the machine does. All three answer the same requests from the same double over unix sockets.
"""

from __future__ import annotations

import asyncio
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests import gatewaysite as lab
from tests.bench.measure import Claim, Pair
from tests.integration.gateway import flood
from tests.integration.gateway.running import Running, chat, wait_for

CLAIMS = (
    Claim("gateway-request", "µs of processor", "nginx alone, the same requests", 5.0),
    Claim("gateway-chunk", "µs of processor", "nginx alone, the same streams", 1.7),
    Claim("gateway-latency", "s", "the model server's double alone + 0.3 ms, median of a round", 1.0),
)
REQUESTS, CLIENTS, STREAMS, CHUNKS = 400, 8, 8, 256
NGINX = """
daemon off; worker_processes 1; pid {where}/nginx.pid; error_log {where}/nginx.log warn;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path {where}/b; proxy_temp_path {where}/p; fastcgi_temp_path {where}/f; uwsgi_temp_path {where}/u; scgi_temp_path {where}/s;
  upstream model {{ server unix:{where}/model0.sock max_fails=0; keepalive 64; }}
  server {{
    listen unix:{where}/nginx.sock;
    location / {{ proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; proxy_read_timeout 600s; proxy_pass http://model; }}
  }}
}}
"""


def pairs(work: Path, only: str) -> Iterator[Pair]:
    """One site, whose three ways to the same double take turns."""
    work.chmod(0o755)
    site = Running(work)
    (work / "nginx.conf").write_text(NGINX.format(where=work))
    try:
        site.start()
        with (work / "nginx.out").open("wb") as log:
            site.processes["nginx"] = subprocess.Popen(
                ["nginx", "-c", work / "nginx.conf", "-p", work], stdout=log, stderr=log
            )
        wait_for(
            lambda: (work / "nginx.sock").exists() and len(_tree(site.processes["nginx"].pid)) > 1,
            "nginx and its worker",
        )
        (work / "model0.sock").chmod(0o666)  # nginx gives up root
        gateway, nginx = work / "worker0.sock", work / "nginx.sock"
        ours = [site.processes["worker0"].pid, site.processes["ledger"].pid]
        theirs = _tree(site.processes["nginx"].pid)
        whole, stream = (
            flood.request(chat("x" * 900, max_tokens=5), lab.KEY),
            flood.request(chat(f"do:tokens={CHUNKS}", stream=True), lab.KEY),
        )
        body = chat(f"do:tokens={CHUNKS}", stream=True) | {"max_completion_tokens": CHUNKS}
        usage = {"include_usage": True, "continuous_usage_stats": True}
        plain = flood.request(body | {"stream_options": usage}, lab.KEY)  # the double sends nginx the same chunks

        def request(socket: Path, pids: list[int]) -> Callable[[], float]:
            return lambda: _cost(pids, REQUESTS, socket, whole, CLIENTS, REQUESTS // CLIENTS)

        def chunk(socket: Path, pids: list[int], raw: bytes) -> Callable[[], float]:
            return lambda: _cost(pids, STREAMS * CHUNKS, socket, raw, STREAMS, 1)

        yield Pair("gateway-request", request(gateway, ours), request(nginx, theirs))
        yield Pair("gateway-chunk", chunk(gateway, ours, stream), chunk(nginx, theirs, plain))
        yield Pair(
            "gateway-latency", lambda: _median(gateway, whole), lambda: _median(work / "model0.sock", whole) + 0.0003
        )
    finally:
        site.stop()


def _tree(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(int(c) for c in children)]


def _spent(pids: list[int]) -> float:
    """Seconds of processor that processes used, all threads, as exactly as the scheduler knows them."""
    return (
        sum(int(path.read_text().split()[0]) for pid in pids for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))
        / 1e9
    )


def _cost(pids: list[int], parts: int, socket: Path, raw: bytes, clients: int, each: int) -> float:
    """Microseconds of processor for each part of a load."""
    before = _spent(pids)
    asyncio.run(_load(socket, raw, clients, each))
    return (_spent(pids) - before) / parts * 1e6


def _median(socket: Path, raw: bytes) -> float:
    return statistics.median(asyncio.run(_load(socket, raw, 1, 100)))


async def _load(socket: Path, raw: bytes, clients: int, each: int) -> list[float]:
    """Seconds of each request; a client sends its requests one after the other on one connection."""

    async def client() -> list[float]:
        reader, writer = await asyncio.open_unix_connection(str(socket))
        took = []
        for _ in range(each):
            began, answer = time.perf_counter(), flood.Answer()
            writer.write(raw)
            while not answer.complete:
                if not (data := await reader.read(1 << 16)):
                    raise SystemExit(f"bench: {socket.name} ended the connection")
                answer.feed(data)
            if answer.status != 200:
                raise SystemExit(f"bench: {socket.name} answered {answer.status}: {answer.body[:300]!r}")
            took.append(time.perf_counter() - began)
        writer.close()
        return took

    return [s for one in await asyncio.gather(*(client() for _ in range(clients))) for s in one]
