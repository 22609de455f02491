"""Image sources as skopeo reads them."""

from __future__ import annotations

import ipaddress
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from engine.bounds import Bounds, BoundsError, used
from engine.errors import InputError, TrustError, UpstreamError
from engine.process import ProcessError, run
from installer.definition import Image
from installer.kinds import imagesource, oci
from installer.network import children
from installer.network.host import Network

ARCH = {"x86_64": "amd64", "aarch64": "arm64"}  # processor: Go's name
FORGED = re.compile(r"[Dd]igest did not match|does not match|[Dd]igest mismatch")
# How skopeo says that what it got is not what an image is made of, whoever answered.
DAMAGED = re.compile(
    r"invalid character|unexpected end of JSON|cannot unmarshal|[Pp]arsing (?!image name)|nsupported (?:schema|manifest|MIME|image|docker)|"
    r"exceeded maximum allowed size|[Ss]ize mismatch|invalid (?:checksum|digest|config)|gzip:|archive/tar|zstd|[Uu]nimplemented|is not valid"
)
INSPECT_TIMEOUT_S = 300
MEMORY = 4 << 30  # bytes
MAX_SAID = 4 * oci.MAX_DOCUMENT  # bytes of a manifest, which skopeo itself bounds
ROOM = 64 << 20  # bytes that skopeo may write beside the image's own: manifest, signatures, rounding of blocks
PULL_S, LOWEST_RATE = 900.0, 64 << 10  # seconds to begin with, and bytes a second that must come on average


@dataclass(frozen=True)
class Registry:
    """``docker://REPOSITORY[:tag][@digest]`` in parts."""

    repository: str
    tag: str
    digest: str

    @classmethod
    def parse(cls, source: str) -> Registry:
        named, _, digest = source.removeprefix("docker://").partition("@")
        head, slash, last = named.rpartition("/")
        last, _, tag = last.partition(":")
        return cls(head + slash + last, tag, digest)

    def at(self, digest: str) -> str:
        """The source pinned to a manifest."""
        return f"docker://{self.repository}@{digest}"


def is_registry(source: str) -> bool:
    return source.startswith("docker://")


def absolute(source: str, base: Path) -> str:
    """A source in a file or directory with its path made absolute; ``base`` is where relative ones start.

    Raises:
        InputError: it is not there.
    """
    transport, _, rest = source.partition(":")
    path, colon, reference = rest.partition(":")
    full = (base / path).resolve()
    if not full.exists():
        raise InputError("there is no such image", where=str(full), remedy="Correct the source in the definition.")
    return f"{transport}:{full}{colon}{reference}"


def plain_http(image: Image) -> bool:
    """Whether the registry may be talked to without TLS.

    Raises:
        InputError: the definition wants that and the registry is not on loopback.
    """
    if image.tls_verify:
        return False
    host = urlsplit("//" + image.source.removeprefix("docker://").partition("/")[0]).hostname or ""
    try:
        loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not (is_registry(image.source) and loopback):
        raise InputError(
            f"images: {image.name}: tls_verify: false is only for a registry on loopback, not for {image.source}",
            remedy="Remove tls_verify and give the registry a certificate this builder trusts.",
        )
    return True


def manifest(image: Image, source: str, network: Network) -> bytes:
    """The manifest or list of platforms behind ``source``, as the registry has it.

    Raises:
        UpstreamError: it does not answer.
        TrustError: it serves something else.
    """
    tls = ["--tls-verify=false"] if plain_http(image) else []
    argv = ["skopeo", "inspect", "--raw", "--retry-times", "2", *tls, source]
    bounds = Bounds(memory=MEMORY, time_s=INSPECT_TIMEOUT_S, output=MAX_SAID)
    return _run(image, source, argv, _environment(network), bounds).stdout.encode()


