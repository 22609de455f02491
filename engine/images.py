"""`appliance-engine images load`: from the bundle's OCI layout into podman's storage, without a registry.

What is named by digest is what is loaded. The manifest and the config are copied while they are hashed, and skopeo reads those copies;
of layers, skopeo hashes the very stream that it unpacks. Nothing is checked by one read and used by another.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from engine import strictjson
from engine.blobs import hash_stream
from engine.errors import ApplianceError, InputError, TrustError
from engine.process import ProcessError, run
from engine.tree import open_beneath

LIMIT = 4 << 20  # bytes of a manifest or config
TIMEOUT_S = 3600
PINNED = re.compile(r"^([a-z0-9][a-z0-9.-]{0,62})@sha256:([0-9a-f]{64})$")
REMEDY = "Fetch the release again (appliance-engine fetch), or verify the bundle it came from."
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@dataclass(frozen=True)
class Loaded:
    """An image in podman's storage. ``digest`` is the manifest's, ``id`` the config's; both as locked."""

    reference: str
    digest: str
    id: str
    changed: bool


def load(layout: Path, pinned: str, tag: str, *, dry_run: bool = False) -> Loaded:
    """Load ``NAME@sha256:HEX`` of an OCI layout as ``localhost/NAME:TAG``, unless it is there already.

    Raises:
        InputError: the image is not named like that.
        TrustError: the layout lacks a file of the image, has other bytes, or podman ended up with another image.
        ResourceError: skopeo or podman is not installed.
    """
    named = PINNED.match(pinned)
    if not named or not re.match(r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$", tag):
        raise InputError(
            f"not a pinned image and a tag: {pinned[:120]!a}, {tag[:40]!a}",
            remedy="Give NAME@sha256:HEX as in the lock: group and sha256 of the image's own artifact.",
        )
    name, digest = named.groups()
    reference = f"localhost/{name}:{tag}"
    with tempfile.TemporaryDirectory(prefix=".load-", dir=_scratch()) as made:
        private = Path(made)
        (private / "blobs/sha256").mkdir(parents=True)
        manifest = _copy(layout, digest, private)
        config, layers = _inside(manifest, layout)
        _copy(layout, config, private)
        wanted = Loaded(reference, f"sha256:{digest}", config, changed=False)
        if _there(reference) == (wanted.digest, config):
            return wanted
        if not dry_run:
            for layer in layers:
                (private / "blobs/sha256" / layer).unlink(missing_ok=True)
                (private / "blobs/sha256" / layer).symlink_to((layout / "blobs/sha256" / layer).resolve())
            _index(private, name, digest, len(manifest))
            _load(private, name, reference, layers)
    if not dry_run and (found := _there(reference)) != (wanted.digest, config):
        raise TrustError(
            f"podman has another image under that name than the one loaded: {found}",
            where=reference,
            remedy=f"Remove it (podman rmi {reference}) and run the same command again.",
        )
    return Loaded(reference, wanted.digest, config, changed=True)


def _scratch() -> Path:
    """Only root's own directory: another user must not exchange what skopeo is about to read."""
    directory = Path(os.environ.get("APPLIANCE_STATE", "/var/lib/appliance"))
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def _copy(layout: Path, digest: str, private: Path) -> bytes:
    """A small blob into the private layout; the bytes hashed are the bytes written."""
    where = f"blobs/sha256/{digest}"
    try:
        with open_beneath(layout, where) as file:
            data = b""
            while len(data) <= LIMIT and (chunk := file.read(LIMIT + 1 - len(data))):
                data += chunk
    except OSError as error:
        raise TrustError(
            f"the layout lacks a file of the image: {error.strerror}", where=str(layout / where), remedy=REMEDY
        ) from None
    if len(data) > LIMIT or hashlib.sha256(data).hexdigest() != digest:
        raise TrustError("the file has other bytes than its name says", where=str(layout / where), remedy=REMEDY)
    (private / where).write_bytes(data)
    return data


def _inside(manifest: bytes, layout: Path) -> tuple[str, list[str]]:
    """SHA-256 of config and layers."""
    try:
        document = strictjson.loads(manifest)
        digests = [d["digest"] for d in (document["config"], *document["layers"])]
        config, *layers = (re.fullmatch(r"sha256:([0-9a-f]{64})", d)[1] for d in digests)  # type: ignore[index]
    except (ValueError, KeyError, TypeError) as error:
        raise TrustError("the manifest is not one of an image", where=str(layout), remedy=REMEDY) from error
    return config, layers


def _index(private: Path, name: str, digest: str, size: int) -> None:
    entry = {
        "mediaType": MANIFEST, "digest": f"sha256:{digest}", "size": size,
        "annotations": {"org.opencontainers.image.ref.name": name},
    }  # fmt: skip
    (private / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (private / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')


def _load(private: Path, name: str, reference: str, layers: list[str]) -> None:
    try:
        run(
            ["skopeo", "copy", "--quiet", "--preserve-digests", f"oci:{private}:{name}", f"containers-storage:{reference}"],
            timeout_s=TIMEOUT_S,
        )  # fmt: skip
    except ProcessError as error:
        said = error.stderr.strip()[-600:]
        for layer in layers:  # skopeo refused; which file it is, and whether it is a file at all, it does not say
            path = private / "blobs/sha256" / layer
            if not path.is_file() or _sha256(path) != layer:
                raise TrustError(
                    f"a layer is missing or has other bytes than its name says: {said}",
                    where=str(path.resolve()),
                    remedy=REMEDY,
                ) from error
        raise ApplianceError(f"cannot load the image: {said}", where=name, remedy="Check podman's storage.") from error


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hash_stream(file)[0]


def _there(reference: str) -> tuple[str, str]:
    """Digest and ID that podman has under a name; empty when it has none."""
    done = run(["podman", "image", "inspect", reference], ok=(0, 125), timeout_s=60)
    if done.returncode:
        return "", ""
    image = json.loads(done.stdout)[0]
    return str(image["Digest"]), str(image["Id"])


def main(argv: list[str]) -> int:
    """`appliance-engine images load`: prints one JSON document."""
    parser = argparse.ArgumentParser(
        prog="appliance-engine images",
        description="Load images of the bundle into podman's storage; nothing is pulled.",
        epilog="example: appliance-engine images load --layout /var/lib/appliance/views/ours-1.0.0/content/images "
        "--tag 1.0.0 web@sha256:…",
    )
    parser.add_argument("action", choices=["load"])
    parser.add_argument("images", nargs="+", metavar="NAME@sha256:HEX", help="name and manifest digest, as in the lock")
    parser.add_argument("--layout", type=Path, required=True, help="OCI layout: content/images of the fetched release")
    parser.add_argument("--tag", required=True, help="images become localhost/NAME:TAG; use the bundle's version")
    parser.add_argument("--dry-run", action="store_true", help="say what would change")
    options = parser.parse_args(argv)
    loaded = [load(options.layout, pinned, options.tag, dry_run=options.dry_run) for pinned in options.images]
    document = {"changed": any(i.changed for i in loaded), "images": [asdict(i) for i in loaded]}
    print(json.dumps(document))  # noqa: T201
    return 0
