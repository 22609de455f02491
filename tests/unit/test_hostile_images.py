"""Images that lie elsewhere, unpack without end or are not images: refused by name before anything is fetched or filled."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.blobs import Blobs
from engine.errors import ApplianceError, InputError, TrustError
from installer import unpack
from installer.definition import Definition
from installer.kinds import Work, images, imagesource, oci, skopeo
from installer.lockfile import Artifact
from tests.integration.registry import Layout
from tests.unit.test_bombs import ZEROS

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
FOREIGN = {
    "urls": {"urls": ["URL/layer"]},
    "nondistributable": {"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "urls": ["URL/layer"]},
    "Docker's": {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "urls": ["URL/layer"]},
}  # fmt: skip


def work_with(tmp_path: Path, source: str, **image: Any) -> Work:
    listed = [{"name": "one", "source": source, "profiles": ["gpu"], **image}]
    data = {
        "schema": 1,
        "name": "t",
        "version": "1.0",
        "target": {"os": "debian-12", "python": "3.11"},
        "images": listed,
    }
    return Work(Definition.model_validate(data), tmp_path, Blobs(tmp_path / "cache"))


class Server(http.server.ThreadingHTTPServer):
    """Answers from a table of paths, and remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.asked: list[str] = []
        self.table: dict[str, bytes] = {}
        self.endless = ""

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_port}"


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        data = self.server.table.get(self.path)
        endless = bool(self.server.endless) and self.path.endswith(self.server.endless)
        self.send_response(200 if data is not None or endless else 404)
        self.send_header("Content-Type", oci.OCI_MANIFEST)
        if not endless:
            self.send_header("Content-Length", str(len(data or b"")))
        self.end_headers()
        try:
            if self.command == "GET":
                self.wfile.write(data or b"")
            for _ in range(256 if endless else 0):  # as good as endless: far beyond every bound of the test
                self.wfile.write(ZEROS[: 1 << 20])
        except OSError:
            pass

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@contextmanager
def serve() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def foreign_layout(root: Path, server: Server, kind: str) -> Layout:
    layout = Layout(root)
    extra = json.loads(json.dumps(FOREIGN[kind]).replace("URL", f"http://{server.host}"))
    layout.image("web", ["text"], **extra)
    return layout


def archived(folder: Path, file: Path) -> Path:
    with tarfile.open(file, "w") as archive:
        for path in sorted(folder.rglob("*")):
            archive.add(path, str(path.relative_to(folder)), recursive=False)
    return file


def registry_of(layout: Layout, server: Server, repository: str = "team/web") -> str:
    """Serve a layout's blobs as a registry does; the address of its image, pinned."""
    digest = str(json.loads((layout.root / "index.json").read_text())["manifests"][-1]["digest"])
    server.table |= {"/v2/": b"{}"}
    for blob in (layout.root / "blobs/sha256").iterdir():
        for what in ("manifests", "blobs"):
            server.table[f"/v2/{repository}/{what}/sha256:{blob.name}"] = blob.read_bytes()
    return f"docker://{server.host}/{repository}@{digest}"


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("transport", ["oci", "oci-archive", "docker"])
def test_no_foreign_address_is_asked_before_an_image_is_refused(tmp_path: Path, kind: str, transport: str) -> None:
    with serve() as server:
        layout = foreign_layout(tmp_path / "layout", server, kind)
        source, options = f"oci:{layout.root}:web", {}
        if transport == "oci-archive":
            source = f"oci-archive:{archived(layout.root, tmp_path / 'a.tar')}:web"
        elif transport == "docker":
            source, options = registry_of(layout, server), {"tls_verify": False}
        with pytest.raises(InputError, match=r"image one: .*lies outside the registry") as refused:
            images.resolve(work_with(tmp_path, source, **options))
        assert not [path for path in server.asked if "layer" in path or "/blobs/" in path]
    assert "login" not in str(refused.value)
    assert refused.value.where


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_lock_that_names_a_foreign_image_fetches_nothing(tmp_path: Path, kind: str) -> None:
    """A lock of somebody else: nobody looked at the manifest before."""
    with serve() as server:
        layout = foreign_layout(tmp_path / "layout", server, kind)
        source = registry_of(layout, server)
        digest = "0" * 64
        wanted = Artifact(path=f"images/blobs/sha256/{digest}", kind="images", group="one", name="one", size=1, sha256=digest, source=source, profiles=("gpu",))  # fmt: skip
        with pytest.raises(ApplianceError, match="lies outside the registry"):
            images.fetch(work_with(tmp_path, source, tls_verify=False), [wanted])
        assert not [path for path in server.asked if "layer" in path or "/blobs/" in path]


def test_a_layer_that_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(skopeo, "ROOM", 4 << 20)
    with serve() as server:
        layout = Layout(tmp_path / "layout")
        layout.image("web", ["text"])
        source = registry_of(layout, server)
        work = work_with(tmp_path, source, tls_verify=False)
        locked = images.resolve(work)
        layer = next(a for a in locked if "layer" in a.name)
        path = f"/v2/team/web/blobs/sha256:{layer.sha256}"
        del server.table[path]
        server.endless = path
        with pytest.raises(TrustError, match="image one") as refused:
            images.fetch(work, locked)
    assert "login" not in str(refused.value)
    assert sum(p.stat().st_size for p in (tmp_path / "cache").rglob("*") if p.is_file()) < 8 << 20


