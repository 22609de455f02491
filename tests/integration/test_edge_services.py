"""Several services behind one edge, with the real nginx: a gateway, a GPU node behind it, and a server on a socket for every replica."""

from __future__ import annotations

import http.client
import json
import re
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from installer.pki import Authority, utc_now

ROLE = Path(__file__).resolve().parents[2] / "roles/nginx"
PEER = "inference.appliance.internal"
BODY = json.dumps({"model": "m"})
POSTED = [("/v1/chat/completions"), ("/v1/completions"), ("/v1/embeddings")]


def rendered(upstreams: Sequence[Mapping[str, Any]], **more: Any) -> str:
    """The configuration as the role writes it."""
    jinja = Environment(loader=FileSystemLoader(ROLE / "templates"), undefined=StrictUndefined, trim_blocks=True, autoescape=False)  # noqa: S701  # fmt: skip
    jinja.filters["regex_replace"] = lambda text, pattern, by: re.sub(pattern, by, text)
    values = {
        **yaml.safe_load((ROLE / "defaults/main.yml").read_text()),
        **yaml.safe_load((ROLE / "vars/main.yml").read_text()),
    }
    made: dict[str, Any] = {
        "appliance_nginx_upstreams": upstreams,
        "appliance_nginx_client_kinds": ["client", "node"],
        "appliance_nginx_server_names": ["localhost"],
        "appliance_nginx_listen_addresses": ["127.0.0.1"],
    }
    for name in ("gateway", "certificate_optional", "passed", "several", "default"):
        expression = jinja.compile_expression(values[f"appliance_nginx_{name}"].strip()[2:-2])
        made[f"appliance_nginx_{name}"] = expression({**values, **made, **more})
    return jinja.get_template("nginx.conf.j2").render({**values, **made, **more})


