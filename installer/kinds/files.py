"""Plain files by address and hash."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

import urllib3

from engine.download import Item
from engine.errors import InputError, TrustError, UpstreamError
from installer.definition import File
from installer.kinds import Work, items, place
from installer.lockfile import Artifact

LIMIT = 1 << 40  # bytes of a file whose source does not tell its size


def resolve(work: Work) -> list[Artifact]:
    """Fetch each file once to learn its size; the hash is the definition's."""
    return [_resolve(work, file) for file in work.definition.files]


def _resolve(work: Work, file: File) -> Artifact:
    url = file.url
    if urlsplit(url).scheme == "file":
        local = (work.base / unquote(urlsplit(url).path)).resolve()
        if not local.is_file():
            raise InputError(
                f"files: {file.name}: there is no such file",
                where=str(local),
                remedy="Correct the url in the definition.",
            )
        url, size = local.as_uri(), local.stat().st_size
    else:
        size = work.downloader().length(url) or _counted(work, url)
    try:
        work.downloader().fetch(Item(file.name, url, file.sha256, size))
    except TrustError as error:  # the hash is the definition's: locking again would change nothing
        raise TrustError(
            error.what,
            where=error.where,
            remedy=f"If this content is meant, correct sha256 of the file {file.name} in the definition; else look at its source.",
        ) from error
    return Artifact(
        path=f"files/{file.name}", kind="files", group=file.name, name=file.name, size=size, sha256=file.sha256,
        source=url, licence=file.licence, profiles=file.profiles,
    )  # fmt: skip


def _counted(work: Work, url: str) -> int:
    """Bytes of a file whose source does not tell them."""
    size = 0
    try:
        with work.downloader().open(url) as response:
            for chunk in response.stream(1 << 20, decode_content=False):
                size += len(chunk)
                if size > LIMIT:
                    raise UpstreamError(f"it goes on beyond {LIMIT:,} bytes", where=url, remedy="Correct the url.")
    except (urllib3.exceptions.HTTPError, OSError) as error:
        raise UpstreamError(
            f"cannot read from the source: {error}", where=url, remedy="Check the connection and try again."
        ) from error
    return size


def fetch(work: Work, artifacts: Sequence[Artifact]) -> None:
    work.downloader().fetch_all(items(artifacts), task="files")


def check(work: Work, artifacts: Sequence[Artifact]) -> None:
    """Nothing to check beyond the hash."""


def lay_out(work: Work, artifacts: Sequence[Artifact], content: Path) -> None:
    place(work, artifacts, content)
