"""What the edge promises, asked from outside as clients and attackers would. Run by verify.yml."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from conftest import Identity, Site, forge

POSTS = ("/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/v1/responses", "/v1/messages")
PROMPT = "the-secret-of-the-prompt"


def wait_for(what: Callable[[], Any], *, seconds: float = 20) -> Any:
    """The first true answer of ``what`` within the time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.05)
    pytest.fail(f"not within {seconds} s: {what}")


@pytest.fixture
def client(site: Site) -> Identity:
    return site.identity("team-a")


class Stream:
    """A stream through the gateway, up to its first event."""

    def __init__(self, site: Site, identity: Identity, name: str) -> None:
        self.name, self.site = name, site
        self.connection = site.connect(identity)
        body = {"stream": True, "name": name, "messages": [{"role": "user", "content": PROMPT}]}
        self.response = self.connection.begin("POST", "/v1/chat/completions", body)
        assert self.response.status == 200
        self.node = str(self.event()["node"])

    def event(self) -> dict[str, Any]:
        line = self.response.readline()
        assert self.response.readline() == b"\n"
        found = json.loads(line.removeprefix(b"data: "))
        assert isinstance(found, dict)
        return found

    def finish(self) -> bytes:
        self.site.release(self.name, self.node)
        return self.response.read()


# -- answers ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("path", POSTS)
def test_every_public_endpoint_reaches_a_model(site: Site, client: Identity, path: str) -> None:
    answer = site.connect(client).ask("POST", path, {"messages": PROMPT})
    assert answer.status == 200
    assert answer.json["path"] == path
    assert answer.json["node"] in site.gpus


def test_the_list_of_models_and_the_health_answer(site: Site, client: Identity) -> None:
    connection = site.connect(client)
    assert connection.ask("GET", "/v1/models").json["path"] == "/v1/models"
    assert connection.ask("GET", "/healthz").json == {"status": "ok"}


def test_tokens_arrive_one_by_one(site: Site, client: Identity) -> None:
    """The model sends its second event only after the first was seen here: a buffer on the way would hang."""
    stream = Stream(site, client, "one-by-one")
    rest = stream.finish()
    assert rest.split(b"\n\n") == [
        b'data: {"number":0}',
        b'data: {"number":1}',
        b'data: {"number":2}',
        b"data: [DONE]",
        b"",
    ]


def test_both_gpu_nodes_are_used(site: Site, client: Identity) -> None:
    streams = [Stream(site, client, f"spread-{n}") for n in range(4)]
    assert {s.node for s in streams} == set(site.gpus)
    assert all(b"[DONE]" in s.finish() for s in streams)


def test_a_body_larger_than_the_buffer_arrives_whole(site: Site, client: Identity) -> None:
    body = {"messages": PROMPT * 60_000}
    assert site.connect(client).ask("POST", "/v1/completions", body).json["bytes"] == len(json.dumps(body))


def test_a_client_that_leaves_frees_the_model(site: Site, client: Identity) -> None:
    stream = Stream(site, client, "left-alone")
    stream.response.close()
    stream.connection.raw.close()
    wait_for(lambda: [e for e in site.records() if e.get("name") == "left-alone" and e["left"]])


def test_a_slow_sender_holds_no_model(site: Site, client: Identity) -> None:
    body = json.dumps({"name": "slow-sender"}).encode()
    raw = site.connect(client).raw
    raw.putrequest("POST", "/v1/completions")
    raw.putheader("Content-Type", "application/json")
    raw.putheader("Content-Length", str(len(body)))
    before = len(site.records())
    raw.endheaders(body[:5])
    assert len(site.records()) == before
    raw.send(body[5:])
    assert raw.getresponse().status == 200
    assert [e["name"] for e in site.records()].count("slow-sender") == 1


# -- who may come in --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "kind",
    [
        "none",
        "self-signed",
        "another authority",
        "expired",
        "not yet valid",
        "for servers only",
        "a chain over a client",
    ],
)
@pytest.mark.parametrize("path", ["/v1/models", "/healthz", "/metrics"])
def test_a_certificate_that_is_not_good_is_refused(site: Site, kind: str, path: str) -> None:
    answer = site.connect(forge(site, kind)).ask("GET", path)
    assert (answer.status, answer.code) == (400, "certificate_required")


