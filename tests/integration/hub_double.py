"""A local stand-in for a model hub: the endpoints that huggingface_hub 2.4 asks, and the ways a hub can go wrong.

Two servers: the hub, which lists repositories and serves small files, and the storage it sends large files (LFS) to, on
another origin, as the real one does.
"""

from __future__ import annotations

import hashlib
import json
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal
from urllib.parse import parse_qs, quote, unquote, urlsplit

REVISION = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_PlantedSecretOfTheTest"
Fault = Literal["wrong", "end", "reset", "loop"]


def git_blob(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass
class Repo:
    """A repository at one commit.

    Attributes:
        large: files kept in LFS; all ``.safetensors`` are.
        access: open to all, gated (listed for all, files for TOKEN) or private (nothing without TOKEN).
        faults: by file: other bytes of the same size, a body that ends or is reset half-way (once), a redirect to itself.
    """

    files: dict[str, bytes]
    revision: str = REVISION
    answers_for: str = REVISION
    large: frozenset[str] = frozenset()
    access: Literal["open", "gated", "private"] = "open"
    faults: dict[str, Fault] = field(default_factory=dict)

    def is_large(self, path: str) -> bool:
        return path.endswith(".safetensors") or path in self.large


@dataclass(frozen=True)
class Request:
    """What a server was asked; ``sent`` counts the bytes of the body."""

    server: str
    method: str
    path: str
    range: str
    authorization: str
    sent: int


class HubDouble:
    """The running double. Repositories may be changed at any time."""

    def __init__(self) -> None:
        self.repos: dict[str, Repo] = {}
        self.requests: list[Request] = []
        self.endpoint = self.storage = ""

    def of(self, server: str, path: str = "", method: str = "GET") -> list[Request]:
        return [r for r in self.requests if r.server == server and r.method == method and r.path.endswith(path)]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    double: HubDouble
    name: str

    def log_message(self, format: str, *args: Any) -> None:
        """The double keeps its own list."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        parts = path.strip("/").split("/")
        match parts:
            case ["stored", sha256] if self.name == "storage":
                self._stored(sha256)
            case ["api", "models", owner, name, "revision", revision] if self.name == "hub":
                if repo := self._repo(f"{owner}/{name}", revision, listing=True):
                    self._list(f"{owner}/{name}", repo)
            case [owner, name, "resolve", revision, *rest] if self.name == "hub":
                if repo := self._repo(f"{owner}/{name}", revision):
                    self._resolve(f"{owner}/{name}", repo, "/".join(rest))
            case ["api", "resolve-cache", "models", owner, name, revision, *rest] if self.name == "hub":
                if repo := self._repo(f"{owner}/{name}", revision):
                    self._body(repo, "/".join(rest))
            case _:
                self._answer(404)

    def _repo(self, name: str, revision: str, *, listing: bool = False) -> Repo | None:
        """The repository, or an error with the headers by which the client knows why."""
        repo = self.double.repos.get(name)
        authorization = self.headers.get("Authorization", "")
        trusted = authorization == f"Bearer {TOKEN}"
        if repo is None or (repo.access == "private" and not trusted):
            # The hub does not tell strangers whether a repository exists.
            self._answer(404 if authorization else 401, error="RepoNotFound", message="Repository not found")
        elif revision != repo.revision:
            self._answer(404, error="RevisionNotFound", message=f"Invalid rev id: {revision}")
        elif repo.access == "gated" and not trusted and not listing:
            self._answer(
                403 if authorization else 401,
                error="GatedRepo",
                message=f"Access to model {name} is restricted and you are not in the authorized list.",
            )
        else:
            return repo
        return None

    def _list(self, name: str, repo: Repo) -> None:
        blobs = parse_qs(urlsplit(self.path).query).get("blobs", [""])[0].lower() == "true"
        siblings = []
        for path, data in repo.files.items():
            entry: dict[str, Any] = {"rfilename": path}
            if blobs:
                entry |= {"size": len(data), "blobId": git_blob(data)}
                if repo.is_large(path):
                    entry["lfs"] = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest(), "pointerSize": 134}
            siblings.append(entry)
        document = {
            "_id": "6", "id": name, "modelId": name, "sha": repo.answers_for, "private": repo.access == "private",
            "gated": "auto" if repo.access == "gated" else False, "tags": [], "siblings": siblings,
        }  # fmt: skip
        self._answer(200, json.dumps(document).encode(), {"Content-Type": "application/json"})

    def _resolve(self, name: str, repo: Repo, path: str) -> None:
        if path not in repo.files:
            self._answer(404, error="EntryNotFound", message="Entry not found")
            return
        data = repo.files[path]
        sha256 = hashlib.sha256(data).hexdigest()
        headers = {"X-Repo-Commit": repo.revision, "X-Linked-Size": str(len(data)), "Accept-Ranges": "bytes"}
        if repo.faults.get(path) == "loop":
            self._answer(302, headers={"Location": self.path})
        elif repo.is_large(path):
            target = f"{self.double.storage}/stored/{sha256}?X-Signature=temporary"
            self._answer(302, headers={**headers, "X-Linked-ETag": f'"{sha256}"', "Location": target})
        else:
            target = f"/api/resolve-cache/models/{name}/{repo.revision}/{quote(path)}"
            self._answer(307, headers={**headers, "ETag": f'"{git_blob(data)}"', "Location": target})

    def _stored(self, sha256: str) -> None:
        for repo in self.double.repos.values():
            for path, data in repo.files.items():
                if hashlib.sha256(data).hexdigest() == sha256:
                    self._body(repo, path)
                    return
        self._answer(404)

    def _body(self, repo: Repo, path: str) -> None:
        """The file, or the part a Range asks for, unless it has a fault."""
        data, fault = repo.files[path], repo.faults.get(path)
        if fault == "wrong":
            data = data[:-1] + bytes([data[-1] ^ 1])
        begin, end, status = 0, len(data), 200
        headers = {"ETag": f'"{git_blob(data)}"', "X-Repo-Commit": repo.revision}
        if asked := self.headers.get("Range", ""):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            begin, end, status = int(first), min(len(data), int(last or len(data)) + 1), 206
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(data)}"
        body = data[begin:end]
        if fault in ("end", "reset") and len(body) > 1:
            del repo.faults[path]
            self._answer(status, body, headers, only=len(body) // 2)
            self.wfile.flush()
            if fault == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.close_connection = True
            self.connection.close() if fault == "reset" else self.connection.shutdown(socket.SHUT_RDWR)
            return
        self._answer(status, body, headers)

    def _answer(
        self,
        status: int,
        body: bytes = b"",
        headers: dict[str, str] | None = None,
        *,
        error: str = "",
        message: str = "",
        only: int | None = None,
    ) -> None:
        """One response; of the body the first ``only`` bytes when given."""
        if error:
            headers, body = {"X-Error-Code": error, "X-Error-Message": message}, json.dumps({"error": message}).encode()
        sent = b"" if self.command == "HEAD" else body[:only]
        self.double.requests.append(
            Request(
                self.name,
                self.command,
                unquote(urlsplit(self.path).path),
                self.headers.get("Range", ""),
                self.headers.get("Authorization", ""),
                len(sent),
            )
        )
        self.send_response(status)
        for key, value in (headers or {}).items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        try:
            self.wfile.write(sent)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # a client that wanted only the begin has left


@contextmanager
def running() -> Iterator[HubDouble]:
    """Serve until the block ends."""
    double = HubDouble()
    servers = []
    for name in ("hub", "storage"):
        handler = type(f"_{name}", (_Handler,), {"double": double, "name": name})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        servers.append(server)
    double.endpoint, double.storage = (f"http://127.0.0.1:{s.server_address[1]}" for s in servers)
    try:
        yield double
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
