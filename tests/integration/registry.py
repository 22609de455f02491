"""Images made from nothing, and Debian's docker-registry on loopback to pull them from."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import tarfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


class Layout:
    """An OCI layout written by hand."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs/sha256").mkdir(parents=True)
        (root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
        self._named: list[dict[str, Any]] = []

    def image(self, name: str, layers: Sequence[str | bytes], arch: str = "amd64", **layer: Any) -> dict[str, Any]:
        """An image with one small layer a text, or the tar itself; returns its descriptor. ``layer`` adds to the layers' descriptors."""
        descriptors, diff_ids = [], []
        for text in layers:
            plain = text if isinstance(text, bytes) else _tar(text)
            diff_ids.append("sha256:" + hashlib.sha256(plain).hexdigest())
            packed = self._blob("application/vnd.oci.image.layer.v1.tar+gzip", gzip.compress(plain, mtime=0))
            descriptors.append({**packed, **layer})
        config = {"architecture": arch, "os": "linux", "config": {"Cmd": ["/hello"]}, "rootfs": {"type": "layers", "diff_ids": diff_ids}}  # fmt: skip
        manifest = {
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": descriptors,
            "config": self._blob("application/vnd.oci.image.config.v1+json", json.dumps(config).encode()),
        }  # fmt: skip
        return self._name(name, self._blob(MANIFEST, json.dumps(manifest, indent=1).encode()))

    def platforms(self, name: str, images: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """A list of images by processor."""
        listed = [{**d, "platform": {"os": "linux", "architecture": a}} for a, d in images.items()]
        return self._name(name, self._blob(INDEX, json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}).encode()))  # fmt: skip

    def attested(self, name: str, images: dict[str, dict[str, Any]], *, artifact: bool) -> dict[str, Any]:
        """A list as BuildKit pushes it: images by processor, and for each an attestation of its provenance.

        ``artifact`` says it as newer releases do, as OCI artifact without a config, else as image of no platform.
        """
        listed = [{**d, "platform": {"os": "linux", "architecture": a}} for a, d in images.items()]
        for image in images.values():
            subject = {"name": name, "digest": {"sha256": image["digest"].removeprefix("sha256:")}}
            said = {"_type": "https://in-toto.io/Statement/v1", "subject": [subject], "predicateType": "https://slsa.dev/provenance/v1", "predicate": {}}  # fmt: skip
            statement = json.dumps(said).encode()
            layers = [self._blob("application/vnd.in-toto+json", statement)]
            diff_ids = ["sha256:" + hashlib.sha256(statement).hexdigest()]
            config = {
                "architecture": "unknown",
                "os": "unknown",
                "config": {},
                "rootfs": {"type": "layers", "diff_ids": diff_ids},
            }
            manifest: dict[str, Any] = {"schemaVersion": 2, "mediaType": MANIFEST, "layers": layers}
            if artifact:
                kind = "application/vnd.docker.attestation.manifest.v1+json"
                manifest |= {
                    "artifactType": kind,
                    "config": self._blob("application/vnd.oci.empty.v1+json", b"{}"),
                    "subject": image,
                }
            else:
                manifest["config"] = self._blob("application/vnd.oci.image.config.v1+json", json.dumps(config).encode())
            marks = {
                "vnd.docker.reference.digest": image["digest"],
                "vnd.docker.reference.type": "attestation-manifest",
            }
            descriptor = self._blob(MANIFEST, json.dumps(manifest).encode())
            listed.append(
                {**descriptor, "annotations": marks, "platform": {"os": "unknown", "architecture": "unknown"}}
            )
        return self._name(name, self._blob(INDEX, json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": listed}).encode()))  # fmt: skip

    def _blob(self, media_type: str, data: bytes) -> dict[str, Any]:
        sha256 = hashlib.sha256(data).hexdigest()
        (self.root / "blobs/sha256" / sha256).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{sha256}", "size": len(data)}

    def _name(self, name: str, descriptor: dict[str, Any]) -> dict[str, Any]:
        self._named = [d for d in self._named if d["annotations"]["org.opencontainers.image.ref.name"] != name]
        self._named.append({**descriptor, "annotations": {"org.opencontainers.image.ref.name": name}})
        (self.root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": self._named}))
        return descriptor


def _tar(text: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("hello")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text.encode()))
    return buffer.getvalue()


class Registry:
    """A running registry at ``host`` (address:port) with its files below ``data``."""

    def __init__(self, host: str, data: Path) -> None:
        self.host = host
        self.data = data

    def push(self, layout: Layout, name: str, target: str, *options: str) -> str:
        """Copy an image of the layout to ``target`` (repository:tag); returns its source as a definition names it."""
        source = f"docker://{self.host}/{target}"
        skopeo("copy", "--quiet", "--dest-tls-verify=false", *options, f"oci:{layout.root}:{name}", source)
        return source

    def blob(self, sha256: str) -> Path:
        return self.data / "docker/registry/v2/blobs/sha256" / sha256[:2] / sha256 / "data"


def skopeo(*args: str) -> bytes:
    return subprocess.run(["skopeo", *args], check=True, capture_output=True).stdout


@contextmanager
def serve(root: Path, address: str = "127.0.0.1") -> Iterator[Registry]:
    """A registry on a free port of an address until the end of the block."""
    root.mkdir(parents=True)
    config = root / "config.yml"
    config.write_text(
        "version: 0.1\nlog: {level: info, accesslog: {disabled: true}}\n"
        f"storage: {{filesystem: {{rootdirectory: {root / 'data'}}}}}\nhttp: {{addr: '{address}:0'}}\n"
    )
    with subprocess.Popen(["docker-registry", "serve", config], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:  # fmt: skip
        try:
            assert process.stderr
            said = ""
            while "listening on " not in said:
                said = process.stderr.readline()
                assert said, "docker-registry ended before it listened"
            drain = threading.Thread(target=process.stderr.read)  # it would stop once the pipe is full
            drain.start()
            yield Registry(said.partition("listening on ")[2].split('"')[0], root / "data")
        finally:
            process.terminate()
        drain.join()
