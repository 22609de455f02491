"""Plain files by address and hash."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from engine.download import Item
from engine.errors import InputError
from installer.definition import File
from installer.kinds import Work, items, place
from installer.lockfile import Artifact


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
        with work.downloader().open(url) as response:
            size = int(response.headers.get("Content-Length") or sum(len(c) for c in response.stream(1 << 20)))
    work.downloader().fetch(Item(file.name, url, file.sha256, size))
    return Artifact(
        path=f"files/{file.name}", kind="files", group=file.name, name=file.name, size=size, sha256=file.sha256,
        source=url, licence=file.licence, profiles=file.profiles,
    )  # fmt: skip


def fetch(work: Work, artifacts: Sequence[Artifact]) -> None:
    work.downloader().fetch_all(items(artifacts), task="files")


def check(work: Work, artifacts: Sequence[Artifact]) -> None:
    """Nothing to check beyond the hash."""


def lay_out(work: Work, artifacts: Sequence[Artifact], content: Path) -> None:
    place(work, artifacts, content)
