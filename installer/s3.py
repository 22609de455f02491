"""A model folder in an S3-compatible store.

The store's own library (botocore, the extra ``s3``) lists, finds credentials and signs (SigV4, path-style). Bytes come
through the one downloader. A store promises no SHA-256, so locking reads every file that is taken once, whole; where the bucket keeps
versions the lock names the version of each object, elsewhere the SHA-256 alone holds it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, unquote, urlsplit

import urllib3

from engine.blobs import CHUNK, Blobs
from engine.download import RETRIES, Downloader, Item, public, reason_of
from engine.errors import ApplianceError, InputError, ResourceError, UpstreamError
from engine.report import Report
from engine.tree import Entry
from installer.definition import S3
from installer.intake import WEIGHTS
from installer.network.connections import Connections
from installer.network.host import Network

PAGES_LIMIT = 2000  # a store may answer with empty pages for ever
OBJECTS_LIMIT = 20_000  # a model has tens of files; a bucket by mistake has millions
EMPTY = hashlib.sha256(b"").hexdigest()


class Store:
    """An S3-compatible store and the credentials of this builder for it."""

    def __init__(self, place: S3, network: Network) -> None:
        try:
            from botocore import session  # noqa: PLC0415 - slow to import, and only builders have it
            from botocore.config import Config  # noqa: PLC0415
            from botocore.exceptions import BotoCoreError  # noqa: PLC0415
        except ImportError:
            raise ResourceError(
                "models from an S3 store need botocore", remedy="Install it on the builder: pip install 'appliance[s3]'"
            ) from None
        _endpoint(place.endpoint)
        self.place = place
        self._network = network
        self.endpoint = place.endpoint.rstrip("/")
        self.where = f"{self.endpoint}/{place.bucket}/{place.prefix}"
        try:
            aws = session.Session()
            self._credentials = aws.get_credentials()
            if self._credentials is None:
                raise InputError(
                    "there are no credentials for the store",
                    where=self.endpoint,
                    remedy="Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or AWS_SHARED_CREDENTIALS_FILE.",
                )
            self._client = aws.create_client(
                "s3",
                region_name=place.region,
                endpoint_url=self.endpoint,
                verify=str(network.ca),
                config=Config(
                    signature_version="s3v4", s3={"addressing_style": "path"}, retries={"max_attempts": 3},
                    connect_timeout=20, read_timeout=60,
                    # Empty, not absent: botocore would look at the environment by itself.
                    proxies={urlsplit(self.endpoint).scheme: proxy.given} if (proxy := network.proxies.for_url(self.endpoint)) else {},
                ),
            )  # fmt: skip
        except BotoCoreError as error:
            raise InputError(
                f"the credentials for the store cannot be read: {error}",
                where=self.endpoint,
                remedy="Correct AWS_PROFILE or the credentials file.",
            ) from None

    def headers(self, url: str) -> dict[str, str]:
        """Signature headers for this store's own addresses, nothing for any other."""
        from botocore.auth import S3SigV4Auth  # noqa: PLC0415
        from botocore.awsrequest import AWSRequest  # noqa: PLC0415

        if urlsplit(url)[:2] != urlsplit(self.endpoint)[:2]:
            return {}
        request = AWSRequest("GET", url, headers={"X-Amz-Content-SHA256": EMPTY})
        S3SigV4Auth(self._credentials.get_frozen_credentials(), "s3", self.place.region).add_auth(request)
        return dict(request.headers.items())

    def downloader(self, blobs: Blobs, report: Report) -> Downloader:
        return Downloader(blobs, report=report, route=Connections(self._network), headers=self.headers)

    def objects(self) -> Iterator[tuple[str, int]]:
        """Key and size in bytes of every object of the folder."""
        folder = self.place.prefix.rstrip("/") + "/" if self.place.prefix else ""
        pages = self._ask(
            lambda client: [
                o
                for page in islice(
                    client.get_paginator("list_objects_v2").paginate(
                        Bucket=self.place.bucket, Prefix=folder, PaginationConfig={"MaxItems": OBJECTS_LIMIT + 1}
                    ),
                    PAGES_LIMIT,
                )
                for o in page.get("Contents", [])
            ]
        )
        try:
            listed = [(str(o["Key"]), int(o["Size"])) for o in pages]
        except (KeyError, TypeError, ValueError):
            listed = [("", -1)]
        if any(size < 0 or not key.startswith(folder) or not key.isprintable() for key, size in listed):
            raise UpstreamError("the store does not answer as a store", where=self.where, remedy="Correct `endpoint`.")
        found = [(key.removeprefix(folder), size) for key, size in listed if not key.endswith("/")]
        if not 0 < len(found) <= OBJECTS_LIMIT:
            raise UpstreamError(
                f"the store has {'more than ' + str(OBJECTS_LIMIT) if found else 'no'} objects there",
                where=self.where,
                remedy="Correct bucket and prefix in the definition: the model's folder.",
            )
        yield from found

    def address(self, path: str) -> str:
        """Where an object is, with its version where the bucket keeps them."""
        key = f"{self.place.prefix.rstrip('/')}/{path}".lstrip("/")
        url = f"{self.endpoint}/{self.place.bucket}/{quote(key, safe='/~')}"
        version = self._ask(lambda client: client.head_object(Bucket=self.place.bucket, Key=key)).get("VersionId")
        return f"{url}?versionId={quote(version, safe='')}" if version and version != "null" else url

    @contextmanager
    def explained(self, *urls: str) -> Iterator[None]:
        """A download that is refused below is asked about: the store's answer says more than a status."""
        try:
            yield
        except UpstreamError:
            for url in urls:
                parts = urlsplit(url)
                bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
                asked = {"Bucket": bucket, "Key": key}
                if version := parse_qs(parts.query).get("versionId"):
                    asked["VersionId"] = version[0]
                self._ask(partial(_head, asked), public(url))
            raise

    def _ask(self, question: Callable[[Any], Any], where: str = "") -> Any:
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415
        from botocore.parsers import ResponseParserError  # noqa: PLC0415

        try:
            return question(self._client)
        except ClientError as error:
            said = error.response.get("Error", {})
            raise _refusal(str(said.get("Code", "")), where or self.where) from None
        # The parser's own error is no BotoCoreError, and it lets some of the standard library's through.
        except (
            BotoCoreError,
            ResponseParserError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            raise UpstreamError(
                f"the store does not answer: {type(error).__name__}",
                where=where or self.where,
                remedy="Check the connection and `endpoint` in the definition.",
            ) from None


class Bucket:
    """A folder of a store as the intake and the lock see it; what is read whole stays in the cache."""

    gated = ""

    def __init__(self, store: Store, cache: Blobs, report: Report) -> None:
        self._store, self._cache = store, cache
        self._downloader = store.downloader(cache, report)
        self._sizes = dict(store.objects())
        self._heads: dict[str, bytes] = {}
        self._pins: dict[str, tuple[str, int, str]] = {}
        self._urls: dict[str, str] = {}
        self.where = store.where

    @cached_property
    def entries(self) -> list[Entry]:
        return [Entry(path, "file", size) for path, size in sorted(self._sizes.items())]

    def read(self, path: str, n: int) -> bytes:
        """The first ``n`` bytes. Of weights only these travel; any other file is brought in whole."""
        if path.lower().endswith(WEIGHTS) and path not in self._pins:
            if len(self._heads.get(path, b"")) < n:
                self._heads[path] = b"".join(self._chunks(path, min(n, self._sizes[path])))
            return self._heads[path][:n]
        with self._cache.path(self.pin(path)[0]).open("rb") as file:
            return file.read(n)

    def pin(self, path: str) -> tuple[str, int, str]:
        """SHA-256 as computed here, size in bytes and address of a file."""
        if path not in self._pins:
            self._cache.root.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile(prefix="s3-", dir=self._cache.root) as file:
                digest = hashlib.sha256()
                for chunk in self._chunks(path, self._sizes[path]):
                    digest.update(chunk)
                    file.write(chunk)
                file.flush()
                sha256 = digest.hexdigest()
                Downloader(self._cache).fetch(Item(path, Path(file.name).as_uri(), sha256, self._sizes[path]))
            self._pins[path] = (sha256, self._sizes[path], self._url(path))
        return self._pins[path]

    def digest(self, paths: list[str]) -> str:
        """A short name for the content of these files, in place of a version."""
        lines = "".join(f"{self.pin(p)[0]}  {p}\n" for p in sorted(paths))
        return hashlib.sha256(lines.encode()).hexdigest()[:16]

    def _url(self, path: str) -> str:
        if path not in self._urls:
            self._urls[path] = self._store.address(path)
        return self._urls[path]

    def _chunks(self, path: str, n: int) -> Iterator[bytes]:
        """The first ``n`` bytes; continues where a connection broke, and only within the same object (``If-Match``)."""
        url, done, reason, etag = self._url(path), 0, "the connection ended", ""
        for _attempt in range(RETRIES):
            if done >= n:
                return
            headers = {"Range": f"bytes={done}-{n - 1}", **({"If-Match": etag} if etag else {})}
            try:
                with (
                    self._store.explained(url),
                    self._downloader.open(url, headers | self._store.headers(url)) as response,
                ):
                    if response.status != 206:
                        raise UpstreamError("the store does not serve ranges", where=self.where, remedy="Use another.")
                    etag = response.headers.get("ETag", "")
                    for chunk in response.stream(CHUNK, decode_content=False):
                        part = chunk[: n - done]
                        done += len(part)
                        yield part
            except (urllib3.exceptions.HTTPError, OSError) as error:
                reason = reason_of(error)
        if done < n:
            raise UpstreamError(
                f"cannot read {path}: {reason} after {done} of {n} bytes",
                where=self.where,
                remedy="Check the connection and run the same command again.",
            )


def _head(asked: dict[str, str], client: Any) -> Any:
    return client.head_object(**asked)


def _endpoint(address: str) -> None:
    parts = urlsplit(address)
    try:
        loopback = parts.hostname == "localhost" or ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        loopback = False
    if parts.scheme != "https" and not loopback:
        raise InputError(
            "requests to the store would travel in clear text", where=address, remedy="Use https in `endpoint`."
        )


def _refusal(code: str, where: str) -> ApplianceError:
    """A store's error code as an error that says what to do."""
    if code in ("403", "AccessDenied", "AllAccessDisabled"):
        what, remedy = (
            "the store refuses access",
            "Give this key s3:ListBucket and s3:GetObject (s3:GetObjectVersion with versions) there.",
        )
    elif code in ("SignatureDoesNotMatch", "InvalidAccessKeyId", "ExpiredToken", "InvalidToken"):
        what, remedy = (
            f"the store does not take these credentials ({code})",
            "Check the key, AWS_PROFILE and the clock.",
        )
    elif code in ("404", "NoSuchKey", "NoSuchVersion"):
        what, remedy = (
            "the store no longer has an object",
            "Restore it, or run `appliance lock` again and review the change.",
        )
    elif code == "NoSuchBucket":
        what, remedy = "the store has no such bucket", "Correct `bucket` in the definition."
    else:
        what, remedy = f"the store answers {code[:40]!a}", "Wait and run the same command again."
    return UpstreamError(what, where=where, remedy=remedy)
