"""Documents of strangers that break who reads them: every one of them is a sentence, or nothing is taken from it."""

from __future__ import annotations

import gzip
import http.server
import json
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from packaging.utils import parse_wheel_filename
from pydantic import ValidationError

from engine import images, probe, strictjson
from engine.blobs import Blobs
from engine.clock import latest
from engine.download import Downloader
from engine.errors import ApplianceError, InputError, TrustError, UpstreamError
from engine.memory import Memory
from installer import hub, modelcard
from installer.kinds import apt, debaudit, uvresolve
from installer.lockfile import Artifact
from installer.site import prove

SHA = "ab" * 32
BROKEN = {
    "half a surrogate pair": b'{"a": "\\ud800"}', "raw surrogate": b'{"a": "\xed\xa0\x80"}', "no number": b'{"a": NaN}',
    "endless": b'{"a": -Infinity}', "too large": b'{"a": 1e999}', "digits": b'{"a": ' + b"9" * 5000 + b"}",
    "key twice": b'{"a": 1, "a": 2}', "deep": b"[" * 100_000, "wide": b"[" + b"[]," * 2_000_001 + b"[]]", "no UTF-8": b"\xff",
}  # fmt: skip


@pytest.mark.parametrize("case", BROKEN)
def test_json_that_is_not_strict_is_a_value_error_and_nothing_else(case: str) -> None:
    with pytest.raises(ValueError):
        strictjson.loads(BROKEN[case])


def test_json_that_is_strict_is_read_as_ever() -> None:
    text = '{"a": [1, -2.5e3, "é\\u00e9\\ud83d\\ude00", null, true, {"b": {}}]}'
    assert strictjson.loads(text.encode()) == json.loads(text)


@pytest.mark.parametrize("tokens", ["1e999", "NaN", "[]", '"x"', "null", "-1", "9" * 5000])
def test_an_answer_with_an_impossible_count_of_tokens_proves_nothing(tokens: str) -> None:
    raw = b'{"usage": {"completion_tokens": %s}, "choices": [{"message": {"content": "x"}}]}' % tokens.encode()
    with pytest.raises(ApplianceError):
        probe._tokens(raw, Path("/run/vllm.sock"))
    with pytest.raises(ValueError):
        prove.said(raw)


def test_a_manifest_nested_without_end_is_a_sentence_on_a_node() -> None:
    with pytest.raises(TrustError, match="not one of an image"):
        images._inside(b"[" * 100_000, Path("/layout"))


@pytest.mark.parametrize("text", ['{"demo": 1e999}', "[" * 100_000, '{"demo": NaN}'])
def test_a_damaged_memory_is_a_sentence(tmp_path: Path, text: str) -> None:
    (tmp_path / "versions.json").write_text(text)
    (tmp_path / "clock.json").write_text(text)
    with pytest.raises(TrustError, match="which versions were seen"):
        Memory(tmp_path, b"").version("demo")
    with pytest.raises(TrustError, match="latest time seen"):
        latest(tmp_path / "clock.json")


def test_a_card_whose_aliases_grow_without_end_states_no_licence() -> None:
    lines = ["---", "license: mit", "a0: &a0 {k: v}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 60)}]}}" for n in range(1, 9)]
    assert modelcard.licence([], "\n".join([*lines, "---", ""]).encode()) == ""
    assert modelcard.licence([], b"---\nlicense: mit\n---\n") == "MIT"


@pytest.mark.parametrize(
    "change",
    [{"path": "debs/../../../etc/cron.d/x"}, {"path": "/etc/x"}, {"path": "files/x"}, {"path": "debs/\ud800"}, {"source": "http://["},
     {"source": "http://x:99999/"}, {"source": "\x11http://x/"}],
)  # fmt: skip
def test_a_lock_cannot_place_a_file_outside_its_kinds_directory(change: dict[str, str]) -> None:
    good = {
        "path": "debs/pool/a.deb",
        "kind": "debs",
        "name": "a",
        "size": 1,
        "sha256": SHA,
        "source": "http://x/a",
        "profiles": ["gpu"],
    }
    Artifact.model_validate(good)
    with pytest.raises(ValidationError):
        Artifact.model_validate(good | change)


