"""The proof asks as clients do: for a chat, and where a model has no chat template for a completion, which it says.

The server speaks the API and mutual TLS as a gateway does; behind it stands a double of the model.
"""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from engine import chat
from installer.cli.outcome import page
from installer.cli.screen import Screen
from installer.site import controlpki, prove
from installer.site.install import Outcome
from installer.site.inventory import Host, Inventory
from installer.site.prove import Proof
from installer.site.settings import Site

NO_TEMPLATE = (
    "default chat template is no longer allowed, so you must provide a chat template"  # transformers, through vLLM
)


@pytest.fixture
def passphrase(tmp_path: Path) -> Path:
    path = tmp_path / "passphrase"
    path.write_text("a passphrase for tests only")
    return path


@contextmanager
def gateway(tmp_path: Path, passphrase: Path, refusal: tuple[int, str] | None) -> Iterator[tuple[Inventory, list[str]]]:
    """A gateway that answers completions, and chats unless there is a refusal; yields its site and the paths that were asked."""
    asked: list[str] = []

    class Model(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked.append(self.path)
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._say(*self._answer(body))

        def _answer(self, body: dict[str, object]) -> tuple[int, object]:
            if self.path == chat.CHAT and refusal:
                return refusal[0], {"error": {"message": refusal[1]}}
            if ("messages" in body) != (self.path == chat.CHAT):
                return 422, {"error": "the body is of another endpoint"}
            said = {"message": {"content": "yes"}} if self.path == chat.CHAT else {"text": " once"}
            return 200, {"choices": [said], "usage": {"completion_tokens": 1}}

        def _say(self, status: int, document: object) -> None:
            raw = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, format: str, *args: object) -> None: ...

    tls = controlpki.server_tls(tmp_path / "ca", passphrase, "127.0.0.1")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tls.certificate, tls.key)
    context.load_verify_locations(tls.ca)
    context.verify_mode = ssl.CERT_REQUIRED
    server = ThreadingHTTPServer(("127.0.0.1", 0), Model)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    site = Site.model_validate(
        {
            "control": {"address": "192.0.2.9"}, "management_sources": ["192.0.2.9"], "gateway": {"port": server.server_port},
            "services": [{"name": "tiny", "model": "tiny", "served_name": "tiny"}],
        }
    )  # fmt: skip
    try:
        yield Inventory(Path("site"), (Host("gw-1", "127.0.0.1", ("gateway",)),), site), asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def view(tmp_path: Path, *, template: bool) -> Path:
    """A release with the model in it."""
    folder = tmp_path / "release/content/models/tiny"
    folder.mkdir(parents=True)
    (folder / "tokenizer_config.json").write_text("{}")
    if template:
        (folder / "chat_template.jinja").write_text("{{ messages[0]['content'] }}")
    return tmp_path / "release"


def proof(
    tmp_path: Path, passphrase: Path, refusal: tuple[int, str] | None, release: Path | None
) -> tuple[Proof, list[str]]:
    with gateway(tmp_path, passphrase, refusal) as (inventory, asked):
        (made,) = prove.all_services(inventory, tmp_path / "ca", passphrase, release)
    return made, asked


@pytest.mark.parametrize("known", [True, False])
def test_a_model_with_a_template_proves_itself_with_a_chat(tmp_path: Path, passphrase: Path, known: bool) -> None:
    made, asked = proof(tmp_path, passphrase, None, view(tmp_path, template=True) if known else None)
    assert (made.good, made.answer, made.endpoint, made.remark) == (True, "yes", chat.CHAT, "")
    assert asked == [chat.CHAT]
    assert made.refused_without_certificate


@pytest.mark.parametrize("refusal", [(400, NO_TEMPLATE), (500, "the template failed"), (404, "Not Found")])
def test_a_model_whose_template_does_not_work_is_not_proven_by_a_completion(
    tmp_path: Path, passphrase: Path, refusal: tuple[int, str]
) -> None:
    made, asked = proof(tmp_path, passphrase, refusal, view(tmp_path, template=True))
    assert not made.good
    assert f"status {refusal[0]}" in made.answer
    assert asked == [chat.CHAT]


def test_a_model_without_a_template_is_asked_for_a_completion_and_report_and_screen_say_so(
    tmp_path: Path, passphrase: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, asked = proof(tmp_path, passphrase, (400, NO_TEMPLATE), view(tmp_path, template=False))
    assert (made.good, made.answer, made.endpoint) == (True, " once", chat.COMPLETIONS)
    assert asked == [chat.COMPLETIONS]
    Screen().result({}, page(Outcome("demo-1.0.0", False, "", "", proof=[made], good=True)))
    shown = " ".join(capsys.readouterr().out.split())
    assert f"gw-1/tiny: {chat.WITHOUT}" in shown


def test_where_the_release_is_not_known_the_server_says_that_it_has_no_template(
    tmp_path: Path, passphrase: Path
) -> None:
    made, asked = proof(tmp_path, passphrase, (400, NO_TEMPLATE), None)
    assert (made.good, made.endpoint) == (True, chat.COMPLETIONS)
    assert asked == [chat.CHAT, chat.COMPLETIONS]


def test_another_refusal_of_a_chat_is_no_reason_to_ask_otherwise(tmp_path: Path, passphrase: Path) -> None:
    made, asked = proof(tmp_path, passphrase, (400, "the model does not exist"), None)
    assert not made.good
    assert asked == [chat.CHAT]
