"""Fuzz targets: functions of bytes that assert what must hold for all of them.

A target returns when the bytes were accepted in good order or refused by an ``ApplianceError``; anything else that
escapes is a finding. Both engines run the same functions: hypothesis in the tests, atheris by ``./run fuzz``.
"""

from __future__ import annotations

import contextlib
import email.message
import functools
import io
import json
import os
import shutil
import socketserver
import tempfile
import threading
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import urllib3
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from tuf.api.metadata import Metadata, Targets

from engine import tree, trust, verify
from engine.blobs import Blobs
from engine.download import Downloader, Item
from engine.errors import ApplianceError
from engine.tree import Entry
from installer import chattemplate, intake, lockfile, modelcard, safetensors, yamlfile
from installer.definition import Definition
from installer.kinds import aptsources, oci, wheels
from installer.pki import certificate
from installer.site import events
from tests import bundles

SHA = "b94d27b9934d3e08a52e52d7da7dabfac484efe37a5380ee9088f7ace2efcde9"  # of b"hello world"
ROLES = ("timestamp", "snapshot", "targets")


@dataclass(frozen=True)
class FuzzTarget:
    """``seeds`` makes inputs that are valid, from which both engines start."""

    run: Callable[[bytes], None]
    seeds: Callable[[], list[bytes]]