def test_a_weak_key_is_refused(site: Site) -> None:
    try:
        answer = site.connect(forge(site, "a weak key")).ask("GET", "/v1/models")
    except (ssl.SSLError, ConnectionError):
        return  # refused in the handshake, which depends on OpenSSL's build
    assert (answer.status, answer.code) == (400, "certificate_required")


@pytest.mark.parametrize("kind", ["without a kind", "of an unknown kind", "with a kind inside its name"])
def test_a_certificate_of_ours_for_something_else_is_refused(site: Site, kind: str) -> None:
    answer = site.connect(forge(site, kind)).ask("GET", "/v1/models")
    assert (answer.status, answer.code) == (403, "forbidden")


def test_a_revoked_certificate_is_refused(site: Site) -> None:
    """verify.yml has revoked it and run the role pki again; before, it was let in."""
    base = site.directory / "clients" / "late"
    answer = site.connect(Identity("late", base / "late.crt", base / "late.key")).ask("GET", "/v1/models")
    assert (answer.status, answer.code) == (400, "certificate_required")


def test_old_tls_is_refused(site: Site, client: Identity) -> None:
    with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
        site.connect(client, version=ssl.TLSVersion.TLSv1_2).ask("GET", "/v1/models")


def test_a_connection_cannot_be_resumed(site: Site, client: Identity) -> None:
    """A resumed one would not be looked up in the revocation list."""
    context = site.context(client)
    session = None
    for _ in range(2):
        with (
            socket.create_connection((site.gateway, 8443), 10) as plain,
            context.wrap_socket(plain, server_hostname=site.gateway, session=session) as tls,
        ):
            tls.sendall(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
            assert tls.recv(100).startswith(b"HTTP/1.1 200")
            assert not tls.session_reused
            session = tls.session
    assert session is not None  # there was something to offer


def test_plain_http_is_refused(site: Site) -> None:
    plain = http.client.HTTPConnection(site.gateway, 8443, timeout=10)
    plain.request("GET", "/healthz")
    answer = plain.getresponse()
    assert answer.status == 400
    assert json.loads(answer.read())["error"]["code"] == "malformed"


def test_the_edge_shows_the_names_of_the_inventory_and_no_other(site: Site, client: Identity) -> None:
    for name, good in ((site.gateway, True), ("llm.example.internal", True), ("gateway-1", True), ("gpu-1", False)):
        with socket.create_connection((site.gateway, 8443), 10) as plain:
            if good:
                site.context(client).wrap_socket(plain, server_hostname=name).close()
            else:
                with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
                    site.context(client).wrap_socket(plain, server_hostname=name)


@pytest.mark.parametrize("who", ["client", "node"])
def test_a_gpu_node_lets_in_its_gateway_alone(site: Site, client: Identity, who: str) -> None:
    other = client if who == "client" else site.identity("gpu-2", "node", ["gpu-2"])
    answer = site.connect(other, to="gpu-1").ask("GET", "/v1/models")
    assert (answer.status, answer.code) == (403, "forbidden")
    assert site.connect(site.as_gateway(), to="gpu-1").ask("GET", "/v1/models").status == 200


def test_a_client_called_like_the_gateway_is_a_client(site: Site) -> None:
    """Its name passes at the GPU node, its kind does not make it a node: it is limited, and speaks for itself."""
    impostor = site.identity("gateway-1", "client")
    answer = site.connect(impostor, to="gpu-1").ask("GET", "/v1/models", headers={"X-Appliance-Client": "boss"})
    assert answer.status == 403


# -- what may be asked for --------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "path",
    ["/", "/metrics", "/health", "/v1", "/v1/", "/v1/load_lora_adapter", "/tokenize", "/invocations", "/openapi.json",
     "/v1/models/tiny", "/v1/models/", "/V1/models", "/v1/models;x", "/v1/models/../../metrics", "/%2e%2e/metrics"],
)  # fmt: skip
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_other_paths_do_not_exist(site: Site, method: str, path: str) -> None:
    before = len(site.records())
    answer = site.connect(site.identity("curious")).ask(method, path, {} if method == "POST" else None)
    assert answer.status in (400, 404)
    assert answer.code in ("unknown_path", "malformed")
    assert len(site.records()) == before


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [("GET", "/v1/chat/completions", "POST"), ("POST", "/v1/models", "GET"), ("DELETE", "/v1/responses", "POST"),
     ("PUT", "/v1/embeddings", "POST"), ("OPTIONS", "/v1/models", "GET")],
)  # fmt: skip
def test_other_methods_are_refused_with_the_right_one(
    site: Site, client: Identity, method: str, path: str, allow: str
) -> None:
    answer = site.connect(client).ask(method, path)
    assert (answer.status, answer.code, answer.headers["allow"]) == (405, "method_not_allowed", allow)


