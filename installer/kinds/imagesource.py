"""An image in a file or directory, looked at before skopeo reads it: nothing of it lies elsewhere, and it unpacks to no more than it may.

skopeo unpacks packed archives as far as they go, and asks any address that a manifest gives for a layer.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine import strictjson
from engine.bounds import used
from engine.errors import InputError, TrustError
from installer import tarstream, unpack
from installer.definition import Image
from installer.kinds import oci

BLOB = re.compile(r"(?:\./)?(blobs/sha256/[0-9a-f]{64}|index\.json|oci-layout)")
MAX_DOCUMENTS = 500  # lists and manifests of one layout
REMEDY = "Do not use this image: get it again from a sound source, or have it made again."


@dataclass(frozen=True)
class Prepared:
    """``source`` as skopeo may read it, and ``size``, the bytes that may come out of it."""

    source: str
    size: int


@contextmanager
def prepared(image: Image, source: str, scratch: Path) -> Iterator[Prepared]:
    """Check an ``oci:``, ``oci-archive:`` or ``docker-archive:`` source; what has to be unpacked for that is below ``scratch``.

    Raises:
        InputError: a layer lies elsewhere.
        TrustError: it is damaged, or more comes out of it than an honest archive of its size holds.
    """
    transport, _, rest = source.partition(":")
    name, colon, reference = rest.partition(":")
    path = Path(name)
    try:
        if transport != "oci" and not path.is_file():  # a pipe would be waited for
            raise TrustError("it is not an archive", remedy=REMEDY)
        if transport == "docker-archive":
            plain = _plain_tar(path, scratch)
            yield Prepared(f"{transport}:{plain}{colon}{reference}", unpack.allowance(path.stat().st_size))
            return
        layout = path
        if transport == "oci-archive":
            layout = scratch / "layout"
            _unpack_layout(path, layout)
        _require_whole(layout, reference)
        yield Prepared(f"oci:{layout}{colon}{reference}", used(layout) + unpack.FLOOR)
    except InputError as error:
        raise InputError(f"image {image.name}: {error.what}", where=name, remedy=error.remedy) from error
    except TrustError as error:
        what = error.what if error.what.startswith("image ") else f"image {image.name}: {error.what}"
        raise TrustError(what, where=name, remedy=error.remedy or REMEDY) from error
    except OSError as error:
        raise TrustError(
            f"image {image.name}: it cannot be read: {error.strerror}", where=name, remedy=REMEDY
        ) from error


def _plain_tar(path: Path, scratch: Path) -> Path:
    """The archive itself, or what a packed one holds; skopeo would unpack it without a bound."""
    with path.open("rb") as file:
        if file.read(6).startswith((unpack.GZIP, unpack.ZSTD, unpack.XZ[:5], b"BZh")):
            plain = scratch / "archive.tar"
        else:
            return path
    with unpack.opened(path) as stream, plain.open("xb") as out:
        shutil.copyfileobj(stream, out, unpack.BUFFER)
    return plain


def _unpack_layout(path: Path, layout: Path) -> None:
    """The files that a layout is made of, and nothing else that the archive may hold."""
    (layout / "blobs/sha256").mkdir(parents=True)
    with unpack.opened(path) as stream:
        members = tarstream.Reader(stream, path.name)
        for member in members:
            part = BLOB.fullmatch(member.name)
            if part is None or member.kind != "file":
                continue
            try:
                out = (layout / part[1]).open("xb")
            except FileExistsError as error:
                raise TrustError(f"{part[1]} is there twice", remedy=REMEDY) from error
            with out:
                while data := members.read(unpack.BUFFER):
                    out.write(data)


def _require_whole(layout: Path, reference: str) -> None:
    """Every layer of every image behind ``reference`` is in the layout, whatever its manifests say of other addresses."""
    waiting = [entry for entry in _manifests(_read(layout, "index.json")) if _named(entry, reference)]
    seen: set[str] = set()
    while waiting:
        digest = str(waiting.pop().get("digest", ""))
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", digest) or digest in seen:
            continue
        seen.add(digest)
        if len(seen) > MAX_DOCUMENTS:
            raise TrustError(f"it has more than {MAX_DOCUMENTS} manifests", remedy=REMEDY)
        raw = _read(layout, f"blobs/sha256/{digest.removeprefix('sha256:')}")
        oci.require_own_layers(raw)
        waiting += _manifests(raw)


def _manifests(raw: bytes) -> list[dict[str, object]]:
    try:
        data = strictjson.loads(raw)
    except ValueError as error:
        raise TrustError(f"its list of images is not JSON: {error}", remedy=REMEDY) from error
    found = data.get("manifests", []) if isinstance(data, dict) else []
    return [one for one in found if isinstance(one, dict)] if isinstance(found, list) else []


def _named(entry: dict[str, object], reference: str) -> bool:
    annotations = entry.get("annotations")
    return not reference or (isinstance(annotations, dict) and annotations.get(oci.REF_NAME) == reference)


def _read(layout: Path, name: str) -> bytes:
    try:
        fd = os.open(layout / name, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise TrustError(f"{name} is missing: {error.strerror}", remedy=REMEDY) from error
    with os.fdopen(fd, "rb") as file:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise TrustError(f"{name} is not a file", remedy=REMEDY)
        data = file.read(oci.MAX_DOCUMENT + 1)
    if len(data) > oci.MAX_DOCUMENT:
        raise TrustError(f"{name} has more than {oci.MAX_DOCUMENT:,} bytes", remedy=REMEDY)
    return data
