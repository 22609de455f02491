"""A site with tenants as the installer and the roles make it: who is let in, by which credential, and what reaches the model."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from urllib.parse import quote

import pytest
import yaml

from engine import chat as chats
from installer.site import prove
from tests.integration.gateway.running import chat, wait_for
from tests.integration.gateway.sitefront import KEY, OTHER, Front, tenants


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    made = Front(tmp_path_factory.mktemp("front"))
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_a_key_over_a_certificate_of_no_tenant_is_answered_through_the_gpu_nodes_own_proxy(front: Front) -> None:
    answer = front.ask(certificate="stranger", key=KEY)
    assert answer.status == 200, answer.data
    assert answer.json()["choices"][0]["message"]["content"]
    arrived = front.logged("gpu", answer)
    assert (arrived["client"], arrived["kind"], arrived["status"]) == ("gw-1", "node", 200)
    seen = front.site.record("begin")[-1]["headers"]
    assert not {"authorization", "x-api-key", "x-appliance-client-verify", "x-appliance-client-certificate"} & set(seen)
    line = wait_for(
        lambda: [r for r in front.site.audit() if r.get("request") == answer.headers["x-request-id"]], "the audit line"
    )[0]
    assert (line["tenant"], line["credential"]) == ("team-a", "a-1")


def test_the_audit_log_and_the_proxies_log_name_a_request_alike(front: Front) -> None:
    answer = front.ask(certificate="stranger", key=KEY)
    number = answer.headers["x-request-id"]
    assert answer.headers.getlist("x-request-id") == [number]
    assert front.logged("required", answer)["client"] == "stranger"
    assert front.logged("gpu", answer)["client"] == "gw-1"


def test_a_stream_comes_as_it_is_made(front: Front) -> None:
    began = time.monotonic()
    body = chat("one two do:pause=1", stream=True, max_completion_tokens=8)
    answer = front.ask("optional", key=KEY, body=body, preload_content=False)
    assert answer.status == 200
    lines = answer.read().split(b"\n\n")
    assert lines[-2] == b"data: [DONE]"
    assert json.loads(lines[0].removeprefix(b"data: "))["object"] == "chat.completion.chunk"
    assert time.monotonic() - began < 60


def test_a_certificate_of_a_tenant_is_enough(front: Front) -> None:
    for how in front.ports:
        assert front.ask(how, certificate="team-a").status == 200
    assert front.site.audit()[-1]["credential"] == "a-cert"


def test_a_certificate_of_no_tenant_is_not(front: Front) -> None:
    answer = front.ask(certificate="stranger")
    assert (answer.status, answer.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize(("how", "certificate"), [("required", "stranger"), ("optional", ""), ("optional", "stranger")])
def test_what_a_client_says_of_its_certificate_counts_for_nothing(front: Front, how: str, certificate: str) -> None:
    stolen = (front.where / "team-a/node.crt").read_text()
    for verify in ("X-Appliance-Client-Verify", "x-appliance-client-verify", "X_Appliance_Client_Verify"):
        said = {
            verify: "SUCCESS",
            verify.replace("erify", "ertificate").replace("V", "C").replace("v", "c"): quote(stolen),
        }
        said |= {"X-Appliance-Client-Certificate": quote(stolen)}
        answer = front.ask(how, certificate=certificate, headers=said)
        assert (answer.status, answer.json()["error"]["code"]) == (401, "invalid_api_key")


def test_without_a_certificate_a_key_is_enough_only_where_the_site_says_so(front: Front) -> None:
    refused = front.ask(key=KEY)
    assert (refused.status, refused.json()["error"]["code"]) == (400, "certificate_required")
    assert front.ask("optional", key=KEY).status == 200
    assert front.ask("optional", headers={"x-api-key": KEY}).status == 200
    nobody = front.ask("optional")
    assert (nobody.status, nobody.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("how", ["required", "optional"])
def test_a_forged_certificate_is_refused_with_and_without_a_good_key(front: Front, how: str) -> None:
    for key in ("", KEY):
        answer = front.ask(how, certificate="forged", key=key)
        assert (answer.status, answer.json()["error"]["code"]) == (400, "certificate_required")


def test_a_node_may_not_ask_as_a_tenant(front: Front) -> None:
    assert front.ask(certificate="gpu-1").status == 401


def test_a_limit_of_the_gateway_says_itself_when_to_come_back(front: Front) -> None:
    answers = [front.ask("optional", key=OTHER) for _ in range(3)]
    assert [a.status for a in answers] == [200, 429, 429]
    for answer in answers[1:]:
        (seconds,) = answer.headers.getlist("retry-after")
        assert 1 <= int(seconds) <= 60
        assert answer.headers["x-ratelimit-limit-requests"] == "1"
    assert "retry-after" not in answers[0].headers


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/metrics", 404), ("POST", "/v1/load_lora_adapter", 404), ("GET", "/v1/chat/completions", 405), ("POST", "/v1/models", 405),
        ("GET", "/v1/models", 200), ("GET", "/v1/appliance/budget", 200), ("GET", "/healthz", 403), ("POST", "/v1/rerank", 404),
    ],
)  # fmt: skip
def test_only_paths_of_the_gateway_exist(front: Front, method: str, path: str, status: int) -> None:
    answer = front.ask(
        "optional", key=KEY, method=method, path=path, body={"model": "tiny", "query": "a", "documents": ["b"]}
    )
    assert answer.status in {status, 400 if path == "/v1/rerank" else status, 403 if status == 404 else status}, (
        answer.data
    )


def test_the_installs_own_proof_is_answered(front: Front) -> None:
    url = f"https://127.0.0.1:{front.ports['required']}"
    assert prove.ask(url, chats.CHAT, "tiny", front.context("appliance-proof"))


def test_a_gateway_out_of_service_says_when_to_come_back(front: Front) -> None:
    (front.where / "drained").touch()
    try:
        answer = front.ask("optional", key=KEY)
        assert (answer.status, answer.headers.getlist("retry-after")) == (503, ["5"])
    finally:
        (front.where / "drained").unlink()
    assert front.ask("optional", key=KEY).status == 200


def test_no_credential_is_in_any_log(front: Front) -> None:
    front.ask("optional", key=KEY, path="/v1/chat/completions?key=" + KEY)
    assert (front.where / "nginx-optional/access.log").stat().st_size
    for path in [*front.where.glob("*.log"), *front.where.glob("nginx-*/*log"), *front.where.glob("ledger/audit/*")]:
        assert KEY not in path.read_text(errors="replace"), path


def test_a_key_taken_out_of_the_file_is_refused_as_soon_as_the_file_is_there(front: Front) -> None:
    without = tenants()
    without["tenants"][0]["keys"] = []
    (front.place / "tenants.yml").write_text(yaml.safe_dump(without))
    front.apply()
    wait_for(lambda: front.ask("optional", key=KEY).status == 401, "a refusal")
    assert front.ask(certificate="team-a").status == 200
    assert any(
        r["act"] == "configuration applied" and "credential a-1" in r["removed"]
        for r in front.site.audit("administrative")
        if "removed" in r
    )
