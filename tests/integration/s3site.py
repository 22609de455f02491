"""An S3 server (moto's, which checks signatures and policies) and, before it, a proxy double with the ways a network can go wrong."""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from botocore import session

Fault = Literal["wrong", "reset"]
REGION = "us-east-1"
BUCKET = "models"


@dataclass
class Site:
    """``endpoint`` is the proxy's; ``direct`` the server's. ``faults`` by ending of the path; a reset happens once."""

    direct: str
    endpoint: str = ""
    key: str = ""
    secret: str = ""
    faults: dict[str, Fault] = field(default_factory=dict)
    requests: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, range

    def client(self, service: str = "s3", key: str = "", secret: str = "") -> Any:
        return session.Session().create_client(
            service, region_name=REGION, endpoint_url=self.direct,
            aws_access_key_id=key or "setup", aws_secret_access_key=secret or "setup",
        )  # fmt: skip

    def put(self, name: str, data: bytes) -> None:
        self.client(key=self.key, secret=self.secret).put_object(Bucket=BUCKET, Key=name, Body=data)

    def user(self, name: str, *allowed: str) -> tuple[str, str]:
        """Key and secret of a new user who may do this much; made before authorisation is switched on."""
        iam = self.client("iam")
        iam.create_user(UserName=name)
        statement = {"Effect": "Allow", "Action": list(allowed) or ["sts:GetCallerIdentity"], "Resource": "*"}
        document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        iam.put_user_policy(UserName=name, PolicyName="p", PolicyDocument=document)
        made = iam.create_access_key(UserName=name)["AccessKey"]
        return made["AccessKeyId"], made["SecretAccessKey"]

    def authorize(self, on: bool) -> None:
        """From now on every request is checked: signature, then policy."""
        connection = http.client.HTTPConnection(urlsplit(self.direct).netloc)
        connection.request("POST", "/moto-api/reset-auth", "0" if on else "inf")
        assert connection.getresponse().status == 200


class _Proxy(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site

    def log_message(self, format: str, *args: Any) -> None:
        """The double keeps its own list."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = urlsplit(self.path).path
        self.site.requests.append((self.command, self.path, self.headers.get("Range", "")))
        upstream = http.client.HTTPConnection(urlsplit(self.site.direct).netloc)
        upstream.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():
            upstream.putheader(name, value)  # Host too: it is signed
        upstream.endheaders()
        answer = upstream.getresponse()
        body = answer.read()
        fault = next((f for end, f in self.site.faults.items() if path.endswith(end)), None)
        fault = fault if self.command == "GET" and answer.status in (200, 206) and len(body) > 1000 else None
        if fault == "wrong":
            body = body[:-1] + bytes([body[-1] ^ 1])
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length", "server", "date"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        if fault == "reset":
            self.site.faults.clear()
            self.wfile.write(body[: len(body) // 2])
            self.wfile.flush()
            time.sleep(0.2)  # a reset overtakes what the client has not read yet
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close()
            return
        self.wfile.write(body if self.command == "GET" else b"")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def serve(log: Path) -> Iterator[Site]:
    """Server and proxy until the block ends; authorisation is off until ``authorize``."""
    port = _free_port()
    site = Site(f"http://127.0.0.1:{port}")
    with (
        log.open("wb") as said,
        subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-p", str(port)],
            stdout=said, stderr=said, env={**os.environ, "INITIAL_NO_AUTH_ACTION_COUNT": "inf"},
        ) as process,
    ):  # fmt: skip
        proxy = ThreadingHTTPServer(("127.0.0.1", 0), type("_P", (_Proxy,), {"site": site}))
        proxy.daemon_threads = True
        threading.Thread(target=proxy.serve_forever, args=(0.02,), daemon=True).start()
        site.endpoint = f"http://127.0.0.1:{proxy.server_address[1]}"
        try:
            deadline = time.monotonic() + 180
            while True:
                try:
                    socket.create_connection(("127.0.0.1", port), 1).close()
                    break
                except OSError:
                    assert process.poll() is None, log.read_text()
                    assert time.monotonic() < deadline, log.read_text()
                    time.sleep(0.05)
            yield site
        finally:
            proxy.shutdown()
            proxy.server_close()
            process.terminate()
