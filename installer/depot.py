"""The depot: the verified store on the control host that serves nodes.

blobs/                      content by SHA-256
bundles/NAME-VERSION/       one bundle as a view: hard links into blobs, and its verified metadata
trust/NAME/                 the newest metadata seen of each bundle name; older bundles are refused
root.json                   the pinned root of trust
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine import durable, tree, trust, verify
from engine.blobs import CHUNK, Blobs
from engine.durable import disk_errors
from engine.errors import InputError, ResourceError, TrustError
from engine.report import Report, Silent
from engine.trust import Target, Trusted

HEADROOM = 64 << 20  # bytes
COPIERS = 4


@dataclass(frozen=True)
class Imported:
    """What an import did. ``copied`` in bytes; zero when everything was there."""

    trusted: Trusted
    view: Path
    copied: int
    changed: bool


class Depot:
    """The store below ``root``."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = Blobs(root / "blobs")

    @property
    def pinned_root(self) -> Path:
        return self.root / "root.json"

    def view(self, release: str) -> Path:
        """Directory of an imported bundle.

        Raises:
            InputError: it was never imported.
        """
        path = self.root / "bundles" / release
        if not (path / "metadata" / "targets.json").is_file():
            have = ", ".join(self.releases()) or "none"
            raise InputError(
                f"the depot has no release {release} (it has: {have})",
                where=str(self.root),
                remedy="Import the bundle first.",
            )
        return path

    def releases(self) -> list[str]:
        """Imported releases by name."""
        base = self.root / "bundles"
        return sorted(p.name for p in base.iterdir() if not p.name.startswith(".")) if base.is_dir() else []

    def pin(self, root_json: Path | None) -> bytes:
        """The pinned root: the depot's own once it has one, else the given file; ``import_bundle`` keeps it once it
        opened a bundle, so that a wrong file does not stay.

        Raises:
            InputError: there is none, or the given one is another.
        """
        given = None
        if root_json is not None:
            given = self.root_of_trust(root_json)
        if self.pinned_root.is_file():
            pinned = self.pinned_root.read_bytes()
            if given is not None and given != pinned:
                raise TrustError(
                    "the depot pins another root of trust",
                    where=str(self.pinned_root),
                    remedy="Leave --root out. Rotated keys travel inside the bundle; only a new start needs a new depot.",
                )
            return pinned
        if given is None:
            raise InputError(
                "no root of trust is pinned yet",
                where=str(self.root),
                remedy="Give --root with the root.json you received on another way than the bundle.",
            )
        return given

    @staticmethod
    def root_of_trust(path: Path) -> bytes:
        """A root.json given by hand.

        Raises:
            InputError: it cannot be read, or is no root metadata by its length alone.
        """
        try:
            return trust.read_root(path)
        except OSError as error:
            raise InputError(
                f"cannot read the root of trust: {error.strerror}", where=str(path), remedy="Check the name."
            ) from error

    def import_bundle(self, bundle: Path, *, root_json: Path | None = None, report: Report | None = None) -> Imported:
        """Verify a bundle and take it in. Safe to kill: blobs that arrived stay, the view appears whole at the end.

        Raises:
            TrustError: metadata or a file was refused; the view is not made.
            ResourceError: not enough space, or another import runs.
        """
        report = report or Silent()
        with disk_errors(self.root):
            self.root.mkdir(parents=True, exist_ok=True, mode=0o755)
            with self._only_one():
                pinned = self.pin(root_json)
                name = verify.open_bundle(bundle, pinned).name  # signed, so it may choose the state directory
                if not self.pinned_root.is_file():
                    durable.write(self.pinned_root, pinned)
                state = self.root / "trust" / name
                trusted = verify.open_bundle(bundle, pinned, state)
                final = self.root / "bundles" / trusted.release
                missing = [t for t in trusted.targets.values() if not self.blobs.has(t.sha256, t.size)]
                if final.is_dir() and not missing and _same_metadata(final, state):
                    return Imported(trusted, final, 0, changed=False)
                _check_listing(bundle, trusted)
                self._require_space(missing)
                copied = self._copy(bundle, missing, report)
                self._make_view(trusted, state, final)
                return Imported(trusted, final, copied, changed=True)

    @contextmanager
    def _only_one(self) -> Iterator[None]:
        with (self.root / ".import.lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ResourceError(
                    "another import is running", where=str(self.root), remedy="Wait for it to end."
                ) from error
            yield

    def _require_space(self, missing: list[Target]) -> None:
        need = sum({t.sha256: t.size for t in missing}.values()) + HEADROOM
        free = shutil.disk_usage(self.root).free
        if free < need:
            raise ResourceError(
                f"{need - free} bytes too few are free",
                where=str(self.root),
                remedy="Free space there, or use another --depot.",
            )

    def _copy(self, bundle: Path, missing: list[Target], report: Report) -> int:
        """Copy and hash in one pass: the bytes that were hashed are the bytes that stay."""
        unique = {t.sha256: t for t in missing}.values()
        report.begin("import", sum(t.size for t in unique))

        def one(target: Target) -> int:
            try:
                with (
                    self.blobs.incoming(target.sha256, target.size) as incoming,
                    tree.open_beneath(bundle, target.path) as source,
                ):
                    report.advance("import", incoming.done)
                    start = incoming.done
                    source.seek(incoming.done)
                    while not incoming.complete and (chunk := source.read(CHUNK)):
                        incoming.write(chunk)
                        report.advance("import", len(chunk))
                    return incoming.done - start
            except TrustError as error:
                raise TrustError(
                    error.what,
                    where=target.path,
                    remedy="The medium or the bundle is damaged; `appliance verify` lists every such file.",
                ) from error

        with ThreadPoolExecutor(COPIERS) as workers:
            copied = sum(workers.map(one, sorted(unique, key=lambda t: -t.size)))
        report.end("import")
        return copied

    def _make_view(self, trusted: Trusted, state: Path, final: Path) -> None:
        staging = final.with_name(f".{final.name}.importing")
        old = final.with_name(f".{final.name}.old")
        for leftover in (staging, old):
            shutil.rmtree(leftover, ignore_errors=True)
        for target in trusted.targets.values():
            self.blobs.link(target.sha256, staging / target.path)
        for path, data in _metadata_files(state).items():
            durable.write(staging / "metadata" / path, data)
        if final.exists():
            final.rename(old)
        staging.rename(final)
        durable.sync_dir(final.parent)
        shutil.rmtree(old, ignore_errors=True)

    def manifest(self, release: str) -> dict[str, Any]:
        """The manifest of an imported release."""
        data: dict[str, Any] = json.loads((self.view(release) / "content" / "manifest.json").read_bytes())
        return data


