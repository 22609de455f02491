"""The same artifact through a chain of nginx that cache slices: a candidate for the relay, measured and not taken (decision 0040)."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

from tests.bench.measure import call
from tests.links import CONTROL
from tests.relaysite import RelaySite

PORT = 8080
FILE = "content/models/m/weights.bin"
HTTP = """daemon off; master_process off; user root; pid {where}/pid; error_log {where}/error.log; events {{}}
http {{ access_log off; client_body_temp_path {where}/body; proxy_temp_path {where}/proxy;
fastcgi_temp_path {where}/f; uwsgi_temp_path {where}/u; scgi_temp_path {where}/s; {body} }}
"""
CACHE = """proxy_cache_path {where}/cache keys_zone=c:1m max_size=1g;
server {{ listen {port}; location / {{ slice 1m; proxy_cache c; proxy_cache_lock on; proxy_cache_lock_timeout 60s;
proxy_cache_key $uri$slice_range; proxy_set_header Range $slice_range; proxy_http_version 1.1; proxy_cache_valid 200 206 1h;
proxy_set_header Connection ""; proxy_pass http://up; }} }} upstream up {{ server {upstream}:{port}; keepalive 4; }}"""
PLAIN = "server {{ listen {port}; root {root}; }}"


def slices(site: RelaySite, place: Path) -> float:
    """Seconds until every node has fetched the file through its own nginx, whose source is the one before it."""
    place.mkdir()
    started: list[subprocess.Popen[str]] = []
    before = CONTROL
    try:
        for node in site.links.names:
            where = place / node
            where.mkdir()
            body = (
                CACHE.format(where=where, port=PORT, upstream=before)
                if node != "control"
                else PLAIN.format(port=PORT, root=site.bundle.path)
            )
            (where / "nginx.conf").write_text(HTTP.format(where=where, body=body))
            started.append(
                site.links.spawn(node, "/usr/sbin/nginx", "-e", where / "error.log", "-c", where / "nginx.conf")
            )
            before = site.links.address(node)
        time.sleep(1)
        begin = time.perf_counter()
        clients = [
            site.links.spawn(n, "curl", "-sf", "-o", place / n / "file", f"http://127.0.0.1:{PORT}/{FILE}")
            for n in site.nodes
        ]
        started += clients
        if any(c.wait(300) for c in clients):
            raise SystemExit("bench: a node did not get the file through nginx")
        took = time.perf_counter() - begin
        for node in site.nodes:
            call(["cmp", site.bundle.path / FILE, place / node / "file"])
        return took
    finally:
        for process in started:
            process.kill()
            process.wait()
        shutil.rmtree(place)
