"""Behind nginx: it checks client certificates and sets the only headers that the gateway believes."""

from __future__ import annotations

import json
import socket
import ssl
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests import gatewaysite as lab
from tests.integration.gateway.running import Running, chat, wait_for

CONF = """
daemon off; worker_processes 1; pid {where}/nginx.pid; error_log {where}/nginx.log warn;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {where}/body; proxy_temp_path {where}/proxy; fastcgi_temp_path {where}/f; uwsgi_temp_path {where}/u; scgi_temp_path {where}/s;
  upstream gateway {{ least_conn; server unix:{where}/worker0.sock max_fails=0; keepalive 16; }}
  server {{
    listen 127.0.0.1:{port} ssl;
    ssl_certificate {where}/server.crt; ssl_certificate_key {where}/server.key;
    ssl_client_certificate {where}/ca.crt; ssl_verify_client optional; ssl_protocols TLSv1.3;
    client_max_body_size 8m;
    location / {{
      # Nothing of the client's passes but what is named here.
      proxy_pass_request_headers off;
      proxy_set_header Host appliance;
      proxy_set_header Connection "";
      proxy_set_header Content-Type $content_type;
      proxy_set_header Content-Length $content_length;
      proxy_set_header Accept $http_accept;
      proxy_set_header Authorization $http_authorization;
      proxy_set_header X-Api-Key $http_x_api_key;
      proxy_set_header X-Appliance-Client-Verify $ssl_client_verify;
      proxy_set_header X-Appliance-Client-Certificate $ssl_client_escaped_cert;
      proxy_http_version 1.1; proxy_buffering off; proxy_ignore_client_abort off; proxy_next_upstream off; proxy_read_timeout 3600s;
      proxy_pass http://gateway;
    }}
  }}
}}
"""


class Authority:
    """Makes certificates."""

    def __init__(self, where: Path, name: str = "ca") -> None:
        self.where, self._key = where, ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.certificate = self._sign(self._name, self._key.public_key(), [(x509.BasicConstraints(True, None), True)])
        (where / f"{name}.crt").write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *sans: x509.GeneralName) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        made = self._sign(subject, key.public_key(), [(x509.SubjectAlternativeName(sans), False)])
        (self.where / f"{name}.crt").write_bytes(made.public_bytes(serialization.Encoding.PEM))
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        (self.where / f"{name}.key").write_bytes(key.private_bytes(*form))

    def _sign(self, subject: x509.Name, key: Any, extensions: list[tuple[Any, bool]]) -> x509.Certificate:
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
        )
        builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=5))
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(self._key, hashes.SHA256())


class Front:
    """The gateway behind nginx."""

    def __init__(self, where: Path) -> None:
        self.site = Running(where)
        authority, other = Authority(where), Authority(where, "other")
        import ipaddress

        authority.issue("server", x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        authority.issue("team-a", x509.UniformResourceIdentifier("spiffe://lab/team-a"))
        authority.issue("both", x509.UniformResourceIdentifier("spiffe://lab/both"))
        authority.issue("stranger", x509.DNSName("stranger.example.org"))
        other.issue("forged", x509.UniformResourceIdentifier("spiffe://lab/team-a"))
        pair: dict[str, Any] = {
            "name": "pair",
            "cost_centre": "1",
            "models": ["tiny"],
            "accept": [["certificate", "key"]],
        }
        pair |= {
            "keys": [lab.key_entry("pair-key", "sk-lab-" + "p" * 43)],
            "certificates": [{"id": "pair-cert", "san": "URI:spiffe://lab/both"}],
        }
        self.site.data["tenants"].append(pair)
        self.site.write()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        (where / "nginx.conf").write_text(CONF.format(where=where, port=self.port))
        self.where = where

    def start(self) -> None:
        self.site.start()
        log = (self.where / "nginx.out").open("wb")
        self.site.processes["nginx"] = subprocess.Popen(
            ["nginx", "-c", self.where / "nginx.conf", "-p", self.where], stdout=log, stderr=log
        )
        log.close()
        wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", self.port)) == 0, "nginx")

    def ask(self, certificate: str = "", key: str = "", body: Any = None, **headers: str) -> urllib3.BaseHTTPResponse:
        context = ssl.create_default_context(cafile=str(self.where / "ca.crt"))
        if certificate:
            context.load_cert_chain(self.where / f"{certificate}.crt", self.where / f"{certificate}.key")
        pool = urllib3.HTTPSConnectionPool("127.0.0.1", self.port, ssl_context=context, retries=False)
        given = {"content-type": "application/json", **headers} | ({"authorization": f"Bearer {key}"} if key else {})
        return pool.request("POST", "/v1/chat/completions", body=json.dumps(body or chat()).encode(), headers=given)


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    where = tmp_path_factory.mktemp("front")
    where.parent.chmod(0o755)
    where.chmod(0o755)  # nginx gives up root
    for part in where.parents:
        if str(part).startswith("/tmp/"):  # noqa: S108  # where pytest keeps its directories
            part.chmod(part.stat().st_mode | 0o055)
    made = Front(where)
    try:
        made.start()
        (where / "worker0.sock").chmod(0o666)
        yield made
    finally:
        made.site.stop()


def test_a_certificate_names_its_tenant(front: Front) -> None:
    assert front.ask("team-a").status == 200
    wait_for(lambda: [r for r in front.site.audit() if r["credential"] == "a-cert"], "its line")


@pytest.mark.parametrize(("certificate", "status"), [("", 401), ("stranger", 401), ("forged", 400)])
def test_another_certificate_counts_for_nothing(certificate: str, status: int, front: Front) -> None:
    assert front.ask(certificate).status == status


def test_headers_of_a_client_never_reach_the_gateway(front: Front) -> None:
    pem = (front.where / "team-a.crt").read_text().replace("\n", "%0A").replace(" ", "%20").replace("+", "%2B")
    spoofed = {"x-appliance-client-verify": "SUCCESS", "x-appliance-client-certificate": pem}
    assert front.ask("", **spoofed).status == 401
    assert front.ask("stranger", **spoofed).status == 401


def test_a_tenant_that_wants_both_gets_both(front: Front) -> None:
    key = "sk-lab-" + "p" * 43
    answers = [front.ask("both"), front.ask("", key), front.ask("both", key)]
    assert [a.status for a in answers] == [401, 401, 200]
    assert answers[0].json()["error"]["code"] == "credential_missing"
    mixed = front.ask("team-a", lab.OTHER_KEY)
    assert (mixed.status, mixed.json()["error"]["code"]) == (401, "credentials_disagree")
    assert front.ask("stranger", lab.KEY).status == 200  # a certificate that names nobody is only transport


def test_a_stream_passes_and_a_client_that_leaves_stops_it(front: Front) -> None:
    context = ssl.create_default_context(cafile=str(front.where / "ca.crt"))
    context.load_cert_chain(front.where / "team-a.crt", front.where / "team-a.key")
    raw = json.dumps(chat("do:tokens=4000 do:pause=0.01 through-nginx", stream=True)).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n".encode()
    with (
        socket.create_connection(("127.0.0.1", front.port)) as plain,
        context.wrap_socket(plain, server_hostname="127.0.0.1") as tls,
    ):
        tls.sendall(head + raw)
        assert tls.recv(100).startswith(b"HTTP/1.1 200")
    seen = wait_for(
        lambda: [r for r in front.site.record("begin") if "through-nginx" in json.dumps(r["body"])], "the request"
    )[0]
    assert wait_for(lambda: [r for r in front.site.record("end") if r["id"] == seen["id"]], "the end")[0]["aborted"]