class Model(BaseHTTPRequestHandler):
    """A replica: says its own name and the path that reached it."""

    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return "unix"

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing."""

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        """One JSON document."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        name = Path(str(self.server.server_address)).stem
        raw = json.dumps({"replica": name, "path": self.path, "root": f"/models/{name}"}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True


@dataclass
class Edges:
    """Configurations are written and started here; what runs is stopped at the end of the test."""

    place: Path
    client: ssl.SSLContext

    def free(self) -> int:
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            return int(one.getsockname()[1])

    def model(self, name: str) -> str:
        path = self.place / f"{name}.sock"
        server = Server(str(path), Model)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return str(path)

    def edge(self, name: str, upstreams: Sequence[Mapping[str, Any]], **more: Any) -> int:
        port, home = self.free(), self.place / name
        home.mkdir()
        text = rendered(
            upstreams,
            appliance_nginx_port=port,
            appliance_nginx_pki=str(self.place / name.split("-", maxsplit=1)[0]),
            **more,
        )
        text = text.replace("/var/lib/appliance-nginx", str(home)).replace("/run/appliance-nginx", str(home))
        (home / "nginx.conf").write_text(
            text.replace("syslog:server=unix:/dev/log,nohostname,tag=appliance_nginx", str(home / "log"))
        )
        argv = ["/usr/sbin/nginx", "-e", "stderr", "-g", f"pid {home}/pid; user root;", "-c", str(home / "nginx.conf")]
        checked = subprocess.run([*argv[:3], "-t", "-q", *argv[3:]], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        self.started.append(subprocess.Popen(argv))
        deadline = time.monotonic() + 30
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                assert time.monotonic() < deadline, f"the edge {name} does not listen"
                time.sleep(0.05)
            else:
                return port

    def __post_init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []

    def ask(self, port: int, method: str, path: str) -> tuple[int, Any]:
        connection = http.client.HTTPSConnection("127.0.0.1", port, timeout=30, context=self.client)
        try:
            connection.request(method, path, BODY if method == "POST" else None, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            self.allow = answer.getheader("Allow")
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()


@pytest.fixture
def edges(tmp_path: Path) -> Iterator[Edges]:
    authority = Authority(tmp_path / "ca")
    authority.create("test", "a passphrase for tests", now=utc_now())

    def issue(name: str, kind: Any, names: list[str]) -> Path:
        key, certificate = authority.issue(kind=kind, name=name, names=names, passphrase="a passphrase for tests", days=1, now=utc_now())  # fmt: skip
        home = tmp_path / name
        home.mkdir()
        (home / "node.key").write_bytes(key)
        (home / "node.crt").write_bytes(certificate)
        for file in ("ca.crt", "crl.pem"):
            (home / file).write_bytes((tmp_path / "ca" / file).read_bytes())
        return home

    issue("gateway", "node", ["gateway", "127.0.0.1"])
    issue("gpu", "node", ["gpu", "127.0.0.1", PEER])
    tenant = issue("tenant", "client", [])
    context = ssl.create_default_context(cafile=str(tmp_path / "ca" / "ca.crt"))
    context.load_cert_chain(tenant / "node.crt", tenant / "node.key")
    made = Edges(tmp_path, context)
    try:
        yield made
    finally:
        for process in made.started:
            process.terminate()
            process.wait(30)


def several(edges: Edges, default: str = "chat") -> list[dict[str, Any]]:
    return [
        {"name": "chat", "served_name": "llama", "default": default == "chat", "sockets": [edges.model("chat"), edges.model("chat-2")]},
        {"name": "embed", "served_name": "org/bge", "default": default == "embed", "sockets": [edges.model("embed")]},
    ]  # fmt: skip


def behind(port: int, services: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The same services as a gateway sees them."""
    peers = [{"host": "127.0.0.1", "port": port}]
    return [{k: v for k, v in s.items() if k != "sockets"} | {"peers": peers} for s in services]


def test_each_service_has_its_own_path_through_gateway_and_gpu_node(edges: Edges) -> None:
    services = several(edges)
    gateway = edges.edge("gateway-1", behind(edges.edge("gpu-1", services), services))
    for path in POSTED:
        assert edges.ask(gateway, "POST", f"/embed{path}") == (
            200,
            {"replica": "embed", "path": path, "root": "/models/embed"},
        )
        status, said = edges.ask(gateway, "POST", f"/chat{path}")
        assert status == 200 and said["path"] == path and said["replica"] in ("chat", "chat-2")
        assert edges.ask(gateway, "POST", path)[1]["replica"] in ("chat", "chat-2")
    reached = {edges.ask(gateway, "POST", "/chat/v1/completions")[1]["replica"] for _ in range(8)}
    assert reached == {"chat", "chat-2"}


def test_v1_models_names_all_and_each_path_its_own(edges: Edges) -> None:
    services = several(edges, default="embed")
    node = edges.edge("gpu-1", services, appliance_nginx_hidden_path="/models")
    gateway = edges.edge("gateway-1", behind(node, services))
    for port in (node, gateway):
        status, said = edges.ask(port, "GET", "/v1/models")
        assert status == 200 and said["object"] == "list"
        assert [(m["id"], m["object"], m["owned_by"]) for m in said["data"]] == [
            ("llama", "model", "chat"), ("org/bge", "model", "embed"),
        ]  # fmt: skip
        assert edges.ask(port, "GET", "/embed/v1/models")[1] == {
            "replica": "embed",
            "path": "/v1/models",
            "root": "embed",
        }
    assert edges.ask(gateway, "POST", "/v1/embeddings")[1]["replica"] == "embed"


def test_what_is_not_a_service_is_404_and_names_the_paths(edges: Edges) -> None:
    services = [s | {"default": False} for s in several(edges)]
    node = edges.edge("gpu-1", services)
    for method, path in (
        ("POST", "/v1/chat/completions"),
        ("POST", "/rank/v1/completions"),
        ("GET", "/chat/metrics"),
        ("GET", "/chat/v1"),
    ):
        status, said = edges.ask(node, method, path)
        assert status == 404 and said["error"]["message"] == "There is no such path. Services: /chat/v1, /embed/v1.", (
            path
        )
    for path in ("/chat/v1/completions", "/embed/v1/completions"):
        assert edges.ask(node, "GET", path)[0] == 405 and edges.allow == "POST"
    assert edges.ask(node, "POST", "/v1/models")[0] == 405 and edges.allow == "GET"


def test_one_service_has_v1_as_ever_and_its_own_path_too(edges: Edges) -> None:
    services = [{"name": "tiny", "sockets": [edges.model("tiny")]}]
    node = edges.edge("gpu-1", services)
    gateway = edges.edge("gateway-1", behind(node, services))
    for prefix in ("", "/tiny"):
        assert edges.ask(gateway, "POST", f"{prefix}/v1/completions")[1] == {
            "replica": "tiny",
            "path": "/v1/completions",
            "root": "/models/tiny",
        }
        assert edges.ask(gateway, "GET", f"{prefix}/v1/models")[1]["replica"] == "tiny"
    assert edges.ask(gateway, "GET", "/nothing")[1]["error"]["message"] == "There is no such path."


def test_while_a_second_service_comes_or_goes_a_gateway_of_before_and_nodes_of_after_agree(edges: Edges) -> None:
    services = several(edges)
    now = edges.edge("gpu-1", services)
    before = edges.edge("gateway-1", behind(now, services[:1]))
    assert edges.ask(before, "POST", "/v1/completions")[1]["replica"] in ("chat", "chat-2")
    left = edges.edge("gpu-2", services[1:])
    assert (
        edges.ask(edges.edge("gateway-2", behind(left, services)), "POST", "/embed/v1/completions")[1]["replica"]
        == "embed"
    )


def test_one_service_that_is_down_takes_no_other_along_and_a_drain_takes_all(edges: Edges) -> None:
    services = several(edges)
    services[1]["sockets"] = [str(edges.place / "nobody.sock")]
    node = edges.edge("gpu-1", services, appliance_nginx_only_gateway=True)
    assert edges.ask(node, "POST", "/embed/v1/embeddings")[0] == 503
    assert edges.ask(node, "POST", "/chat/v1/completions")[0] == 200
    (edges.place / "gpu-1" / "drained").touch()
    for path in ("/chat/v1/completions", "/embed/v1/embeddings", "/v1/completions"):
        assert edges.ask(node, "POST", path)[0] == 503


def test_a_node_without_services_has_an_edge_that_says_so(edges: Edges) -> None:
    node = edges.edge("gpu-1", [])
    assert edges.ask(node, "GET", "/v1/models") == (200, {"object": "list", "data": []})
    assert edges.ask(node, "GET", "/healthz")[0] == 200
    assert edges.ask(node, "POST", "/v1/completions")[0] == 404


def test_sixty_four_services_of_the_longest_names_are_one_sound_configuration(edges: Edges) -> None:
    services = [{"name": f"{'s' * 28}{i:03}", "sockets": [f"/run/appliance-vllm/{i}/api.sock"]} for i in range(64)]
    status, said = edges.ask(edges.edge("gpu-1", services), "GET", "/v1/models")
    assert status == 200 and [m["id"] for m in said["data"]] == [s["name"] for s in services]