@functools.cache
def scratch() -> Path:
    """A directory for the whole run."""
    holder = tempfile.TemporaryDirectory(prefix="appliance-fuzz-")
    _kept.append(holder)
    return Path(holder.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


@functools.cache
def good() -> bundles.Bundle:
    return bundles.make(scratch(), {"files/a": b"hello world", "models/m/w": b"x" * 100}, days=3000)


@functools.cache
def good_metadata() -> dict[str, bytes]:
    return {r: (good().path / "metadata" / f"{r}.json").read_bytes() for r in ROLES}


def metadata(data: bytes) -> None:
    """One metadata file replaced: refused, or what is trusted is what was signed."""
    role, body = ROLES[data[0] % 3] if data else ROLES[0], data[1:]
    file = good().path / "metadata" / f"{role}.json"
    file.write_bytes(body)
    try:
        trusted = verify.open_bundle(good().path, good().root)
    except ApplianceError:
        return
    finally:
        file.write_bytes(good_metadata()[role])
    # JSON has many spellings of one meaning; the meaning is what was signed.
    assert {p: t.sha256 for p, t in trusted.targets.items()} == _signed_hashes()


@functools.cache
def _signed_hashes() -> dict[str, str]:
    signed = Metadata[Targets].from_bytes(good_metadata()["targets"]).signed
    return {path: file.hashes["sha256"] for path, file in signed.targets.items()}


def given_root(data: bytes) -> None:
    """Bytes given as root of trust by hand; only a root that names our keys opens our bundle."""
    with contextlib.suppress(ApplianceError):
        assert set(verify.open_bundle(good().path, data).targets) == set(_signed_hashes())


def signed_content(data: bytes) -> None:
    """What a signer with bad intent could sign: paths, lengths and fields of the targets metadata."""
    try:
        signed = Targets.from_dict(json.loads(data))
    except Exception:  # noqa: BLE001, RUF100 - python-tuf turns all of these into one refusal before our code runs
        return
    with contextlib.suppress(ApplianceError):
        for path, target in trust.listing(signed, 1).targets.items():
            assert not path.startswith("/")
            assert ".." not in path.split("/")
            assert len(target.sha256) == 64
            assert 0 <= target.size < 1 << 63
            assert all(isinstance(p, str) for p in target.profiles)


def path(data: bytes) -> None:
    text = data.decode("utf-8", "surrogateescape")
    with contextlib.suppress(ApplianceError):
        assert (Path("/r") / tree.check_path(text)).resolve().is_relative_to("/r")


def tensors(data: bytes) -> None:
    with contextlib.suppress(ApplianceError):
        safetensors.check(io.BytesIO(data), len(data), "model.safetensors")


def card(data: bytes) -> None:
    said = modelcard.licence(["README.md"], data)
    assert "\n" not in said


def template(data: bytes) -> None:
    assert isinstance(chattemplate.fault(data.decode(errors="replace")), str)


def model_json(data: bytes) -> None:
    """A config.json at intake: never taken with an ``auto_map`` table in it."""
    file = Entry("config.json", "file", len(data))
    verdict = intake.examine([file], lambda _path, n: data[:n], licence="MIT")
    with contextlib.suppress(ValueError, RecursionError):
        parsed = json.loads(data)
        if isinstance(parsed, dict) and isinstance(parsed.get("auto_map"), dict):
            assert any(f.rule == "auto-map" for f in verdict.refused)


def image(data: bytes) -> None:
    for reader in (lambda: oci.choose(data, "amd64"), lambda: oci.platform(data), lambda: oci.as_oci(data)):
        with contextlib.suppress(ApplianceError):
            reader()
    with contextlib.suppress(ApplianceError):
        found = oci.contents(data)
        assert all(b.size >= 0 for b in (found.config, *found.layers))


def yaml_file(data: bytes) -> None:
    file = scratch() / "fuzzed.yml"
    file.write_bytes(data)
    for model in (Definition, lockfile.Lock):
        with contextlib.suppress(ApplianceError):
            yamlfile.parse(yamlfile.load(file), model, schema="")


def wheel(data: bytes) -> None:
    file = scratch() / "fuzzed.whl"
    file.write_bytes(data)
    with contextlib.suppress(ApplianceError):
        assert len(wheels.metadata_of(file)) <= wheels.MAX_METADATA
    assert isinstance(wheels.licence_of(data), str)


def apt_sources(data: bytes) -> None:
    text = data.decode(errors="replace")
    for name in ("x.list", "x.sources"):
        kept, _ = aptsources.without_unsafe(name, text)
        assert aptsources.without_unsafe(name, kept)[1] == []


def request(data: bytes) -> None:
    """A node's certificate request; one that is accepted has a key of a curve we allow."""
    with contextlib.suppress(ApplianceError):
        assert isinstance(certificate.key_of_request(data, where="n1").curve, certificate.CURVES)


def event(data: bytes) -> None:
    """An answer of a node as Ansible hands it on."""
    try:
        parsed = json.loads(data)
    except (ValueError, RecursionError):
        parsed = {"res": {"stderr": data.decode(errors="replace")}}
    tracker = events.Tracker(["n1"])
    for kind in ("start", "ok", "failed", "unreachable"):
        event_data = {**parsed, "host": "n1"} if isinstance(parsed, dict) else {"host": "n1", "res": parsed}
        tracker.handle({"event": f"runner_on_{kind}", "event_data": event_data})
    assert len(tracker.failures) <= 1


class _Answer(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            self.request.settimeout(1)
            self.request.recv(4096)
            self.request.sendall(_answer[0])


_answer = [b""]


class _OneHost(urllib3.PoolManager):
    """Wherever a redirect points, the connection goes to the double."""

    def connection_from_host(self, *_args: Any, **_kwargs: Any) -> urllib3.HTTPConnectionPool:
        return _server()


@functools.cache
def _server() -> urllib3.HTTPConnectionPool:
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Answer)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return urllib3.HTTPConnectionPool("127.0.0.1", server.server_address[1], timeout=urllib3.Timeout(2))


def http(data: bytes) -> None:
    """The depot's answer at the node: content has the signed hash or is not there, metadata is signed or refused."""
    _answer[0] = data
    with tempfile.TemporaryDirectory(dir=scratch()) as here:
        blobs, pool = Blobs(Path(here)), _OneHost()
        with contextlib.suppress(ApplianceError):
            Downloader(blobs, pool=pool).fetch(Item("a", "http://depot/a", SHA, 11))
        with contextlib.suppress(ApplianceError):
            assert 0 <= (Downloader(blobs, pool=pool).length("http://depot/a") or 0) < 1 << 63
        with contextlib.suppress(ApplianceError):
            assert len(Downloader(blobs, pool=pool).read("http://depot/a", 16)) <= 16
        for partial in Path(here).glob("partial/*"):
            assert partial.stat().st_size <= 11
        if blobs.path(SHA).exists():
            assert blobs.path(SHA).read_bytes() == b"hello world"
        with contextlib.suppress(ApplianceError):
            trust.refresh(
                fetcher=trust.HttpFetcher(pool), url="http://depot", state=Path(here) / "t", pinned_root=good().root
            )
            raise AssertionError("one answer to every question cannot be a whole repository")


def _request_seed() -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "n1")])
    made = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, SHA256())
    return made.public_bytes(Encoding.PEM)


def _tensors_seed() -> bytes:
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(8)


def _wheel_seed() -> bytes:
    message = email.message.Message()
    message["Name"], message["Version"], message["License"] = "a", "1", "MIT"
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a-1.dist-info/METADATA", message.as_bytes())
    return out.getvalue()


def _image_seeds() -> list[bytes]:
    blob = {"digest": f"sha256:{SHA}", "size": 11}
    manifest = {"mediaType": oci.OCI_MANIFEST, "config": {**blob, "mediaType": oci.OCI_CONFIG}, "layers": [blob]}
    layer = {**blob, "mediaType": oci.DOCKER_LAYER + ".gzip"}
    docker = {"mediaType": oci.DOCKER_MANIFEST, "config": blob, "layers": [layer]}
    platforms = {"manifests": [{**blob, "platform": {"os": "linux", "architecture": "amd64", "variant": "v2"}}]}
    return [json.dumps(d).encode() for d in (manifest, docker, platforms)]


