"""Fuzz targets of what sources, registries, vendors and gateways answer, and of what is packed in what they serve."""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import json
import lzma
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from engine import images, probe, strictjson
from engine.errors import ApplianceError, TrustError
from engine.memory import Downgrade
from installer import hub, s3, tarstream, wheelarchive
from installer.definition import S3, Target
from installer.evidence import imagefiles, texts
from installer.kinds import apt, debaudit, uvresolve, wheelfiles
from installer.network.host import Network
from installer.site import prove
from installer.trust import downgrade
from tests.bundles import NOW
from tests.fuzz.signing import PASSPHRASE, _key
from tests.fuzz.targets import SHA, FuzzTarget, _wheel_seed, scratch

REVISION = "ab" * 20
STEP = Downgrade("demo", "demo-1.0.0", 20, 10)


def _parsed(data: bytes) -> Any:
    """As a library that takes all of Python's JSON hands it on; None when there is no document in it."""
    with contextlib.suppress(ValueError, RecursionError):
        return json.loads(data)
    return None


@functools.cache
def _hub() -> hub.Hub:
    os.environ["HF_ENDPOINT"] = "http://127.0.0.1:9"
    return hub.Hub(Network())


def hub_listing(data: bytes) -> None:
    """The hub's answer about a repository, through its own client's model of it."""
    from huggingface_hub import ModelInfo

    with contextlib.suppress(ApplianceError):
        info = _hub()._ask("hub", lambda _api: ModelInfo(**json.loads(data)))  # type: ignore[no-untyped-call]
        for pin in hub.pins_of(info, "a/b", REVISION, "http://127.0.0.1:9"):
            assert type(pin.size) is int
            assert 0 <= pin.size < 1 << 63
            assert pin.sha256 == "" or len(pin.sha256) == 64
            assert pin.path.isprintable()
            assert pin.url.startswith("http://127.0.0.1:9/a/b/resolve/")


@functools.cache
def _store() -> s3.Store:
    os.environ |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_EC2_METADATA_DISABLED": "true"}
    store = s3.Store(S3(endpoint="http://127.0.0.1:9", bucket="bucket", prefix="m", region="us-east-1"), Network())
    store._client.meta.events.register("before-send.s3", _answer)
    return store


_answers = [b""]


def _answer(request: Any, **_more: Any) -> Any:
    """What a store would have sent, in the place of a connection; a list that goes on is asked for once more only."""
    from botocore.awsrequest import AWSResponse

    data = _answers[0]
    if "continuation-token" in request.url:
        data = data.replace(b"<IsTruncated>true", b"<IsTruncated>false")
    headers = {"content-type": "application/xml", "x-amz-version-id": data[:40].decode("latin1")}
    return AWSResponse(
        request.url, 200, headers, SimpleNamespace(stream=lambda *_, **__: iter([data]), read=lambda *_: data)
    )


def s3_listing(data: bytes) -> None:
    """The store's answers, through its own library's parser."""
    _answers[0] = data
    with contextlib.suppress(ApplianceError):
        for path, size in _store().objects():
            assert size >= 0
            assert path.isprintable()
    with contextlib.suppress(ApplianceError):
        assert _store().address("w.safetensors").isascii()


def proof_answer(data: bytes) -> None:
    """A gateway's answer to the question that proves an installation."""
    with contextlib.suppress(ValueError):
        prove.said(data).encode()


def probe_answer(data: bytes) -> None:
    with contextlib.suppress(ApplianceError):
        assert probe._tokens(data, Path("/run/vllm.sock")) >= 1


def node_manifest(data: bytes) -> None:
    """An image's manifest on a node."""
    with contextlib.suppress(ApplianceError):
        config, layers = images._inside(data, Path("/layout"))
        assert all(len(d) == 64 for d in (config, *layers))


def strict_json(data: bytes) -> None:
    """What is taken is text and finite numbers all through, so that it can be written down again."""
    try:
        found = strictjson.loads(data)
    except ValueError:
        return
    assert json.loads(json.dumps(found, ensure_ascii=False, allow_nan=False).encode()) == found


