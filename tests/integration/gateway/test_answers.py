"""What clients see, with the official Python client where it is about clients: answers, failures, refusals, and what is written down."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest
from httpx2 import Client, HTTPTransport

from tests import gatewaysite as lab
from tests.integration.gateway import flood
from tests.integration.gateway.running import Running, chat, wait_for
from tests.vllm_api_double import INTERNAL

CANARY = "canary-7f3a-prompt"
QUOTA_KEY, MINUTE_KEY, NEVER_LEFT = "sk-lab-" + "q" * 43, "sk-lab-" + "m" * 43, "sk-lab-" + "r" * 43


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One site for all tests here; tenants of their own keep them apart."""
    made = Running(tmp_path_factory.mktemp("site"))
    made.data["bounds"] = {"frame_bytes": 1 << 20, "stall_s": 2.0, "body_bytes": 6 << 20, "inline_bytes": 100_000}
    made.data["tenants"] += [
        {"name": "quota", "cost_centre": "1", "models": ["tiny"], "limits": {"tokens_per_day": 60}, "keys": [lab.key_entry("quota-1", QUOTA_KEY)]},
        {"name": "minute", "cost_centre": "1", "models": ["tiny"], "limits": {"requests_per_minute": 1}, "keys": [lab.key_entry("minute-1", MINUTE_KEY)]},
    ]  # fmt: skip
    made.data["models"].append({**made.data["models"][0], "name": "hidden"})
    made.data["models"].append(
        {**made.data["models"][0], "name": "away", "replicas": [{"url": f"unix:{made.where}/nobody.sock"}]}
    )
    made.data["tenants"][0]["models"] = ["tiny", "away"]
    made.data["tenants"][0]["limits"] = {"concurrent_requests": 1 << 40, "tokens_per_day": 1 << 50}
    made.write()
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture
def client(site: Running) -> Iterator[Callable[..., openai.OpenAI]]:
    transports = []

    def make(key: str = lab.KEY, retries: int = 0) -> openai.OpenAI:
        http = Client(transport=HTTPTransport(uds=str(site.where / "worker0.sock")), timeout=240)
        transports.append(http)
        return openai.OpenAI(base_url="http://appliance/v1", api_key=key, max_retries=retries, http_client=http)

    yield make
    for http in transports:
        http.close()


Ask = Callable[..., openai.OpenAI]


def _said(text: str) -> Any:
    return [{"role": "user", "content": text}]


def _last(site: Running, where: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    found: dict[str, Any] = wait_for(lambda: [line for line in site.audit() if where(line)], "the audit line")[-1]
    return found


def test_the_official_client_gets_answers_of_every_endpoint(site: Running, client: Ask) -> None:
    api = client()
    assert [m.id for m in api.models.list()] == ["tiny", "away"]
    whole = api.chat.completions.create(model="tiny", messages=_said("hello"), max_tokens=7, user="me")
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 5
    chunks = list(api.chat.completions.create(model="tiny", messages=_said("hello"), stream=True))
    assert len(chunks) == 6
    assert all(c.usage is None and c.choices for c in chunks)  # usage was only for the gateway
    chunks = list(
        api.chat.completions.create(
            model="tiny", messages=_said("hello"), stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].usage is not None
    assert (chunks[-1].choices, chunks[-1].usage.completion_tokens) == ([], 5)
    assert all(c.usage is None for c in chunks[:-1])
    assert api.completions.create(model="tiny", prompt="hello").choices[0].text == "w w w w w"
    assert api.embeddings.create(model="tiny", input=["a"], encoding_format="float").data[0].embedding == [
        0.1,
        0.2,
        0.3,
    ]
    assert api.responses.create(model="tiny", input="hello").output_text == "w w w w w "
    events = list(api.responses.create(model="tiny", input="hello", stream=True))
    assert events[-1].type == "response.completed"
    tool: Any = {
        "type": "function",
        "function": {
            "name": "f",
            "description": "d",
            "parameters": {"type": "object", "properties": {"usage": {"type": "object"}}},
        },
    }
    schema: Any = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}, "strict": True}}
    api.chat.completions.create(
        model="tiny",
        messages=_said("x"),
        tools=[tool],
        tool_choice="auto",
        response_format=schema,
        logprobs=True,
        top_logprobs=2,
    )
    sent = site.record("begin")[-1]["body"]
    assert sent["tools"][0]["function"]["parameters"]["properties"] == {"usage": {"type": "object"}}
    assert (sent["response_format"]["json_schema"]["strict"], sent["logprobs"], sent["top_logprobs"]) == (True, True, 2)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", chat()), ("/v1/completions", {"model": "tiny", "prompt": "a b"}), ("/v1/responses", {"model": "tiny", "input": "a b"}),
        ("/v1/messages", {"model": "tiny", "max_tokens": 9, "messages": [{"role": "user", "content": "a b"}]}),
        ("/v1/embeddings", {"model": "tiny", "input": "a b"}), ("/v1/rerank", {"model": "tiny", "query": "a", "documents": ["b", "c"]}),
        ("/v1/score", {"model": "tiny", "text_1": "a", "text_2": "b"}),
    ],
)  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_what_the_model_server_reports_is_what_is_charged(
    path: str, body: dict[str, Any], stream: bool, site: Running
) -> None:
    if stream and path.endswith(("embeddings", "rerank", "score")):
        return
    answer = site.ask({**body, "stream": True} if stream else body, path)
    assert answer.status == 200
    rid = answer.headers["x-request-id"]
    line = _last(site, lambda r: r.get("request") == rid)
    seen = wait_for(lambda: [r for r in site.record("end") if r["id"] == rid], "its end")[0]
    assert (line["prompt_tokens"], line["completion_tokens"]) == (seen["prompt"], seen["generated"])
    assert (line["charged_tokens"], line["estimated"], line["outcome"]) == (
        seen["prompt"] + seen["generated"],
        False,
        "completed",
    )