@pytest.mark.parametrize(
    "path",
    [
        "/metrics/../v1/models",
        "//v1//models",
        "/v1%2fmodels",
        "/./v1/models",
        "/v1/models?api-key=x",
        "/v1/x/%2e%2e/models",
    ],
)
def test_the_model_sees_the_path_that_was_allowed_however_it_was_written(
    site: Site, client: Identity, path: str
) -> None:
    answer = site.connect(client).ask("GET", path)
    assert answer.status == 200
    assert answer.json["path"] == "/v1/models"


def test_headers_of_a_client_do_not_reach_the_model(site: Site, client: Identity) -> None:
    sent = {
        "X-SMG-Target-Worker": "http://10.0.0.9:8000", "X-Smg-Priority": "1", "X-Forwarded-For": "10.0.0.1", "Forwarded": "for=x",
        "Authorization": "Bearer secret", "Cookie": "a=b", "X-Appliance-Client": "boss", "X-Request-Id": "a" * 32,
        "X-Real-Ip": "10.0.0.1", "Host": "evil.example", "X-Anything": "1", "Accept": "application/json",
    }  # fmt: skip
    answer = site.connect(client).ask("POST", "/v1/chat/completions", {"messages": PROMPT}, sent)
    arrived = {k.lower(): v for k, v in answer.json["headers"].items()}
    assert set(arrived) == {"host", "content-type", "content-length", "accept", "x-request-id", "x-appliance-client"}
    assert arrived["host"] == "appliance"
    assert arrived["x-appliance-client"] == "team-a"
    assert arrived["x-request-id"] == answer.headers["x-request-id"] != "a" * 32


def test_an_answer_says_nothing_of_what_lies_behind_and_steers_nothing(site: Site, client: Identity) -> None:
    answer = site.connect(client).ask("GET", "/v1/models")
    assert answer.json["object"] == "list"  # X-Accel-Redirect would have made it /healthz
    assert not [h for h in answer.headers if h.startswith(("x-smg", "x-accel"))]
    assert answer.headers["server"] == "nginx"
    assert answer.headers["strict-transport-security"] == "max-age=31536000"


# -- limits -----------------------------------------------------------------------------------------------------------
def test_a_large_body_is_refused(site: Site, client: Identity) -> None:
    raw = site.connect(client).raw
    raw.putrequest("POST", "/v1/completions")
    raw.putheader("Content-Length", str(10 * 1000**3))
    raw.endheaders()
    answer = raw.getresponse()
    assert answer.status == 413
    assert json.loads(answer.read())["error"]["code"] == "body_too_large"


def test_a_chunked_body_is_cut_off_at_the_limit(site: Site, client: Identity) -> None:
    raw = site.connect(client).raw
    raw.putrequest("POST", "/v1/completions")
    raw.putheader("Transfer-Encoding", "chunked")
    raw.endheaders()
    block = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    try:
        for _ in range(64):  # 4 MiB, the limit is 2
            raw.send(block)
    except ConnectionError:
        pass  # closed while we were still sending
    answer = raw.getresponse()
    assert answer.status == 413


@pytest.mark.parametrize(
    ("path", "headers", "status"),
    [("/v1/models?" + "x" * 9000, {}, 414), ("/v1/models", {"X-Long": "x" * 9000}, 400), ("/v1/models", {f"X-{n}": "x" * 1000 for n in range(60)}, 400)],
    ids=["a long address", "a long header", "many headers"],
)  # fmt: skip
def test_header_bombs_are_refused(
    site: Site, client: Identity, path: str, headers: dict[str, str], status: int
) -> None:
    assert site.connect(client).ask("GET", path, None, headers).status == status


def test_a_slow_head_is_cut_off_and_holds_nobody_up(site: Site, client: Identity) -> None:
    context = site.context(client)
    with (
        socket.create_connection(
            (site.gateway, 8443), 120
        ) as plain,  # what is not cut off ends as a time-out of this one
        context.wrap_socket(plain, server_hostname=site.gateway) as tls,
    ):
        tls.sendall(b"GET /v1/models HTTP/1.1\r\nHost: a\r\nX-Slow: ")
        assert site.connect(client).ask("GET", "/v1/models").status == 200
        with contextlib.suppress(ConnectionResetError):  # how nginx ends what has timed out
            assert tls.recv(100) == b""