def tar(data: bytes) -> None:
    """A layer, or the archive of files of a package."""
    with contextlib.suppress(TrustError):
        layer = imagefiles.look(tarstream.Reader(io.BytesIO(data), "a"), imagefiles.Budget(1 << 20, 100))
        assert sum(map(len, layer.files.values())) <= 1 << 20
        imagefiles.combine([layer])
    with contextlib.suppress(TrustError):
        assert all(
            t.name.startswith("usr/share/doc/") for t in texts.of_members(tarstream.Reader(io.BytesIO(data), "a")).texts
        )


def image_files(data: bytes) -> None:
    """Databases of packages, copyright files and metadata inside an image."""
    paths = (
        imagefiles.DPKG, imagefiles.APK, "etc/os-release", "usr/share/doc/a/copyright",
        "usr/lib/python3/dist-packages/a-1.dist-info/METADATA",
    )  # fmt: skip
    found = imagefiles.combine([imagefiles.Layer(dict.fromkeys(paths, data))], imagefiles.label(data))
    for text in (found.label, found.distribution, *(v for p in found.packages for v in vars(p).values())):
        assert text.isprintable()
        text.encode()


def packages_index(data: bytes) -> None:
    """A vendor's index of packages, packed or not."""
    file = scratch() / "Packages"
    file.write_bytes(data)
    with contextlib.suppress(ApplianceError):
        found = debaudit.packages_of(file, {SHA}, size=1 << 16)
        assert set(found) <= {SHA}


def release_file(data: bytes) -> None:
    """A Release, and gpgv's account of who signed it."""
    text = data.decode(errors="replace")
    assert all(len(sha256) == 64 and size >= 0 for sha256, size in debaudit.hashes_of(text).values())
    assert "\n" not in debaudit.field(text, "Date")
    assert ("BADSIG" not in text.split()) or debaudit.signers(text) is not None


def apt_answer(data: bytes) -> None:
    """A line of apt's about a package that it would download."""
    with contextlib.suppress(ApplianceError):
        found = apt._package(data.decode(errors="replace"))
        assert found.url.split(":")[0].lower() in ("http", "https", "file")
        assert len(found.sha256) == 64
        assert "/" not in found.filename


@functools.cache
def _order() -> dict[Any, int]:
    return {tag: i for i, tag in enumerate(uvresolve.tags(Target(os="debian-12", python="3.11", arch="x86_64")))}


def resolver(data: bytes) -> None:
    """A package as an index described it to the resolver."""
    if isinstance(package := _parsed(data), dict):
        with contextlib.suppress(ApplianceError):
            found = uvresolve.chosen(package, _order(), "w")
            assert "/" not in found.filename
            assert len(found.sha256) == 64


def wheel_files(data: bytes) -> None:
    """Licence texts of a wheel, and its list of files."""
    file = scratch() / "files.whl"
    file.write_bytes(data)
    with contextlib.suppress(ApplianceError):
        assert sum(len(t.data) for t in texts.of_wheel(file).texts) <= texts.MAX_TOTAL
    with contextlib.suppress(ApplianceError), wheelarchive.opened(file) as archive:
        wheelfiles.collisions([("a", wheelfiles.installed(archive)), ("b", wheelfiles.installed(archive))])


@functools.cache
def _policy() -> Path:
    directory = scratch() / "policy"
    downgrade.require_from_now_on(directory, [_key()], 1)
    return directory


def approval(data: bytes) -> None:
    """Another person's agreement to a downgrade: counts only when it is signed and says this step."""
    file = scratch() / "approval.json"
    file.write_bytes(data)
    with contextlib.suppress(ApplianceError):
        [agreed] = downgrade.judge(_policy(), STEP, (file,))
        assert agreed["reason"] == "it was agreed"


def _approval_seed() -> bytes:
    out = scratch() / "good-approval.json"
    downgrade.approve(STEP, "it was agreed", 90, out, _key(), PASSPHRASE, lambda what: "", NOW)
    return out.read_bytes()


