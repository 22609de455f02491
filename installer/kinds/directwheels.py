"""Wheels that no index offers: fetched by address and hash, then offered to the resolver like a local index.

The resolver reads their metadata, so their own dependencies come along and a conflict is an error of the lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from packaging.utils import InvalidWheelFilename, parse_wheel_filename

from engine.download import Item
from engine.errors import InputError, UpstreamError
from installer import wheelarchive
from installer.definition import DirectWheel, WheelSet
from installer.kinds import Work


@dataclass(frozen=True)
class Direct:
    """A wheel as the resolver is told of it. ``size`` in bytes; ``url`` is where `build` fetches it again."""

    requirement: str
    filename: str
    url: str
    sha256: str
    size: int


def bring(work: Work, wheels: WheelSet, folder: Path) -> tuple[Direct, ...]:
    """Fetch the set's direct wheels into the cache and link them into ``folder`` under their own names.

    Raises:
        InputError: an address does not end in a wheel's name, or a local file is missing.
        TrustError: the source has other bytes than the definition says, or the wheel is damaged or a bomb.
        UpstreamError: the source does not answer.
    """
    return tuple(_bring(work, wheels.name, direct, folder) for direct in wheels.direct)


def _bring(work: Work, wheel_set: str, direct: DirectWheel, folder: Path) -> Direct:
    url = direct.url
    filename = unquote(urlsplit(url).path).rsplit("/", 1)[-1]
    try:
        name, version, _, _ = parse_wheel_filename(filename)
    except InvalidWheelFilename as error:
        raise InputError(
            f"wheels: {wheel_set}: direct: the address does not end in a wheel's name: {error}",
            where=url,
            remedy="Give the address of the wheel itself.",
        ) from error
    downloader = work.downloader()
    if urlsplit(url).scheme == "file":
        local = (work.base / unquote(urlsplit(url).path)).resolve()
        if not local.is_file():
            raise InputError(
                f"wheels: {wheel_set}: direct: there is no such file", where=str(local), remedy="Correct the url."
            )
        url, size = local.as_uri(), local.stat().st_size
    elif work.cache.path(direct.sha256).exists():
        size = work.cache.path(direct.sha256).stat().st_size
    else:
        length = downloader.length(url)
        if length is None:
            raise UpstreamError(
                "the source does not tell the size of a wheel", where=url, remedy="Use one that sends Content-Length."
            )
        size = length
    downloader.fetch(Item(filename, url, direct.sha256, size), "direct wheels")
    wheelarchive.require_bounded(work.cache.path(direct.sha256), filename)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / filename).symlink_to(work.cache.path(direct.sha256).resolve())
    return Direct(f"{name}=={version}", filename, url, direct.sha256, size)
