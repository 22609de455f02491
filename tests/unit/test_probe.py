"""What counts as a token, and how every other answer of a server ends."""

from __future__ import annotations

import datetime
import json
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from engine import chat, pooling, probe
from engine.errors import ApplianceError, InputError

GOOD = {"usage": {"completion_tokens": 1}}


def http(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Status", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


@contextmanager
def server(path: Path, talk: Callable[[socket.socket, bytes], None]) -> Iterator[list[bytes]]:
    """A unix socket whose connections are handed, with the request that came, to ``talk``. Yields the requests."""
    requests: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection:
                    requests.append(_request(connection))
                    talk(connection, requests[-1])

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield requests
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join(10)


def _request(connection: socket.socket) -> bytes:
    raw = b""
    while b"\r\n\r\n" not in raw:
        raw += connection.recv(65536)
    head, _, body = raw.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
    )
    while len(body) < length:
        body += connection.recv(65536)
    return head + b"\r\n\r\n" + body


def says(raw: bytes) -> Callable[[socket.socket, bytes], None]:
    return lambda connection, _: connection.sendall(raw)


HANGS = pytest.mark.timeout(120)  # what is not cut off goes on for ever


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "api.sock"


def test_a_token_is_asked_for_by_name_and_counted(path: Path) -> None:
    with server(path, says(http(200, json.dumps(GOOD).encode()))) as requests:
        answer = probe.ask_token(path, "tiny", 5)
    assert (answer.model, answer.tokens) == ("tiny", 1)
    assert answer.seconds >= 0
    head, _, body = requests[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /v1/completions HTTP/1.1")
    asked = json.loads(body)
    assert (asked["model"], asked["max_tokens"], asked["stream"]) == ("tiny", 1, False)
    assert len(asked["prompt"].split()) >= 16, "a first prompt this short kills vLLM on CPUs with AMX"


@pytest.mark.parametrize(
    ("raw", "says_what"),
    [
        (http(503, b'{"error": "the engine is dead"}'), "answers 503: .*the engine is dead"),
        (http(307, b"", "Location: http://192.0.2.1/"), "answers 307"),
        (http(200, b"{}"), "not what the API promises"),
        (http(200, b"[" * 100_000), "not what the API promises"),
        (http(200, b'{"usage": {"completion_tokens": 0}}'), "without a token"),
        (http(200, b"[1]"), "not what the API promises"),
        (http(200, b"x" * (probe.MAX_ANSWER + 1)), "longer than"),
        (b"nonsense\r\n\r\n", "does not answer"),
        (b"", "does not answer"),
    ],
)
def test_anything_but_a_token_is_refused_and_says_where(path: Path, raw: bytes, says_what: str) -> None:
    with server(path, says(raw)), pytest.raises(ApplianceError, match=says_what) as caught:
        probe.ask_token(path, "tiny", 5)
    assert caught.value.where == str(path)
    assert caught.value.remedy


def test_a_redirect_is_not_followed(path: Path) -> None:
    with server(path, says(http(307, b"", "Location: /elsewhere"))) as requests, pytest.raises(ApplianceError):
        probe.ask_token(path, "tiny", 5)
    assert len(requests) == 1


@HANGS
@pytest.mark.parametrize(
    "begun", [b"", b"HTTP/1.1 200 OK\r\nX-A: b", b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"]
)
def test_a_server_that_drips_is_cut_off_in_time(path: Path, begun: bytes) -> None:
    done = threading.Event()

    def drip(connection: socket.socket, _: bytes) -> None:
        try:
            connection.sendall(begun)
            while not done.wait(0.05):
                connection.sendall(b"a" if begun else b"")
        except OSError:
            pass

    try:
        with server(path, drip), pytest.raises(ApplianceError, match=r"did not answer within 0\.4 s"):
            try:
                probe.ask_token(path, "tiny", 0.4)
            finally:
                done.set()
    finally:
        done.set()


def test_a_server_that_starts_is_waited_for(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "PAUSE_S", 0.01)
    asked = threading.Event()
    original = probe.ask_token

    def ask(target: probe.Target, model: str, timeout_s: float, *, chats: bool, task: pooling.Task) -> probe.Answer:
        try:
            return original(target, model, timeout_s, chats=chats, task=task)
        finally:
            asked.set()

    monkeypatch.setattr(probe, "ask_token", ask)
    answers: list[probe.Answer] = []
    waiting = threading.Thread(target=lambda: answers.append(probe.wait_for_token(path, "tiny", 10)))
    waiting.start()
    assert asked.wait(5), "nobody asked while there was no socket"
    with server(path, says(http(200, json.dumps(GOOD).encode()))):
        waiting.join(5)
    assert [a.tokens for a in answers] == [1]


def test_a_model_that_makes_vectors_is_asked_for_one(path: Path) -> None:
    with server(path, says(http(200, b'{"data": [{"embedding": [0.5, 1]}]}'))) as requests:
        answer = probe.ask_token(path, "m", 5, task="embed")
    assert (answer.tokens, answer.endpoint) == (2, "/v1/embeddings")
    assert b"POST /v1/embeddings" in requests[0] and b'"input"' in requests[0]
    with (
        server(path.with_name("other"), says(http(200, json.dumps(GOOD).encode()))),
        pytest.raises(ApplianceError, match="not what the API promises: the answer holds no numbers"),
    ):
        probe.ask_token(path.with_name("other"), "m", 5, task="embed")


def test_a_bound_socket_that_does_not_listen_yet_is_a_server_that_starts(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))
        with pytest.raises(ApplianceError, match="no token came within 0 s"):
            probe.wait_for_token(path, "tiny", 0)


@HANGS
def test_a_wrong_answer_ends_the_wait_at_once(path: Path) -> None:
    with (
        server(path, says(http(404, b"no such model"))) as requests,
        pytest.raises(ApplianceError, match="answers 404"),
    ):
        probe.wait_for_token(path, "other", 60)
    assert len(requests) == 1


@HANGS
def test_the_wait_ends_with_the_server(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        alive = probe._watch(child.pid)
        assert alive()
        assert child.stdin is not None
        child.stdin.close()
        child.wait(10)
    assert not alive()
    assert not probe._watch(child.pid)(), "a process that was gone before counts as alive"
    with pytest.raises(ApplianceError, match="ended before it generated a token"):
        probe.wait_for_token(path, "tiny", 60, alive=alive)


def test_a_process_that_died_and_was_not_waited_for_is_not_alive() -> None:
    with subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.read()  # its end of the pipe closes when it exits
        alive, deadline = probe._watch(child.pid), time.monotonic() + 10
        while alive():
            assert time.monotonic() < deadline, "a dead process still counts as alive"


def test_the_command_prints_one_document(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with server(path, says(http(200, json.dumps(GOOD).encode()))):
        assert probe.main([f"--socket={path}", "--model=tiny", "--timeout=5"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 1


@pytest.mark.parametrize(
    ("files", "endpoint"),
    [
        ({}, chat.COMPLETIONS),
        ({"tokenizer_config.json": "{}"}, chat.COMPLETIONS),
        ({"tokenizer_config.json": "not JSON"}, chat.COMPLETIONS),
        ({"tokenizer_config.json": "[" * 100_000}, chat.COMPLETIONS),
        ({"tokenizer_config.json": '{"chat_template": [' + "[]," * 2_000_001 + "[]]}"}, chat.COMPLETIONS),
        ({"chat_template.jinja": "{{ messages }}"}, chat.CHAT),
        ({"tokenizer_config.json": '{"chat_template": "{{ messages }}"}'}, chat.CHAT),
        ({"tekken.json": "{}"}, chat.CHAT),
    ],
)
@pytest.mark.parametrize("wait", [(), ("--wait",)])
def test_a_model_with_a_chat_template_is_asked_for_a_chat(
    path: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    files: dict[str, str],
    endpoint: str,
    wait: tuple[str],
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    with server(path, says(http(200, json.dumps(GOOD).encode()))) as requests:
        assert probe.main([f"--socket={path}", "--model=tiny", f"--folder={folder}", "--timeout=5", *wait]) == 0
    assert json.loads(capsys.readouterr().out)["endpoint"] == endpoint
    head, _, body = requests[0].partition(b"\r\n\r\n")
    assert head.startswith(f"POST {endpoint} HTTP/1.1".encode())
    asked = json.loads(body)
    said = asked["messages"][0]["content"] if endpoint == chat.CHAT else asked["prompt"]
    assert len(said.split()) >= 16, "a first prompt this short kills vLLM on CPUs with AMX"


def test_a_template_that_cannot_be_read_is_not_taken_for_none(path: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "tokenizer_config.json").symlink_to("tokenizer_config.json")  # a circle
    with pytest.raises(InputError, match="the model's folder cannot be read"):
        probe.main([f"--socket={path}", "--model=tiny", f"--folder={folder}"])
    assert not chat.folder_has_template(tmp_path / "nothing")


@pytest.mark.parametrize("url", ["http://node:8444", "https://", "https://node:8444/v1", "node:8444"])
def test_only_https_to_a_host_is_asked(url: str) -> None:
    with pytest.raises(InputError, match="is not https"):
        probe.main([f"--url={url}", "--model=tiny"])


def test_certificates_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be used"):
        probe.main(["--url=https://node:1", f"--ca={tmp_path}/none.crt", "--model=tiny"])


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate of localhost that vouches for itself, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = tmp_path / "localhost.pem"
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


@contextmanager
def tls_server(certificate: Path, raw: bytes, *, drips: bool = False) -> Iterator[int]:
    """Demands a client certificate, then says ``raw``; with ``drips`` it then keeps the connection open. Yields the port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.load_verify_locations(certificate)
    context.verify_mode = ssl.CERT_REQUIRED
    done = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            try:
                plain, _ = listening.accept()
                with context.wrap_socket(plain, server_side=True) as connection:
                    _request(connection)
                    connection.sendall(raw)
                    while drips and not done.wait(0.05):
                        connection.sendall(b"a")
            except OSError:
                return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            done.set()
            thread.join(10)


def test_a_token_comes_over_mutual_tls(certificate: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with tls_server(certificate, http(200, json.dumps(GOOD).encode())) as port:
        tls = [f"--url=https://localhost:{port}", f"--ca={certificate}", f"--cert={certificate}"]
        assert probe.main([*tls, "--model=tiny", "--timeout=5"]) == 0
    assert json.loads(capsys.readouterr().out)["tokens"] == 1


@pytest.mark.parametrize("given", [["--cert"], ["--ca"]])
def test_a_server_that_is_not_trusted_or_does_not_trust_gives_no_token(certificate: Path, given: list[str]) -> None:
    with (
        tls_server(certificate, http(200, json.dumps(GOOD).encode())) as port,
        pytest.raises(ApplianceError, match="does not answer"),
    ):
        probe.main(
            [f"--url=https://localhost:{port}", *(f"{o}={certificate}" for o in given), "--model=tiny", "--timeout=5"]
        )


@HANGS
def test_a_server_that_drips_over_tls_is_cut_off_in_time(certificate: Path) -> None:
    with (
        tls_server(certificate, b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", drips=True) as port,
        pytest.raises(ApplianceError, match=r"did not answer within 0\.4 s"),
    ):
        tls = [f"--url=https://localhost:{port}", f"--ca={certificate}", f"--cert={certificate}"]
        probe.main([*tls, "--model=tiny", "--timeout=0.4"])