# What the model server does in the middle of a stream.
BROKEN = ("die=3", "stall=3", "garbage=3", "error=3", "huge=3", "no-done")


@pytest.mark.parametrize("fault", BROKEN)
@pytest.mark.parametrize("endpoint", ["chat", "responses", "messages"])
def test_a_stream_that_breaks_raises_in_the_client_and_is_charged_once(
    endpoint: str, fault: str, site: Running, client: Ask
) -> None:
    text = f"do:{fault} do:tokens=9"
    if endpoint == "messages":
        body = {"model": "tiny", "max_tokens": 50, "stream": True, "messages": [{"role": "user", "content": text}]}
        answer = site.ask(body, "/v1/messages")
        raw = answer.data
        *_, event, data = raw.decode().strip().split("\n")
        assert event == "event: error"
        assert json.loads(data.removeprefix("data: "))["type"] == "error"
    else:
        api = client()
        with pytest.raises(openai.APIError) as raised:
            if endpoint == "chat":
                list(api.chat.completions.create(model="tiny", messages=_said(text), stream=True))
            else:
                list(api.responses.create(model="tiny", input=text, stream=True))
        raw = str(raised.value).encode()
    assert INTERNAL.encode() not in raw
    seen = wait_for(lambda: [r for r in site.record("begin") if fault in json.dumps(r["body"])], "the request")[-1]
    lines = wait_for(lambda: [r for r in site.audit() if r.get("request") == seen["id"]], "its line")
    assert len(lines) == 1
    ended = wait_for(lambda: [r for r in site.record("end") if r["id"] == seen["id"]], "its end")[0]
    assert lines[0]["outcome"] in ("upstream_error", "ended")
    if (
        "garbage" not in fault and "error" not in fault and "huge" not in fault
    ):  # there the double counts what it did not send
        assert lines[0]["charged_tokens"] >= ended["prompt"] + ended["generated"]


def test_a_stream_without_usage_is_charged_in_full(site: Running) -> None:
    answer = site.ask(chat("do:no-usage", stream=True, max_tokens=50))
    assert answer.data.endswith(b"data: [DONE]\n\n")
    line = _last(site, lambda r: r.get("request") == answer.headers["x-request-id"])
    assert (line["outcome"], line["estimated"]) == ("completed", True)
    assert line["charged_tokens"] > 50