def _hub_seed() -> bytes:
    files = [
        {"rfilename": "config.json", "size": 10, "blobId": "cd" * 20},
        {"rfilename": "w.safetensors", "size": 99, "blobId": "ef" * 20, "lfs": {"size": 99, "sha256": SHA, "pointerSize": 134}},
    ]  # fmt: skip
    return json.dumps({"id": "a/b", "sha": REVISION, "gated": "auto", "siblings": files, "tags": ["x"]}).encode()


def _s3_seed() -> bytes:
    return (
        b'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/"><Name>bucket</Name>'
        b"<IsTruncated>true</IsTruncated><NextContinuationToken>n</NextContinuationToken>"
        b"<Contents><Key>m/config.json</Key><Size>10</Size></Contents></ListBucketResult>"
    )


def _tar_seeds() -> list[bytes]:
    made = []
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=form) as archive:
            for name in ("usr/share/doc/a/copyright", "usr/share/doc/" + "b" * 101 + "/copyright"):
                info = tarfile.TarInfo(name)
                info.size = 3
                archive.addfile(info, io.BytesIO(b"MIT"))
            info = tarfile.TarInfo("usr/share/doc/c")
            info.type, info.linkname = tarfile.SYMTYPE, "a"
            archive.addfile(info)
        made.append(out.getvalue()[:6144])
    return made


def _index_seeds() -> list[bytes]:
    plain = f"Package: a\nVersion: 1:2\nArchitecture: all\nSHA256: {SHA}\n\n".encode()
    return [plain, gzip.compress(plain, mtime=0), lzma.compress(plain)]


def _seed(document: Any) -> Callable[[], list[bytes]]:
    return lambda: [json.dumps(document).encode()]


ANSWER = {"usage": {"completion_tokens": 1}, "choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}]}
BLOB = {"digest": f"sha256:{SHA}", "size": 11}
WHEEL = {"name": "a-1-py3-none-any.whl", "url": "http://x/a-1-py3-none-any.whl", "size": 9, "hashes": {"sha256": SHA}}
TARGETS: dict[str, FuzzTarget] = {
    "hub_listing": FuzzTarget(hub_listing, lambda: [_hub_seed()]),
    "s3_listing": FuzzTarget(s3_listing, lambda: [_s3_seed(), b"<Error><Code>NoSuchBucket</Code></Error>"]),
    "proof_answer": FuzzTarget(proof_answer, _seed(ANSWER)),
    "probe_answer": FuzzTarget(probe_answer, _seed(ANSWER)),
    "node_manifest": FuzzTarget(node_manifest, _seed({"config": BLOB, "layers": [BLOB]})),
    "strict_json": FuzzTarget(
        strict_json, lambda: [b'{"a": [1, -2.5e3, "\\u00e9", null, true]}', b"1e999", b'"\\ud83d\\ude00"']
    ),
    "tar": FuzzTarget(tar, _tar_seeds),
    "image_files": FuzzTarget(
        image_files,
        lambda: [
            b"Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n",
            b"P:a\nV:1\nL:MIT\n\n",
            b"ID=debian\nVERSION_ID=12\n",
            b"Format: https://x\n\nLicense: MIT\n",
            b"Name: a\nVersion: 1\nLicense: MIT\n",
            json.dumps({"config": {"Labels": {imagefiles.LABEL: "MIT"}}}).encode(),
        ],
    ),
    "packages_index": FuzzTarget(packages_index, _index_seeds),
    "release_file": FuzzTarget(
        release_file,
        lambda: [
            f"Date: today\nSHA256:\n {SHA} 10 main/Packages.xz\n".encode(),
            b"[GNUPG:] NEWSIG\n[GNUPG:] GOODSIG A b\n[GNUPG:] VALIDSIG A 2026-01-01 1 0 4 0 22 8 01 B\n",
        ],
    ),
    "apt_answer": FuzzTarget(
        apt_answer,
        lambda: [f"'http://{host}/a_1_all.deb' a_1_all.deb 10 SHA256:{SHA}".encode() for host in ("x", "[::1]", "[")],
    ),
    "resolver": FuzzTarget(resolver, _seed({"name": "a", "version": "1", "wheels": [WHEEL]})),
    "wheel_files": FuzzTarget(wheel_files, lambda: [_wheel_seed()]),
    "approval": FuzzTarget(approval, lambda: [_approval_seed()]),
}
