"""Servers on loopback that want logins: files, a forward proxy and a private CA, and what each was asked."""

from __future__ import annotations

import base64
import datetime
import functools
import http.client
import http.server
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID


def basic(login: str) -> str:
    """``user:password`` as a header's value."""
    return "Basic " + base64.b64encode(login.encode()).decode()


@dataclass
class Site:
    """A running server: ``asked`` has (path, status, authorization) in order."""

    address: str
    asked: list[tuple[str, int, str]] = field(default_factory=list)

    @property
    def host(self) -> str:
        return urlsplit(self.address).netloc

    def paths(self, status: int = 200) -> list[str]:
        return [path for path, answered, _ in self.asked if answered == status]


class _Files(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    site: Site
    login = ""
    redirects: dict[str, str] = {}  # noqa: RUF012 - set for each server's own subclass

    def do_GET(self) -> None:
        self._answer(super().do_GET)

    def do_HEAD(self) -> None:
        self._answer(super().do_HEAD)

    def _answer(self, serve: functools.partial[None] | object) -> None:
        got = self.headers.get("Authorization", "")
        if self.login and got != basic(self.login):
            self._bare(401, {"WWW-Authenticate": 'Basic realm="files"'})
            return
        for prefix, target in self.redirects.items():
            if self.path.startswith(prefix):
                self._bare(302, {"Location": target + self.path.removeprefix(prefix)})
                return
        serve()  # type: ignore[operator]

    def _bare(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        self.site.asked.append((self.path, int(code), self.headers.get("Authorization", "")))

    def log_message(self, format: str, *args: object) -> None:
        """The site keeps its own list."""


class _Proxy(http.server.BaseHTTPRequestHandler):
    """A forward proxy that reaches ``server`` whatever host is asked for, also through CONNECT."""

    protocol_version = "HTTP/1.1"
    site: Site
    login = ""
    behind = ""  # HOST:PORT of the one server it reaches

    def _refused(self) -> bool:
        if self.login and self.headers.get("Proxy-Authorization") != basic(self.login):
            self.send_response(407)
            self.send_header("Proxy-Authenticate", 'Basic realm="corp"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return True
        return False

    def do_GET(self) -> None:
        if self._refused():
            return
        parts = urlsplit(self.path)
        connection = http.client.HTTPConnection(self.behind)
        path = parts._replace(scheme="", netloc="").geturl()
        connection.putrequest(self.command, path, skip_host=True, skip_accept_encoding=True)
        for name, value in self.headers.items():  # skopeo sends several of one name
            if not name.lower().startswith("proxy-"):
                connection.putheader(name, value)
        connection.endheaders()
        answer = connection.getresponse()
        body = answer.read()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("connection", "transfer-encoding", "server", "date", "content-length"):
                self.send_header(name, value)
        length = answer.getheader("Content-Length") if self.command == "HEAD" else None
        self.send_header("Content-Length", length or str(len(body)))
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_CONNECT(self) -> None:
        if self._refused():
            return
        with socket.create_connection(_pair(self.behind)) as there:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=_pump, args=(there, self.connection), daemon=True)
            back.start()
            _pump(self.connection, there)
            back.join()
        self.close_connection = True

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        self.site.asked.append((self.path, int(code), self.headers.get("Proxy-Authorization", "")))

    def log_message(self, format: str, *args: object) -> None:
        """The site keeps its own list."""


class _Front(_Proxy):
    """In front of one server, as a company puts nginx before a registry: TLS and a login of its own."""

    def _refused(self) -> bool:
        if self.login and self.headers.get("Authorization") != basic(self.login):
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="front"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return True
        del self.headers["Authorization"]
        return False

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        self.site.asked.append((self.path, int(code), ""))


def _pair(server: str) -> tuple[str, int]:
    host, _, port = server.rpartition(":")
    return host, int(port)


def _pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # one side has left


@contextmanager
def serving(handler: object, site: Site, context: ssl.SSLContext | None = None) -> Iterator[Site]:
    """A server of these handlers on loopback until the block ends; its address goes into ``site``."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)  # type: ignore[arg-type]
    server.daemon_threads = True
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    site.address = f"{'https' if context else 'http'}://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextmanager
def files(
    folder: Path, *, login: str = "", redirects: dict[str, str] | None = None, tls: ssl.SSLContext | None = None
) -> Iterator[Site]:
    """A folder, behind ``user:password`` where that is given; paths that begin like a redirect lead to its address."""
    site = Site("")
    kind = type("_F", (_Files,), {"site": site, "login": login, "redirects": redirects or {}})
    with serving(functools.partial(kind, directory=str(folder)), site, tls):
        yield site


@contextmanager
def proxy(server: Site, *, login: str = "") -> Iterator[Site]:
    """A proxy in front of one server, behind ``user:password`` where that is given."""
    site = Site("")
    with serving(type("_P", (_Proxy,), {"site": site, "login": login, "behind": server.host}), site):
        yield site


@contextmanager
def front(host: str, *, login: str = "", tls: ssl.SSLContext | None = None) -> Iterator[Site]:
    """What stands before the server at ``host`` (HOST:PORT)."""
    site = Site("")
    with serving(type("_R", (_Front,), {"site": site, "login": login, "behind": host}), site, tls):
        yield site


def private_ca(folder: Path, *names: str) -> tuple[Path, ssl.SSLContext]:
    """A CA that only this folder knows, and a server's TLS with a certificate of it for 127.0.0.1 and ``names``."""
    now = datetime.datetime.now(datetime.UTC)
    root_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a company's CA")])

    def begun(subject: x509.Name, public: ec.EllipticCurvePublicKey, *, ca: bool) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder().subject_name(subject).issuer_name(root_name).public_key(public)
            .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(root_key.public_key()), critical=False)
            .add_extension(x509.KeyUsage(not ca, False, False, False, False, ca, ca, False, False), critical=True)
        )  # fmt: skip

    root = begun(root_name, root_key.public_key(), ca=True).sign(root_key, hashes.SHA256())
    alternatives = [x509.IPAddress(IPv4Address("127.0.0.1")), *(x509.DNSName(n) for n in names)]
    leaf = (
        begun(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "server")]), key.public_key(), ca=False)
        .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(root_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ca.pem").write_bytes(root.public_bytes(pem))
    (folder / "server.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()) + leaf.public_bytes(pem)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    return folder / "ca.pem", context