def pull(image: Image, source: str, arch: str, directory: Path, network: Network) -> bytes:
    """Copy manifest, config and layers into ``directory``, files by SHA-256; returns the manifest.

    Not into an OCI layout: there skopeo files Docker's manifests under a type that nothing finds again.

    Args:
        directory: does not exist; the one above it is the caller's alone, and what skopeo writes there is bounded and watched.

    Raises:
        InputError: a layer lies outside of the source; nothing of it was asked for.
        UpstreamError: the registry does not answer.
        TrustError: the image is damaged, or larger than it says or than an honest one.
    """
    temporary = directory.parent / "tmp"
    temporary.mkdir()
    if not is_registry(source):
        with imagesource.prepared(image, source, temporary) as prepared:
            return _copy(image, source, prepared, arch, directory, network)
    raw = manifest(image, source, network)
    try:
        if chosen := oci.choose(raw, arch):
            source = Registry.parse(source).at(chosen)
            raw = manifest(image, source, network)
        size = sum(blob.size for blob in oci.require_own_layers(raw))
    except InputError as error:
        raise InputError(f"image {image.name}: {error.what}", where=source, remedy=error.remedy) from error
    return _copy(image, source, imagesource.Prepared(source, size), arch, directory, network)


def _copy(
    image: Image, named: str, prepared: imagesource.Prepared, arch: str, directory: Path, network: Network
) -> bytes:
    tls = ["--src-tls-verify=false"] if plain_http(image) else []
    most = prepared.size + ROOM
    bounds = Bounds(
        memory=MEMORY, file=most, directory=directory.parent, disk=used(directory.parent) + most,
        time_s=PULL_S + prepared.size / LOWEST_RATE,
    )  # fmt: skip
    argv: list[str | Path] = [
        "skopeo", "--override-os", "linux", "--override-arch", arch, "copy", "--quiet", "--preserve-digests",
        "--remove-signatures", "--retry-times", "2", *tls, prepared.source, f"dir:{directory}",
    ]  # fmt: skip
    # What it unpacks on its way goes where it is watched and removed.
    _run(image, named, argv, {**_environment(network), "TMPDIR": str(directory.parent / "tmp")}, bounds)
    return (directory / "manifest.json").read_bytes()


def _run(
    image: Image, source: str, argv: Sequence[str | Path], env: Mapping[str, str], bounds: Bounds
) -> subprocess.CompletedProcess[str]:
    try:
        return run(argv, env=env, inherit=False, bounds=bounds)
    except ProcessError as error:
        raise _failed(image, source, error) from error
    except BoundsError as error:
        if error.which == "time":
            raise UpstreamError(
                f"image {image.name}: {error.what}", where=source,
                remedy=f"Check the connection: less than {LOWEST_RATE >> 10} KiB/s came.",
            ) from error  # fmt: skip
        if error.which == "space":
            raise
        raise TrustError(
            f"image {image.name}: more comes out of it than it says, or than an honest image of its size holds: {error.what}",
            where=source,
            remedy=imagesource.REMEDY,
        ) from error


def _environment(network: Network) -> dict[str, str]:
    """Proxies and CA of this host. Logins come from the file that `skopeo login` writes, and no other."""
    return {**children.kept(children.SKOPEO_KEPT), **children.network(network)}


def _failed(image: Image, source: str, error: ProcessError) -> TrustError | UpstreamError:
    """What skopeo ended with, told by what is to blame: the image, or the way to it."""
    said = re.findall(r'level=fatal msg="(.*)"', error.stderr)
    reason = said[-1].replace('\\"', "'") if said else error.stderr.strip()
    if not is_registry(source):
        return TrustError(
            f"image {image.name}: this is not an image that can be read: {reason}",
            where=source,
            remedy=imagesource.REMEDY,
        )
    if FORGED.search(reason):
        return TrustError(
            f"image {image.name}: the source serves other content than its digests promise: {reason}",
            where=source,
            remedy="Do not use this source; the registry or the way to it is damaged or tampered with.",
        )
    if DAMAGED.search(reason):
        return TrustError(
            f"image {image.name}: the registry serves something that is not an image: {reason}",
            where=source,
            remedy="Use another image, or have its publisher push it again.",
        )
    return UpstreamError(
        f"image {image.name}: cannot read it: {reason}",
        where=source,
        remedy="Check address, login (skopeo login) and connection. If the image is gone for good, lock again.",
    )
