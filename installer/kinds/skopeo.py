"""Image sources as skopeo reads them."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from engine.errors import InputError, TrustError, UpstreamError
from engine.process import ProcessError, run
from installer.definition import Image
from installer.network import children
from installer.network.host import Network

ARCH = {"x86_64": "amd64", "aarch64": "arm64"}  # processor: Go's name
FORGED = re.compile(r"[Dd]igest did not match|does not match|[Dd]igest mismatch")
INSPECT_TIMEOUT_S = 300


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
    """The manifest or list of platforms behind ``source``, as the registry has it."""
    tls = ["--tls-verify=false"] if plain_http(image) else []
    try:
        argv = ["skopeo", "inspect", "--raw", "--retry-times", "2", *tls, source]
        return run(argv, env=_environment(network), inherit=False, timeout_s=INSPECT_TIMEOUT_S).stdout.encode()
    except ProcessError as error:
        raise _upstream(image, source, error) from error


def pull(image: Image, source: str, arch: str, directory: Path, network: Network) -> bytes:
    """Copy manifest, config and layers into ``directory``, files by SHA-256; returns the manifest.

    Not into an OCI layout: there skopeo files Docker's manifests under a type that nothing finds again.
    """
    tls = ["--src-tls-verify=false"] if plain_http(image) else []
    try:
        run(["skopeo", "--override-os", "linux", "--override-arch", arch, "copy", "--quiet", "--preserve-digests",
             "--remove-signatures", "--retry-times", "2", *tls, source, f"dir:{directory}"],
            env=_environment(network), inherit=False)  # fmt: skip
    except ProcessError as error:
        raise _upstream(image, source, error) from error
    return (directory / "manifest.json").read_bytes()


def _environment(network: Network) -> dict[str, str]:
    """Proxies and CA of this host. Logins come from the file that `skopeo login` writes, and no other."""
    return {**children.kept(children.SKOPEO_KEPT), **children.network(network)}


def _upstream(image: Image, source: str, error: ProcessError) -> TrustError | UpstreamError:
    said = re.findall(r'level=fatal msg="(.*)"', error.stderr)
    reason = said[-1].replace('\\"', "'") if said else error.stderr.strip()
    if FORGED.search(reason):
        return TrustError(
            f"image {image.name}: the source serves other content than its digests promise: {reason}",
            where=source,
            remedy="Do not use this source; the registry or the way to it is damaged or tampered with.",
        )
    return UpstreamError(
        f"image {image.name}: cannot read it: {reason}",
        where=source,
        remedy="Check address, login (skopeo login) and connection. If the image is gone for good, lock again.",
    )