@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive"])
def test_a_packed_archive_that_unpacks_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    monkeypatch.setattr(unpack, "FLOOR", 1 << 20)
    monkeypatch.setattr(unpack, "RATIO", 2)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        info = tarfile.TarInfo("blobs/sha256/" + "a" * 64)
        info.size = 16 << 20
        archive.addfile(info, io.BytesIO(ZEROS[: 16 << 20]))
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(out.getvalue()))
    (tmp_path / "scratch").mkdir()
    work = work_with(tmp_path, f"{transport}:{tmp_path}/bomb.tar.gz")
    with pytest.raises(TrustError, match=r"image one: more than .* bytes come out of it") as refused:
        images.resolve(work)
    assert refused.value.where == f"{tmp_path}/bomb.tar.gz"
    assert "login" not in str(refused.value)
    assert sum(p.stat().st_size for p in (tmp_path / "cache").rglob("*") if p.is_file()) == 0


def test_a_layer_of_an_archive_that_unpacks_without_end_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """skopeo hands layers of a Docker archive out unpacked."""
    monkeypatch.setattr(unpack, "FLOOR", 1 << 20)
    monkeypatch.setattr(unpack, "RATIO", 2)
    monkeypatch.setattr(skopeo, "ROOM", 1 << 20)
    layer = gzip.compress(ZEROS[: 32 << 20])
    config = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(ZEROS[: 32 << 20]).hexdigest()]}}  # fmt: skip
    files = {"config.json": json.dumps(config).encode(), "layer.tar": layer,
             "manifest.json": json.dumps([{"Config": "config.json", "RepoTags": ["web:1"], "Layers": ["layer.tar"]}]).encode()}  # fmt: skip
    with tarfile.open(tmp_path / "docker.tar", "w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    with pytest.raises(TrustError, match="image one: more comes out of it than it says") as refused:
        images.resolve(work_with(tmp_path, f"docker-archive:{tmp_path}/docker.tar"))
    assert refused.value.where == f"{tmp_path}/docker.tar"


@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive", "oci"])
@pytest.mark.parametrize("what", ["noise", "empty", "directory", "pipe"])
def test_what_is_not_an_image_is_named_and_no_login_is_asked_for(tmp_path: Path, transport: str, what: str) -> None:
    path = tmp_path / "image"
    if what == "directory":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"noise" * 400 if what == "noise" else b"")
    with pytest.raises(TrustError, match="image one") as refused:
        images.resolve(work_with(tmp_path, f"{transport}:{path}"))
    assert str(path) in refused.value.where
    assert "login" not in str(refused.value)


@pytest.mark.parametrize(
    "served", [b"{", b"[]", b"{}", b'{"schemaVersion":1}', b'{"layers":{},"config":{}}', b"\xff" * 100, b"[" * 100_000]
)
def test_a_registry_that_serves_no_manifest_is_named_and_no_login_is_asked_for(tmp_path: Path, served: bytes) -> None:
    with serve() as server:
        digest = hashlib.sha256(served).hexdigest()
        server.table |= {"/v2/": b"{}", f"/v2/web/manifests/sha256:{digest}": served}
        source = f"docker://{server.host}/web@sha256:{digest}"
        with pytest.raises(ApplianceError, match="image one") as refused:
            images.resolve(work_with(tmp_path, source, tls_verify=False))
    assert "login" not in str(refused.value)
    assert server.host in str(refused.value)


def test_a_registry_that_cannot_be_reached_still_asks_for_the_login(tmp_path: Path) -> None:
    with pytest.raises(ApplianceError, match="Check address, login"):
        images.resolve(work_with(tmp_path, "docker://127.0.0.1:1/web:1", tls_verify=False))


DESCRIPTOR = {"digest": "sha256:" + "a" * 64, "size": 1}
MEDIA = st.sampled_from([LAYER, "application/vnd.docker.image.rootfs.diff.tar.gzip", *(str(f["mediaType"]) for f in FOREIGN.values() if isinstance(f, dict) and "mediaType" in f)])  # fmt: skip
LAYERS = st.lists(st.fixed_dictionaries({"mediaType": MEDIA, "urls": st.sampled_from([None, [], ["http://127.0.0.1:1/x"], "x"])}), max_size=5)  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(layers=LAYERS, docker=st.booleans(), nested=st.integers(0, 3))
def test_whatever_layers_an_image_has_those_elsewhere_are_found(tmp_path_factory: pytest.TempPathFactory, layers: list[dict[str, Any]], docker: bool, nested: int) -> None:  # fmt: skip
    """Through any number of lists, in both formats."""
    made = tmp_path_factory.mktemp("any", numbered=True)
    (made / "blobs/sha256").mkdir(parents=True)

    def blob(document: dict[str, Any]) -> dict[str, Any]:
        raw = json.dumps(document).encode()
        digest = hashlib.sha256(raw).hexdigest()
        (made / "blobs/sha256" / digest).write_bytes(raw)
        return {"digest": f"sha256:{digest}", "size": len(raw)}

    listed = [{**DESCRIPTOR, **{k: v for k, v in one.items() if v is not None}} for one in layers]
    top = blob(
        {"mediaType": oci.DOCKER_MANIFEST if docker else oci.OCI_MANIFEST, "config": DESCRIPTOR, "layers": listed}
    )
    for _ in range(nested):
        top = blob({"mediaType": oci.OCI_INDEX, "manifests": [top]})
    (made / "index.json").write_text(json.dumps({"manifests": [top]}))
    elsewhere = any(
        one.get("urls") or "nondistributable" in one["mediaType"] or "foreign" in one["mediaType"] for one in listed
    )
    image = work_with(made, "oci:x").definition.images[0]
    try:
        with imagesource.prepared(image, f"oci:{made}", made):
            assert not elsewhere
    except InputError:
        assert elsewhere