@pytest.mark.parametrize(
    "line",
    ["'\x11http://x/a' a_1_all.deb 10 SHA256:{}", "'http://x/..%2f_1_all.deb' ../../a_1_all.deb 10 SHA256:{}", "'http://x/a' ..%2f..%2fa_1_all.deb 10 SHA256:{}",
     "'http://[/a' a_1_all.deb 10 SHA256:{}", "'http://x:y/a' a_1_all.deb 10 SHA256:{}", "'http://x/a' a_1_all.deb " + "9" * 5000 + " SHA256:{}"],
)  # fmt: skip
def test_what_apt_says_of_a_package_becomes_no_path_and_no_traceback(line: str) -> None:
    assert apt._package(f"'http://x/a' a_1%3a2_all.deb 10 SHA256:{SHA}").filename == "a_2_all.deb"
    with pytest.raises(ApplianceError):
        apt._package(line.format(SHA))


def test_a_release_with_a_size_of_thousands_of_digits_lists_nothing() -> None:
    assert debaudit.hashes_of(f"SHA256:\n {SHA} {'9' * 5000} a\n {SHA} 10 b\n") == {"b": (SHA, 10)}


@pytest.mark.parametrize(
    "change",
    [{"hashes": {}}, {"hashes": {"sha256": None}}, {"hashes": {"sha256": "../x"}}, {"size": "x"}, {"size": -1}, {"size": float("inf")}, {"url": "http://["},
     {"name": "a/../b-1-py3-none-any.whl"}, {"name": 3}, {"name": "no wheel"}],
)  # fmt: skip
def test_an_index_that_describes_a_wheel_in_its_own_way_is_a_sentence(change: dict[str, Any]) -> None:
    order = dict.fromkeys(parse_wheel_filename("a-1-py3-none-any.whl")[3], 0)
    wheel = {"name": "a-1-py3-none-any.whl", "url": "http://x/a", "size": 9, "hashes": {"sha256": SHA}}
    assert uvresolve.chosen({"name": "a", "version": "1", "wheels": [wheel]}, order, "w").size == 9
    with pytest.raises(InputError):
        uvresolve.chosen({"name": "a", "version": "1", "wheels": [wheel | change]}, order, "w")


@pytest.mark.parametrize(
    "change",
    [{"size": "9"}, {"size": -1}, {"size": True}, {"size": 1 << 63}, {"blob_id": None}, {"blob_id": "x"}, {"rfilename": None},
     {"rfilename": "a\x1b[2J"}, {"rfilename": "\ud800"}, {"lfs": SimpleNamespace(size=1, sha256="x")}],
)  # fmt: skip
def test_a_hub_that_describes_a_file_in_its_own_way_is_a_sentence(change: dict[str, Any]) -> None:
    good = {"rfilename": "config.json", "size": 9, "blob_id": "cd" * 20, "lfs": None}
    info = SimpleNamespace(sha="ab" * 20, siblings=[SimpleNamespace(**good)])
    assert hub.pins_of(info, "a/b", "ab" * 20, "http://h")[0].size == 9  # type: ignore[arg-type]
    info.siblings = [SimpleNamespace(**(good | change))]
    with pytest.raises(UpstreamError):
        hub.pins_of(info, "a/b", "ab" * 20, "http://h")  # type: ignore[arg-type]


def test_a_packed_answer_is_not_unpacked_and_a_length_is_a_number(tmp_path: Path) -> None:
    """PEP 658 metadata and lengths, as a hostile index would serve them."""
    bomb = gzip.compress(bytes(64 << 20))

    class Index(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", self.path.strip("/") or str(len(bomb)))
            self.end_headers()
            self.wfile.write(bomb)

        def log_message(self, *_args: object) -> None: ...

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url, downloader = f"http://127.0.0.1:{server.server_port}/", Downloader(Blobs(tmp_path))
        assert downloader.read(url, 1 << 20) == bomb
        assert downloader.length(url) == len(bomb)
        assert downloader.length(url + "9" * 30) is None
        server.shutdown()
    with pytest.raises(UpstreamError, match="cannot read from the source"):
        downloader.length(url)
