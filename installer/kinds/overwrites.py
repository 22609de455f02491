"""Wheels of one set that install the same files with different content: refused, or waived with a reason.

pip and uv install both, and whose file stays depends on the order of the day. Where the definition allows it, the order is fixed:
the wheel whose name sorts last is installed again after all others, in runtime images and on nodes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from packaging.utils import canonicalize_name

from engine.blobs import Blobs
from engine.errors import InputError
from installer import wheelarchive
from installer.definition import WheelSet
from installer.kinds import Work, items, wheelfiles
from installer.kinds.wheelfiles import Entry
from installer.lockfile import Artifact

DIRECTORY = "last"  # beside requirements.txt: one requirements file for each wheel that is installed again, in order
SHOWN = 3  # files of a pair of wheels that a message names
LISTED = 6  # paths that the proposed waiver lists before it proposes patterns


def last(artifacts: Sequence[Artifact], cache: Blobs) -> tuple[Artifact, ...]:
    """The wheels of one set that are installed again after all others, in order (``wheelfiles.last``)."""
    by_name = {canonicalize_name(a.name): a for a in artifacts}
    files = []
    for name, artifact in by_name.items():
        with wheelarchive.opened(cache.path(artifact.sha256), artifact.path) as archive:
            files.append((name, [*wheelfiles.installed(archive), *wheelfiles.beside(archive)]))
    return tuple(by_name[canonicalize_name(name)] for name in wheelfiles.last(files))


def require(
    wheels: WheelSet | None, where: str, together: Iterable[Artifact], files: Mapping[str, list[Entry]]
) -> None:
    """Refuse wheels of a set that overwrite each other's files without a waiver.

    Args:
        wheels: the set in the definition; None for one that nobody can waive in.
        where: its directory; for the message.
        files: what each artifact installs, by its path.

    Raises:
        InputError: names both wheels, their files, and the waiver to write.
    """
    patterns = [p for waiver in (wheels.waivers if wheels else ()) for p in waiver.paths]
    found = wheelfiles.collisions((f"{a.name} {a.version}", files[a.path]) for a in _in_order(together))
    refused = {pair: left for pair, paths in found.items() if (left := [p for p in paths if not _any(p, patterns)])}
    if not refused:
        return
    remedy = (
        "Constrain or exclude one of them in the definition and lock again; whose file stays would depend on the day."
    )
    if wheels:
        remedy += (
            " Where these files do no harm, such as tests that nobody runs, waive them under this set: `waivers: [{rule: overwrite, "
            f"paths: [{', '.join(_proposed(refused.values()))}], reason: WHY}}]`; those of the second wheel named stay then."
        )
    raise InputError(
        "; ".join(
            f"{one} and {two} both install {', '.join(paths[:SHOWN])}"
            f"{f' and {len(paths) - SHOWN} more' if len(paths) > SHOWN else ''}, and differ"
            for (one, two), paths in sorted(refused.items())
        ),
        where=where,
        remedy=remedy,
    )


def noted(work: Work, wheels: WheelSet, artifacts: list[Artifact]) -> list[Artifact]:
    """The same artifacts; a wheel whose files replace another's says so in its notes, with the reason.

    Only a set with waivers is looked into, for that needs the wheels themselves; the build fetches them anyway.

    Raises:
        InputError: a collision is not waived.
    """
    if not wheels.waivers:
        return artifacts
    work.downloader().fetch_all(items(artifacts), task="wheels")
    files = {}
    for artifact in artifacts:
        with wheelarchive.opened(work.cache.path(artifact.sha256), artifact.path) as archive:
            files[artifact.path] = wheelfiles.installed(archive)
    require(wheels, f"wheels/{wheels.name}", artifacts, files)
    found = wheelfiles.collisions((a.path, files[a.path]) for a in _in_order(artifacts))
    by_path, notes, used = {a.path: a for a in artifacts}, dict[str, set[str]](), set()
    for (one, two), paths in found.items():
        for path in paths:
            waiver = next(w for w in wheels.waivers if _any(path, w.paths))
            used.add(waiver)
            replaced = f"{by_path[one].name} {by_path[one].version}"
            notes.setdefault(two, set()).add(
                f"waiver overwrite: its {path} replaces that of {replaced} ({waiver.reason})"
            )
    for unused in [w for w in wheels.waivers if w not in used]:
        work.report.say(
            f"wheels: {wheels.name}: no waiver is needed for {', '.join(unused.paths)}; remove it from the definition"
        )
    return [a.model_copy(update={"notes": (*a.notes, *sorted(notes.get(a.path, ())))}) for a in artifacts]


def _in_order(artifacts: Iterable[Artifact]) -> list[Artifact]:
    """By name, so that of two the second is the one whose files stay."""
    return sorted(artifacts, key=lambda a: canonicalize_name(a.name))


def _any(path: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(path, pattern) for pattern in patterns)


def _proposed(refused: Iterable[list[str]]) -> list[str]:
    paths = sorted({path for some in refused for path in some})
    return paths if len(paths) <= LISTED else sorted({f"{path.rpartition('/')[0]}/*" for path in paths})
