"""`appliance build bundle`: fetch what the lock says, lay it out, sign it."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from engine import durable
from engine.durable import disk_errors
from engine.errors import ResourceError
from installer import medium
from installer.bundle import acceptable, known, readme
from installer.bundle.lock import KINDS
from installer.definition import Definition
from installer.evidence import provenance, writing
from installer.kinds import Work, damaged
from installer.lockfile import Artifact, Lock
from installer.runtime import image, recipe
from installer.trust import sign
from installer.trust.keys import KeyStore
from installer.trust.sign import Label, Signed

HEADROOM = 64 << 20  # bytes for indexes, metadata and the file system's own needs


@dataclass(frozen=True)
class Built:
    """A built bundle. ``size`` in bytes of everything signed; ``content_digest`` is the same for equal content.

    ``unread`` files, ``unread_size`` bytes, were hashed by an earlier build and have not changed since (``known``).
    """

    path: Path
    release: str
    signed: Signed
    files: int
    size: int
    content_digest: str
    unread: int
    unread_size: int


def build(
    definition: Definition,
    lock: Lock,
    work: Work,
    out: Path,
    *,
    keys: KeyStore,
    passphrase: str,
    days: int,
    now: datetime,
    builder: str = provenance.BUILDER,
    rehash: bool = False,
    prove: Callable[[Path], None] = lambda _: None,
) -> Built:
    """Make ``out/NAME-VERSION``. A killed run leaves only a hidden directory that the next run replaces.

    Args:
        rehash: read every byte, also of what an earlier build has read.
        prove: gets the whole, signed bundle under its hidden name; what it raises keeps the bundle from its final name.

    Raises:
        TrustError: an artifact is not what was locked, or clients would refuse the root of trust.
        InputError: two files have names that one file system cannot hold.
        UpstreamError: a source is gone.
        ResourceError: the disk is full or another build runs.
    """
    acceptable.require_roots(keys, now, days, work.report)
    acceptable.require_paths([f"{acceptable.CONTENT}{a.path}" for a in lock.artifacts])
    final = out / definition.release
    staging = _staging(out, definition.release)
    if lock.product and (changed := lock.product.changed):
        work.report.say(
            f"The product's own wheels were locked from a checkout with {len(changed)} files that were not as committed; the provenance names them."
        )
    with disk_errors(out), _only_one(out, definition.release):
        _remove(staging)
        for name, kind in KINDS.items():
            kind.fetch(work, lock.of_kind(name))
        for name, kind in KINDS.items():
            kind.check(work, lock.of_kind(name))
        try:
            staging.mkdir()
            with durable.together(staging):
                built = _assemble(
                    definition,
                    lock,
                    work,
                    staging,
                    keys=keys,
                    passphrase=passphrase,
                    days=days,
                    now=now,
                    builder=builder,
                    rehash=rehash,
                )
            if built[0].finished:
                acceptable.require_good(staging, keys)
            prove(staging)
        except BaseException:
            _remove(staging)
            raise
        _replace(staging, final)
    return Built(final, definition.release, *built)


def _assemble(
    definition: Definition,
    lock: Lock,
    work: Work,
    staging: Path,
    *,
    keys: KeyStore,
    passphrase: str,
    days: int,
    now: datetime,
    builder: str,
    rehash: bool,
) -> tuple[Signed, int, int, str, int, int]:
    content = staging / "content"
    content.mkdir(parents=True)
    for name, kind in KINDS.items():
        if artifacts := lock.of_kind(name):
            kind.lay_out(work, artifacts, content)
    made = image.write(recipe.recipes(definition, lock), work, content)
    writing.write(lock, work, content, builder=builder, made={m.path: m.sha256 for m in made})
    durable.write(content / "manifest.json", manifest(definition, lock))
    durable.write(staging / "README.txt", readme.render(definition, lock))
    work.report.begin("sign")
    paths = [str(p.relative_to(staging)) for p in staging.rglob("*") if p.is_file()]
    acceptable.require_paths(paths)
    memory = known.Known(work.cache, now) if rehash else known.load(work.cache, now)
    locked = {content / a.path: a.sha256 for a in lock.artifacts}
    digests = sign.digests_of(staging, paths, known=lambda path, n: memory.find(path, n, locked.get(path, "")))
    _compare(lock, work, {p: d.sha256 for p, d in digests.items()})
    memory.keep(staging, digests)
    targets = sign.targets_of(digests, _labels(definition, lock))
    signed = sign.sign(
        staging,
        targets,
        name=definition.name,
        release=definition.release,
        keys=keys,
        passphrase=passphrase,
        days=days,
        now=now,
    )
    work.report.end("sign")
    digest = sign.content_digest({p: t.hashes["sha256"] for p, t in targets.items()})
    size, unread = sum(t.length for t in targets.values()), memory.reused
    return signed, len(targets), size, digest, len(unread), sum(unread.values())


def manifest(definition: Definition, lock: Lock) -> str:
    """Definition, lock and profiles of this version as canonical JSON."""
    profiles = sorted({p for a in lock.artifacts for p in a.profiles})
    # Only a definition that asks for the gateway has the key: an earlier installer, which does not know it, reads all others.
    left_out = set() if definition.gateway else {"gateway"}
    data = {
        "definition": definition.model_dump(mode="json", by_alias=True, exclude=left_out),
        "lock": lock.model_dump(mode="json", by_alias=True),
        "profiles": {p: sum(a.size for a in lock.artifacts if p in a.profiles) for p in profiles},
    }
    return json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _labels(definition: Definition, lock: Lock) -> sign.LabelOf:
    """An artifact is labelled by the lock; an index file belongs to whoever needs anything beside it."""
    by_path = {f"content/{a.path}": a for a in lock.artifacts}
    images = {r.path: r for r in recipe.recipes(definition, lock)}
    for one in images.values():
        # A node takes either the image or the wheels; who wants the wheels asks for them by their own profile.
        profiles = tuple(f"{p}{recipe.WHEELS}" for p in one.profiles)
        by_path |= {f"content/{a.path}": a.model_copy(update={"profiles": profiles}) for a in one.wheels}

    def label(path: str) -> Label:
        if artifact := by_path.get(path):
            return Label(artifact.kind, artifact.profiles, artifact.licence, artifact.source)
        parts = path.split("/")
        if parts[0] == "content" and parts[1] in writing.DIRECTORIES:
            return Label("evidence", ())  # for people; no node fetches it
        if parts[:2] == ["content", recipe.DIRECTORY]:
            made = images.get(path)
            return Label("runtime", made.profiles, source=f"build:{made.name}") if made else Label("evidence", ())
        for depth in range(len(parts) - 1, 0, -1):
            prefix = "/".join(parts[:depth]) + "/"
            if beside := {p for known, a in by_path.items() if known.startswith(prefix) for p in a.profiles}:
                return Label("index" if depth > 1 else "manifest", tuple(sorted(beside)))
        return Label("readme", ())

    return label


def _compare(lock: Lock, work: Work, hashes: dict[str, str]) -> None:
    """What lies in the bundle is what was locked, even if the cache rotted since it was filled."""
    for artifact in lock.artifacts:
        if hashes.get(f"content/{artifact.path}") != artifact.sha256:
            raise damaged(work, artifact)


@contextmanager
def _only_one(out: Path, release: str) -> Iterator[None]:
    out.mkdir(parents=True, exist_ok=True)
    with (out / f".{release}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ResourceError(
                f"another build of {release} is running", where=str(out), remedy="Wait for it to end."
            ) from error
        yield


def _replace(staging: Path, final: Path) -> None:
    """Put the new bundle in the place of an older build of the same version."""
    old = final.with_name(f".{final.name}.old")
    _remove(old)
    if final.exists():
        final.rename(old)
    staging.rename(final)
    durable.sync_dir(final.parent)
    _remove(old)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)


def require_space(out: Path, artifacts: Sequence[Artifact], work: Work) -> None:
    """Refuse before the first byte when the disks cannot hold the result.

    Raises:
        ResourceError: with the number of bytes that are missing, or with the files that the file system does not take.
    """
    missing = {
        a.path: a.size for a in {a.sha256: a for a in artifacts}.values() if not work.cache.has(a.sha256, a.size)
    }
    laid_out = {a.path: a.size for a in artifacts}
    cache, target = medium.ask(work.cache.root), medium.ask(out)
    cache.require_lengths(missing, remedy="Choose another place with --cache.")
    target.require(
        laid_out,
        remedy="Build on another disk with --out and carry the bundle with `appliance split`, which cuts long files, or use "
        "a medium with another file system: exFAT takes files of any length.",
    )
    same = target.place.stat().st_dev == cache.place.stat().st_dev
    # On one file system with links the bundle is links into the cache.
    fetched, copied = cache.occupied(missing), 0 if same and target.links else target.occupied(laid_out)
    killed = medium.leftovers(_staging(out, work.definition.release))  # goes before anything is laid out
    for one, need in ((cache, fetched + same * copied), (target, copied + same * fetched)):
        one.require_room(
            need + HEADROOM - killed * (same or one is target),
            remedy="Free space, or choose another place with --out or --cache.",
        )


def _staging(out: Path, release: str) -> Path:
    return out / f".{release}.building"