@pytest.mark.parametrize(
    ("status", "expected", "code"),
    [
        (400, 400, "rejected_by_model"),
        (404, 400, "rejected_by_model"),
        (500, 502, "upstream_error"),
        (503, 503, "model_overloaded"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_no_text_of_the_model_server_passes(status: int, expected: int, code: str, stream: bool, site: Running) -> None:
    answer = site.ask(chat(f"do:status={status}", stream=stream))
    assert (answer.status, answer.json()["error"]["code"]) == (expected, code)
    assert b"0x7f3a" not in answer.data
    line = _last(site, lambda r: r.get("request") == answer.headers["x-request-id"])
    assert (line["status"], line["outcome"]) == (expected, "upstream_error")
    assert (line["charged_tokens"] > 0) == (status == 500)  # only there it may have generated


def test_a_whole_answer_that_is_cut_is_a_failure_and_not_half_an_answer(site: Running) -> None:
    answer = site.ask(chat("do:cut"))
    assert (answer.status, answer.json()["error"]["code"]) == (502, "upstream_error")


def test_a_model_that_nobody_serves_now_costs_nothing(site: Running, client: Ask) -> None:
    with pytest.raises(openai.InternalServerError) as raised:
        client().chat.completions.create(model="away", messages=_said("x"))
    assert (raised.value.status_code, raised.value.code) == (503, "model_unavailable")
    assert raised.value.response.headers["retry-after"] == "5"
    line = _last(site, lambda r: r.get("model") == "away")
    assert (line["charged_tokens"], line["status"], line["attempts"]) == (0, 503, 1)


def test_a_day_limit_stops_the_official_client_at_once(site: Running, client: Ask) -> None:
    api = client(QUOTA_KEY, retries=5)
    api.chat.completions.create(model="tiny", messages=_said("x"), max_tokens=1)
    before = len([line for line in site.audit() if line.get("tenant") == "quota"])
    with pytest.raises(openai.RateLimitError) as raised:
        for _ in range(10):
            api.chat.completions.create(model="tiny", messages=_said("x"), max_tokens=1)
    assert raised.value.code == "insufficient_quota"
    headers = raised.value.response.headers
    assert headers["x-should-retry"] == "false"
    assert int(headers["retry-after"]) >= 1
    assert (headers["x-ratelimit-limit-tokens"], "x-ratelimit-limit-requests" in headers) == ("60", False)
    lines = [line for line in site.audit() if line.get("tenant") == "quota"][before:]
    assert sum(line["status"] == 429 for line in lines) == 1  # one attempt


def test_a_minute_limit_tells_the_limit_that_refused(site: Running, client: Ask) -> None:
    api = client(MINUTE_KEY)
    first = api.chat.completions.with_raw_response.create(model="tiny", messages=_said("x"))
    assert (first.headers["x-ratelimit-limit-requests"], first.headers["x-ratelimit-remaining-requests"]) == ("1", "0")
    with pytest.raises(openai.RateLimitError) as raised:
        api.chat.completions.create(model="tiny", messages=_said("x"), stream=True)
    headers = raised.value.response.headers
    assert 1 <= int(headers["retry-after"]) <= 60
    assert "x-should-retry" not in headers
    assert headers["content-type"] == "application/json"


def test_a_tenant_sees_its_own_budget_and_nobody_else_s(site: Running) -> None:
    found = site.budget(QUOTA_KEY)
    assert found["tenant"]["tokens_per_day"]["limit"] == 60
    assert set(found) == {"key", "tenant"}


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"authorization": "Bearer " + NEVER_LEFT}, "invalid_api_key"), ({"authorization": "Basic abc"}, "invalid_api_key"),
        ({"authorization": "Bearer a.b.c"}, "invalid_api_key"), ({"authorization": ""}, "invalid_api_key"),
        ({"authorization": "", "x-forwarded-user": "team-a", "x-appliance-client": "team-a", "x-real-ip": "127.0.0.1"}, "invalid_api_key"),
        ({"x-appliance-client-verify": "FAILED", "authorization": "", "x-appliance-client-certificate": "x"}, "invalid_api_key"),
    ],
)  # fmt: skip
def test_nothing_but_a_good_credential_counts(headers: dict[str, str], code: str, site: Running) -> None:
    answer = site.ask(chat(), headers=headers)
    assert (answer.status, answer.json()["error"]["code"]) == (401, code)
    assert answer.headers["www-authenticate"] == "Bearer"
    models = site.ask(b"", "/v1/models", method="GET", headers=headers)
    assert models.status == 401


def test_two_credentials_in_one_request_are_refused(site: Running) -> None:
    raw = flood.request(chat(), lab.KEY).replace(
        b"\r\n\r\n", f"\r\nauthorization: Bearer {lab.OTHER_KEY}\r\n\r\n".encode(), 1
    )
    import asyncio

    answer = asyncio.run(flood.one(site.where / "worker0.sock", raw))
    assert (answer.status, answer.json()["error"]["code"]) == (400, "duplicate_header")
    both = site.ask(chat(), headers={"x-api-key": lab.KEY})
    assert both.json()["error"]["code"] == "duplicate_credential"
    asked = {"model": "tiny", "max_tokens": 5, "messages": _said("x")}
    assert site.ask(asked, "/v1/messages", headers={"authorization": None, "x-api-key": lab.KEY}).status == 200
