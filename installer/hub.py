"""A model repository on a hub at a pinned commit.

The hub's own client lists the repository. Bytes come through the one downloader and are hashed here: the client checks
the size of what it downloads, not its SHA-256.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import urllib3

from engine.blobs import CHUNK, Blobs
from engine.download import RETRIES, Downloader, Item, reason_of
from engine.errors import ApplianceError, InputError, TrustError, UpstreamError
from engine.report import Report
from engine.tree import Entry
from installer.intake import WEIGHTS
from installer.network import hubclient
from installer.network.connections import Connections
from installer.network.host import Network

if TYPE_CHECKING:
    from huggingface_hub import HfApi, ModelInfo

GIT_LIMIT = 64 << 20  # bytes; the hub itself wants files beyond 10 MB in LFS
FILES_LIMIT = 20_000  # a model has tens
PATH_LIMIT = 1024  # characters
TIMEOUT_S = 60.0
T = TypeVar("T")


@dataclass(frozen=True)
class Pin:
    """A file of the repository. The hub tells the SHA-256 of large files, and the git blob of all."""

    path: str
    url: str
    size: int
    sha256: str
    git_blob: str


class Hub:
    """The hub of the environment (`HF_ENDPOINT`) and the token from where its client keeps it."""

    def __init__(self, network: Network) -> None:
        from huggingface_hub import constants, get_token  # noqa: PLC0415 - slow to import

        self.endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
        self._token = get_token() or ""
        self._network = network
        hubclient.lead(network, self.endpoint)
        parts = urlsplit(self.endpoint)
        if parts.scheme not in ("http", "https") or parts.username or parts.password or parts.query:
            raise InputError(
                "HF_ENDPOINT must be an address without user, password or query",
                remedy="A token goes into HF_TOKEN or the hub client's token file.",
            )
        if self._token and parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
            raise InputError(
                "the token would travel in clear text",
                where=self.endpoint,
                remedy="Use https in HF_ENDPOINT, or unset the token.",
            )

    def headers(self, url: str) -> dict[str, str]:
        """The token for this hub's own addresses, nothing for any other."""
        mine = urlsplit(url)[:2] == urlsplit(self.endpoint)[:2]
        return {"Authorization": f"Bearer {self._token}"} if self._token and mine else {}

    def downloader(self, blobs: Blobs, report: Report) -> Downloader:
        return Downloader(blobs, report=report, route=Connections(self._network), headers=self.headers)

    def files(self, repository: str, revision: str) -> tuple[list[Pin], str]:
        """The files of a repository at a commit, and how it is gated: ``auto``, ``manual``, or empty for open to all.

        Raises:
            UpstreamError: no such repository or commit, access refused, or no answer.
        """
        where = f"{self.endpoint}/{repository}@{revision[:12]}"
        info = self._ask(
            where, lambda api: api.model_info(repository, revision=revision, files_metadata=True, timeout=TIMEOUT_S)
        )
        return pins_of(info, repository, revision, self.endpoint), str(info.gated) if info.gated else ""

    @contextmanager
    def explained(self, where: str, url: str) -> Iterator[None]:
        """A download that is refused below is asked about: the hub says why in its headers, a plain status does not."""
        from huggingface_hub import get_hf_file_metadata  # noqa: PLC0415 - slow to import

        try:
            yield
        except UpstreamError:
            if urlsplit(url)[:2] == urlsplit(self.endpoint)[:2]:
                self._ask(
                    where,
                    lambda _api: get_hf_file_metadata(
                        url, token=self._token or False, timeout=TIMEOUT_S, endpoint=self.endpoint
                    ),
                )
            raise

    def _ask(self, where: str, question: Callable[[HfApi], T]) -> T:
        import httpx2  # noqa: PLC0415 - slow to import; what the hub's client speaks with
        from huggingface_hub import HfApi  # noqa: PLC0415 - slow to import

        try:
            return question(HfApi(endpoint=self.endpoint, token=self._token or False))
        except (
            httpx2.HTTPError,
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            raise _refusal(error, where) from error


class Repository:
    """A repository as the intake and the lock see it; what is read stays in the cache."""

    def __init__(self, hub: Hub, repository: str, revision: str, cache: Blobs, report: Report) -> None:
        self._hub, self._cache = hub, cache
        self._downloader = hub.downloader(cache, report)
        pins, self.gated = hub.files(repository, revision)
        self._pins = {p.path: p for p in pins}
        self._heads: dict[str, bytes] = {}
        self._learned: dict[str, str] = {}
        self.where = f"{hub.endpoint}/{repository}@{revision[:12]}"
        self.version = revision

    @cached_property
    def entries(self) -> list[Entry]:
        return [Entry(p.path, "file", p.size) for p in self._pins.values()]

    def read(self, path: str, n: int) -> bytes:
        """The first ``n`` bytes. Of weights only these travel; any other file is brought in whole and verified."""
        pin = self._pins[path]
        if pin.sha256 and path.lower().endswith(WEIGHTS) and not self._cache.has(pin.sha256, pin.size):
            if len(self._heads.get(path, b"")) < n:
                self._heads[path] = self._range(pin, n)
            return self._heads[path][:n]
        sha256 = self.pin(path)[0]
        with self._hub.explained(self.where, pin.url):
            self._downloader.fetch(Item(path, pin.url, sha256, pin.size))
        with self._cache.path(sha256).open("rb") as file:
            return file.read(n)

    def pin(self, path: str) -> tuple[str, int, str]:
        """SHA-256, size in bytes and address of a file."""
        pin = self._pins[path]
        sha256 = pin.sha256 or self._learned.get(path) or self._learn(pin)
        return sha256, pin.size, pin.url

    def _learn(self, pin: Pin) -> str:
        """Bring in a file whose SHA-256 the hub does not tell; its git blob binds it to the commit."""
        if pin.size > GIT_LIMIT:
            raise UpstreamError(
                f"the hub tells no SHA-256 of {pin.path} ({pin.size} bytes)",
                where=self.where,
                remedy="Take a revision that keeps its large files in LFS or Xet.",
            )
        data = self._range(pin, pin.size)
        blob = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
        if len(data) != pin.size or blob != pin.git_blob:
            raise TrustError(
                f"the hub serves other bytes than the commit has: git blob {blob}, expected {pin.git_blob}",
                where=f"{pin.path} from {pin.url}",
                remedy="Do not use this hub; it or the way to it is damaged or tampered with.",
            )
        sha256 = hashlib.sha256(data).hexdigest()
        with self._cache.incoming(sha256, len(data)) as incoming:
            incoming.write(data[incoming.done :])
        self._learned[pin.path] = sha256
        return sha256

    def _range(self, pin: Pin, n: int) -> bytes:
        """The first ``n`` bytes as the hub serves them; continues where a connection broke."""
        n, got, reason = min(n, pin.size), bytearray(), "the connection ended"
        for _attempt in range(RETRIES):
            if len(got) >= n:
                break
            headers = {"Range": f"bytes={len(got)}-{n - 1}", **self._hub.headers(pin.url)}
            try:
                with self._hub.explained(self.where, pin.url), self._downloader.open(pin.url, headers) as response:
                    if response.status != 206:
                        got.clear()
                    for chunk in response.stream(min(CHUNK, n), decode_content=False):
                        got += chunk[: n - len(got)]
                        if len(got) >= n:
                            break
            except (urllib3.exceptions.HTTPError, OSError) as error:
                reason = reason_of(error)
        if len(got) < n:
            raise UpstreamError(
                f"cannot read {pin.path}: {reason}",
                where=self.where,
                remedy="Check the connection and run the same command again; it continues where it stopped.",
            )
        return bytes(got)


def pins_of(info: ModelInfo, repository: str, revision: str, endpoint: str) -> list[Pin]:
    """The files that the hub lists. Its client takes any value for size, hash and name; here they are what they should be.

    Raises:
        UpstreamError: the hub answers for another commit, or describes a file in a way that no hub does.
    """
    from huggingface_hub import hf_hub_url  # noqa: PLC0415 - slow to import

    where = f"{endpoint}/{repository}@{revision[:12]}"
    if info.sha != revision:
        raise UpstreamError(
            f"the hub answers for another commit, {str(info.sha)[:64]!a}", where=where, remedy="Correct HF_ENDPOINT."
        )
    siblings = info.siblings or []
    if len(siblings) > FILES_LIMIT:
        raise UpstreamError(
            f"the hub lists more than {FILES_LIMIT} files", where=where, remedy="Use another repository."
        )
    found = []
    for s in siblings:
        size, sha256 = (s.lfs.size, s.lfs.sha256) if s.lfs else (s.size, "")
        named = isinstance(s.rfilename, str) and s.rfilename.isprintable() and 0 < len(s.rfilename) <= PATH_LIMIT
        if not (
            named
            and type(size) is int
            and 0 <= size < 1 << 63
            and _hex(s.blob_id, 40, 64)
            and (sha256 == "" or _hex(sha256, 64))
        ):
            raise UpstreamError(
                f"the hub does not tell size and hash of {str(s.rfilename)[:120]!a}",
                where=where,
                remedy="Correct HF_ENDPOINT.",
            )
        url = hf_hub_url(repository, s.rfilename, revision=revision, endpoint=endpoint)
        found.append(Pin(s.rfilename, url, size, sha256, s.blob_id or ""))
    return found


def _hex(value: object, *lengths: int) -> bool:
    return isinstance(value, str) and len(value) in lengths and set(value) <= set("0123456789abcdef")


def _refusal(error: Exception, where: str) -> ApplianceError:
    """The hub client's error as one that says what to do."""
    from huggingface_hub import errors  # noqa: PLC0415 - slow to import

    status = error.response.status_code if isinstance(error, errors.HfHubHTTPError) else 0
    if isinstance(error, errors.GatedRepoError):
        what, remedy = (
            "the repository is gated and this account has no access to it",
            "Accept its terms on the hub with your account and set HF_TOKEN to a token of that account.",
        )
    elif isinstance(error, errors.RevisionNotFoundError):
        what, remedy = "the hub has no such commit", "Correct `revision` in the definition: the commit's 40 digits."
    elif isinstance(error, errors.EntryNotFoundError):
        what, remedy = (
            "the hub no longer has a file of this commit",
            "Run `appliance lock` again and review the change.",
        )
    elif isinstance(error, errors.OfflineModeIsEnabled):
        what, remedy = "the hub's client is switched off by HF_HUB_OFFLINE", "Unset it on the builder."
    elif isinstance(error, errors.RepositoryNotFoundError) or status in (401, 404):
        what, remedy = (
            "the hub has no such repository, or does not show it to this account",
            "Correct `hub` in the definition; for a private repository set HF_TOKEN to a token that may read it.",
        )
    elif status == 403:
        what, remedy = "the hub refuses this token", "Set HF_TOKEN to a token that may read this repository."
    elif status:
        what, remedy = f"the hub answers {status}", "Wait and run the same command again."
    else:
        said = (str(error).splitlines() or [""])[0]
        what, remedy = (
            f"the hub does not answer as a hub: {type(error).__name__}: {said}",
            "Check the connection and HF_ENDPOINT.",
        )
    return UpstreamError(what, where=where, remedy=remedy)