def _yaml_seeds() -> list[bytes]:
    lock = lockfile.Lock(schema_version=1, name="a", version="1", definition_sha256=SHA, artifacts=())
    product = Path(__file__).parents[2] / "bundles"
    return [
        lockfile.dump(lock).encode(),
        *(p.read_bytes() for p in sorted(product.glob("*.yml"))),
        b"a: 1\nb: [x, {c: d}]",
    ]


def _http_seeds() -> list[bytes]:
    body = b"hello world"
    heads = (
        "200 OK\r\nContent-Length: 11", "206 Partial Content\r\nContent-Range: bytes 5-10/11\r\nContent-Length: 6",
        "200 OK\r\nTransfer-Encoding: chunked", "302 Found\r\nLocation: http://other/a\r\nContent-Length: 0", "404 Not Found",
        "200 OK\r\nContent-Encoding: gzip", "200 OK\r\nContent-Length: 99",
    )  # fmt: skip
    return [f"HTTP/1.1 {h}\r\nConnection: close\r\n\r\n".encode() + body for h in heads]


def _event_seed() -> bytes:
    error = json.dumps({"error": {"what": "w", "where": "x", "remedy": "r"}})
    return json.dumps(
        {"role": "r", "task": "t", "res": {"msg": "m", "stderr": error, "results": [{"failed": True}]}}
    ).encode()


def listing(data: bytes) -> None:
    """Things planted beside and over a good bundle: named, never followed, and nothing outside is touched."""
    with tempfile.TemporaryDirectory(dir=scratch()) as here:
        root = Path(here) / "bundle"
        outside = Path(here) / "outside"
        outside.write_bytes(b"hello world")
        shutil.copytree(good().path, root)
        planted = False
        for i in range(0, min(len(data), 64) - 8, 8):
            parts = ["content", "files", "metadata", os.fsdecode(data[i + 1 : i + 8].translate(None, b"/\0"))]
            where = root.joinpath(*parts[(data[i] >> 3) % 4 :])
            with contextlib.suppress(OSError):
                planted |= _plant(where, data[i] % 6, outside)
        with contextlib.suppress(ApplianceError):
            assert verify.verify(root, good().root).good is not planted
        assert outside.read_bytes() == b"hello world"


def _plant(where: Path, how: int, outside: Path) -> bool:
    if where.exists() or where.is_symlink() or how == 5:
        return False
    where.parent.mkdir(parents=True, exist_ok=True)
    makers: tuple[Callable[[], object], ...] = (
        lambda: where.symlink_to(outside), lambda: os.mkfifo(where), lambda: where.write_bytes(b""),
        lambda: os.link(outside, where), lambda: where.symlink_to(outside.parent),
    )  # fmt: skip
    makers[how]()
    return True


TARGETS: dict[str, FuzzTarget] = {
    "metadata": FuzzTarget(metadata, lambda: [bytes([i]) + good_metadata()[r] for i, r in enumerate(ROLES)]),
    "given_root": FuzzTarget(given_root, lambda: [good().root]),
    "signed_content": FuzzTarget(
        signed_content, lambda: [json.dumps(json.loads(good_metadata()["targets"])["signed"]).encode()]
    ),
    "listing": FuzzTarget(listing, lambda: [bytes([i]) + b"planted" + bytes(8) for i in range(5)]),
    "path": FuzzTarget(path, lambda: [b"content/models/m/w", b"../x", "é".encode()]),
    "tensors": FuzzTarget(tensors, lambda: [_tensors_seed()]),
    "card": FuzzTarget(card, lambda: [b"---\nlicense: mit\n---\n# M", b"---\nlicense: other\nlicense_name: x\n---\n"]),
    "template": FuzzTarget(template, lambda: [b"{% for m in messages %}{{ m['role'] ~ m.content }}{% endfor %}"]),
    "model_json": FuzzTarget(model_json, lambda: [b'{"auto_map": {"A": "b.C"}, "chat_template": "{{ x }}"}']),
    "image": FuzzTarget(image, _image_seeds),
    "yaml_file": FuzzTarget(yaml_file, _yaml_seeds),
    "wheel": FuzzTarget(wheel, lambda: [_wheel_seed(), b"Name: a\nLicense: MIT\n"]),
    "apt_sources": FuzzTarget(
        apt_sources,
        lambda: [b"deb [trusted=yes] http://x y z\n", b"Types: deb\nURIs: http://x\nTrusted: yes\n\nTypes: deb\n"],
    ),
    "request": FuzzTarget(request, lambda: [_request_seed()]),
    "event": FuzzTarget(event, lambda: [_event_seed()]),
    "http": FuzzTarget(http, _http_seeds),
}