def _check_listing(bundle: Path, trusted: Trusted) -> None:
    """Refuse early, naming every file, before anything large is copied."""
    present = {e.path: e for e in tree.walk(bundle)}
    missing = [p for p in trusted.targets if p not in present]
    wrong = [
        p
        for p, e in present.items()
        if e.kind != "file" or (p in trusted.targets and e.size != trusted.targets[p].size)
    ]
    extra = [p for p in present if p not in trusted.targets and not p.startswith("metadata/")]
    for what, paths in (("missing", missing), ("not as signed", wrong), ("covered by no signature", extra)):
        if paths:
            raise TrustError(
                f"{len(paths)} files are {what}, first {tree.printable(sorted(paths)[0])}",
                where=str(bundle),
                remedy="`appliance verify` lists every such file; copy the bundle again.",
            )


def _metadata_files(state: Path) -> dict[str, bytes]:
    """The verified metadata as it is served on: the bytes the client kept, not a second read of the medium."""
    files = {name: (state / name).read_bytes() for name in sorted(verify.METADATA)}
    files |= {p.name: p.read_bytes() for p in sorted((state / "root_history").glob("*.root.json"))}
    return files


def _same_metadata(view: Path, state: Path) -> bool:
    return all(
        (view / "metadata" / n).is_file() and (view / "metadata" / n).read_bytes() == d
        for n, d in _metadata_files(state).items()
    )