def test_one_client_s_streams_are_limited_and_another_s_are_not_touched(site: Site, client: Identity) -> None:
    streams = [Stream(site, client, f"limit-{n}") for n in range(4)]
    refused = site.connect(client).ask("GET", "/v1/models")
    assert (refused.status, refused.code, refused.headers["retry-after"]) == (429, "rate_limit_exceeded", "1")
    assert site.connect(site.identity("team-b")).ask("GET", "/v1/models").status == 200
    assert all(b"[DONE]" in s.finish() for s in streams)
    assert site.connect(client).ask("GET", "/v1/models").status == 200


def test_one_client_s_rate_is_limited(site: Site, client: Identity) -> None:
    connection = site.connect(client)
    statuses = [connection.ask("GET", "/v1/models").status for _ in range(120)]
    assert statuses[:40] == [200] * 40  # the burst
    assert 429 in statuses
    assert set(statuses) == {200, 429}


# -- changes while it runs --------------------------------------------------------------------------------------------
def test_a_reload_cuts_no_stream(site: Site, client: Identity) -> None:
    stream = Stream(site, client, "over-a-reload")
    old = set(site.on("gateway-1", "pgrep", "-f", "nginx: worker process$").split())
    for node in ("gateway-1", stream.node):
        site.on(node, "systemctl", "reload", "appliance-nginx")
    new = wait_for(lambda: set(site.on("gateway-1", "pgrep", "-f", "nginx: worker process$", ok=(0, 1)).split()) - old)
    assert len(new) == 2
    assert site.connect(client).ask("GET", "/v1/models").status == 200
    assert stream.finish().endswith(b"data: [DONE]\n\n")


def test_a_broken_revocation_list_is_not_taken_over(site: Site, client: Identity) -> None:
    keep = "/etc/appliance/pki/crl.pem"
    site.on("gateway-1", "cp", "--preserve", keep, "/root/crl.pem")
    try:
        site.on("gateway-1", "truncate", "--size=100", keep)
        site.on("gateway-1", "systemctl", "reload", "appliance-nginx", ok=(1,))
        assert site.connect(client).ask("GET", "/v1/models").status == 200
    finally:
        site.on("gateway-1", "cp", "--preserve", "/root/crl.pem", keep)
    site.on("gateway-1", "systemctl", "reload", "appliance-nginx")
    assert site.connect(client).ask("GET", "/v1/models").status == 200


def test_a_gpu_node_may_stop_and_come_back(site: Site, client: Identity) -> None:
    connection = site.connect(client)
    site.on("gpu-1", "systemctl", "stop", "appliance-nginx")
    try:
        answers = [connection.ask("POST", "/v1/completions", {}) for _ in range(8)]
        assert [a.status for a in answers] == [200] * 8
        assert {a.json["node"] for a in answers} == {"gpu-2"}
    finally:
        site.on("gpu-1", "systemctl", "start", "appliance-nginx")
    slow = site.identity("patient")
    wait_for(lambda: site.connect(slow).ask("POST", "/v1/completions", {}).json.get("node") == "gpu-1")


def test_without_any_model_the_edge_says_so(site: Site, client: Identity) -> None:
    for gpu in site.gpus:
        site.on(gpu, "systemctl", "stop", "model-double")
    try:
        answer = site.connect(client).ask("POST", "/v1/completions", {})
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "unavailable", "5")
    finally:
        for gpu in site.gpus:
            site.on(gpu, "systemctl", "start", "model-double")
    patient = site.identity("patient")
    wait_for(lambda: site.connect(patient).ask("POST", "/v1/completions", {}).status == 200)


def test_many_at_once_are_all_answered(site: Site) -> None:
    clients = [site.identity(f"crowd-{n}") for n in range(8)]

    def ask(identity: Identity) -> list[int]:
        connection = site.connect(identity)
        return [connection.ask("POST", "/v1/completions", {"n": n}).status for n in range(20)]

    with ThreadPoolExecutor(8) as pool:
        assert [s for statuses in pool.map(ask, clients) for s in statuses] == [200] * 160


# -- what is left behind ----------------------------------------------------------------------------------------------
def logged(site: Site, node: str, number: str) -> dict[str, Any]:
    """The line of the edge's log about request ``number``."""
    found = wait_for(lambda: [e for e in site.log(node) if e["id"] == number])
    assert len(found) == 1
    return dict(found[0])


def test_the_log_says_who_and_never_what(site: Site) -> None:
    who = site.identity("logged-client")
    answer = site.connect(who).ask(
        "POST",
        "/v1/chat/completions?token=in-the-query",
        {"messages": PROMPT},
        {"Authorization": "Bearer in-the-header"},
    )
    number = answer.headers["x-request-id"]
    entry = logged(site, "gateway-1", number)
    assert (entry["client"], entry["kind"], entry["verify"], entry["tls"]) == (
        "logged-client",
        "client",
        "SUCCESS",
        "TLSv1.3",
    )
    assert (entry["method"], entry["path"], entry["status"]) == ("POST", "/v1/chat/completions", 200)
    assert entry["serial"].lower().lstrip("0") in {
        e.serial for e in site.authority.register() if e.name == "logged-client"
    }
    assert len(entry["fingerprint"]) == 40
    inner = logged(site, answer.json["node"], number)
    assert (inner["client"], inner["behalf"]) == ("gateway-1", "logged-client")
    for node in site.ssh:
        journal = site.on(node, "journalctl", "--no-pager", "--output=export")
        for secret in (PROMPT, "in-the-query", "in-the-header"):
            assert secret not in journal


def test_every_refusal_is_in_the_log_with_its_reason(site: Site) -> None:
    reasons = {
        "none": "NONE", "expired": "certificate has expired", "not yet valid": "not yet valid", "for servers only": "unsuitable certificate purpose",
        "self-signed": "self-signed|unable to verify|unable to get local issuer", "a chain over a client": "path length|chain too long|invalid CA|unsuitable|unable to get certificate CRL",
    }  # fmt: skip
    for kind, reason in reasons.items():
        number = site.connect(forge(site, kind)).ask("GET", "/v1/models").headers["x-request-id"]
        entry = logged(site, "gateway-1", number)
        assert entry["status"] == 400
        assert (entry["client"], entry["kind"]) == ("", "")  # the name on a bad certificate is nobody's
        assert any(r in entry["verify"] for r in reason.split("|")), (kind, entry["verify"])


def test_bodies_never_reach_a_disk(site: Site, client: Identity) -> None:
    for node in site.ssh:
        assert site.on(node, "find", "/var/lib/appliance-nginx", "-mindepth", "1") == ""
    held = site.on(
        "gateway-1",
        "findmnt",
        "--noheadings",
        "--output=FSTYPE,OPTIONS",
        "--task",
        _pid(site, "gateway-1"),
        "/var/lib/appliance-nginx",
    )
    assert held.split()[0] == "tmpfs"
    for option in ("noexec", "nosuid", "nodev", "size=524288k"):
        assert option in held


def _pid(site: Site, node: str) -> str:
    return site.on(node, "systemctl", "show", "--value", "--property=MainPID", "appliance-nginx").strip()


def test_the_edge_runs_without_any_privilege(site: Site) -> None:
    for node in site.ssh:
        site.on(node, "systemd-analyze", "security", "--threshold=20", "--no-pager", "appliance-nginx.service")
        users = site.on(
            node, "ps", "--no-headers", "-o", "user:32", "--ppid", _pid(site, node), "--pid", _pid(site, node)
        )
        assert set(users.split()) == {"appliance-nginx"}
        status = site.on(node, "grep", "-E", "^(CapEff|CapBnd|NoNewPrivs|Seccomp):", f"/proc/{_pid(site, node)}/status")
        assert dict(line.split() for line in status.splitlines()) == {
            "CapEff:": "0" * 16, "CapBnd:": "0" * 16, "NoNewPrivs:": "1", "Seccomp:": "2",
        }  # fmt: skip


def test_the_operator_s_own_nginx_is_left_alone_and_a_new_one_does_not_start(site: Site) -> None:
    assert site.on("gpu-2", "systemctl", "is-active", "nginx").strip() == "active"
    assert http_status(site.gpus["gpu-2"]) == 200
    assert site.on("gateway-1", "systemctl", "is-enabled", "nginx", ok=(1,)).strip() == "masked"
    with pytest.raises(ConnectionRefusedError):
        http_status(site.gateway)


def http_status(host: str) -> int:
    plain = http.client.HTTPConnection(host, 80, timeout=10)
    plain.request("GET", "/")
    return plain.getresponse().status
