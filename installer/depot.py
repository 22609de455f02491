"""The depot: the verified store on the control host that serves nodes.

blobs/                      content by SHA-256
bundles/NAME-VERSION/       one bundle as a view: hard links into blobs, and its verified metadata
trust/                      what the depot remembers (engine.memory): newest roots and metadata, latest time seen, overrides
root.json                   the pinned root of trust
pieces/                     hashes of pieces for nodes that relay (installer.site.piecelists); made anew when missing
"""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import engine.nocloud  # noqa: F401  # isort: skip  # before tuf
from tuf.api.metadata import Metadata, Targets

from engine import durable, metadata, tree, trust, verify
from engine.blobs import Advance, Blobs, Incoming, pieces
from engine.durable import disk_errors
from engine.errors import InputError, ResourceError, TrustError
from engine.memory import ANY, Demand, Memory
from engine.report import Report, Silent
from engine.trust import Target, Trusted, listing
from installer.carry import patches as patch_lists
from installer.carry import rebuild, sources
from installer.medium import Medium, ask
from installer.releases import releases
from installer.trust import downgrade

HEADROOM = 64 << 20  # bytes
ELSEWHERE = "Choose a place for the depot on ext4, XFS or Btrfs with --depot; bundles are read from any medium."
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
        if not metadata.has(path, "targets.json"):
            have = ", ".join(self.releases()) or "none"
            raise InputError(
                f"the depot has no release {release} (it has: {have})",
                where=str(self.root),
                remedy="`appliance depot list` shows what is there; `appliance import` brings a release in.",
            )
        return path

    def identity(self, release: str) -> tuple[str, int]:
        """Signed name and version of an imported release; empty and 0 when it was not imported."""
        kept = metadata.load(self.root / "bundles" / release, "targets.json")
        if kept is None:
            return "", 0
        signed = json.loads(kept)["signed"]
        return str(signed["x-appliance-name"]), int(signed["version"])

    def targets(self, release: str) -> list[Target]:
        """The files of an imported release, from the metadata that was verified on its way in."""
        return list(targets_of(self.view(release)).values())

    def remove(self, release: str) -> None:
        """Take a release out of the depot; its contents stay until `gc`, for others may share them.

        Raises:
            InputError: it is not there.
        """
        view = self.view(release)
        with disk_errors(self.root), self.exclusive():
            gone = view.with_name(f".{release}.removed")
            shutil.rmtree(gone, ignore_errors=True)
            view.rename(gone)
            durable.sync_dir(view.parent)
            shutil.rmtree(gone, ignore_errors=True)

    def releases(self) -> list[str]:
        """Imported releases by name."""
        return releases(self.root)

    def pin(self, root_json: Path | None) -> bytes:
        """The pinned root: the depot's own once it has one, else the given file; ``import_bundle`` keeps it once it
        opened a bundle, so that a wrong file does not stay.

        Raises:
            InputError: there is none, or the given one is another.
        """
        given = None
        if root_json is not None:
            given = trust.read_root(root_json)
        if self.pinned_root.is_file():
            pinned = trust.read_root(self.pinned_root)
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

    def memory(self) -> Memory:
        """What the depot remembers.

        Raises:
            InputError: nothing was pinned yet.
        """
        return self._memory(self.pin(None))

    def _memory(self, pinned: bytes) -> Memory:
        directory = self.root / "trust"
        return Memory(directory, pinned, lambda step, approvals: downgrade.judge(directory, step, approvals))

    def open(self, bundle: Path, root_json: Path | None, demand: Demand) -> Trusted:
        """Check a bundle's metadata against what is pinned and remembered; a first root is pinned once it opened a bundle.

        Raises:
            TrustError: the metadata was refused.
            InputError: there is no root, or not the pinned one.
        """
        pinned = self.pin(root_json)
        memory = self._memory(pinned)
        known = max(memory.roots())
        try:
            trusted = verify.open_bundle(bundle, pinned, memory, demand)
        finally:
            if self.pinned_root.is_file() and max(memory.roots()) > known:
                self._hand_on(
                    memory
                )  # also from a bundle that was refused: what its root revokes is revoked for nodes, too
        if not self.pinned_root.is_file():
            durable.write(self.pinned_root, pinned)
        return trusted

    def _hand_on(self, memory: Memory) -> None:
        """Put every known root beside the metadata of every release, where nodes follow it."""
        chain = {metadata.root_name(number): data for number, data in memory.roots().items()}
        for release in self.releases():
            metadata.add(self.view(release), chain)

    def import_bundle(
        self,
        bundle: Path,
        *,
        root_json: Path | None = None,
        demand: Demand = ANY,
        report: Report | None = None,
        link: bool = False,
    ) -> Imported:
        """Verify a bundle and take it in. Safe to kill: blobs that arrived stay, the view appears whole at the end.

        Files that the depot holds already need not come again: metadata alone renews a bundle.

        Args:
            link: where bundle and depot are on one file system, make the bundle's own files the depot's instead of copying
                them. Nobody may write into the bundle afterwards.

        Raises:
            TrustError: metadata or a file was refused; the view is not made.
            ResourceError: not enough space, or another import runs.
        """
        report = report or Silent()
        with disk_errors(self.root):
            asked = self.medium()
            self.root.mkdir(parents=True, exist_ok=True, mode=0o755)
            with self.exclusive():
                trusted = self.open(bundle, root_json, demand)
                memory = self.memory()
                final = self.root / "bundles" / trusted.release
                signed = _served(trusted, memory)
                missing = [t for t in trusted.targets.values() if not self.blobs.has(t.sha256, t.size)]
                if metadata.present(final) and not missing and metadata.read(final).content == signed:
                    rebuild.clear(self.blobs)
                    return Imported(trusted, final, 0, changed=False)
                found = sources.find(bundle, trusted, missing, patch_lists.read(trusted), self.blobs)
                whole = 0 if self._in_place(bundle, found.files, link) else found.size
                self.require_holds(asked, trusted)
                self.require_space(whole + found.rebuilt)
                copied = self._copy(bundle, found.files, report, link)
                for patch in found.patches:
                    copied += rebuild.bring(self.blobs, bundle, patch)
                    rebuild.rebuild(self.blobs, patch, report)
                self._make_view(trusted, signed, final)
                rebuild.clear(self.blobs)
                return Imported(trusted, final, copied, changed=True)

    def show(self, trusted: Trusted) -> Path:
        """Make the release visible, once every content of it is here; returns its directory."""
        final = self.root / "bundles" / trusted.release
        self._make_view(trusted, _served(trusted, self.memory()), final)
        return final

    def learn(self, chain: dict[int, bytes]) -> int:
        """Follow new roots that came without a bundle, and hand them on to nodes; the version in force then.

        Raises:
            TrustError: the chain does not follow from the pinned root.
        """
        with disk_errors(self.root), self.exclusive():
            memory = self.memory()
            version = memory.learn(chain)
            self._hand_on(memory)
            return version

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Nobody else changes the depot while the block runs.

        Raises:
            ResourceError: somebody does.
        """
        with (self.root / ".import.lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ResourceError(
                    "another command is changing the depot", where=str(self.root), remedy="Wait for it to end."
                ) from error
            yield

    def medium(self) -> Medium:
        """What the depot's file system holds; asked before anything is written there.

        A release is shown as links to its contents. Without links every content would lie there twice, and a second import
        could not tell a whole view from a changed one.

        Raises:
            ResourceError: it has no hard links.
        """
        asked = ask(self.root)
        if not asked.links:
            raise ResourceError(f"{asked.kind} has no hard links there", where=str(self.root), remedy=ELSEWHERE)
        return asked

    def require_holds(self, asked: Medium, trusted: Trusted) -> None:
        """Refuse a release of which the file system does not take a file.

        Raises:
            ResourceError: names the files, the longest first.
        """
        asked.require({t.path: t.size for t in trusted.targets.values()}, remedy=ELSEWHERE)

    def require_space(self, size: int) -> None:
        """Refuse before the first of ``size`` bytes is written.

        Raises:
            ResourceError: too little is free.
        """
        free = shutil.disk_usage(self.root).free
        if free < size + HEADROOM:
            raise ResourceError(
                f"{size + HEADROOM - free} bytes too few are free",
                where=str(self.root),
                remedy="Free space there, or use another --depot.",
            )

    def _in_place(self, bundle: Path, sources: list[Target], link: bool) -> bool:
        """Whether contents come in without taking space again."""
        if not sources or bundle.stat().st_dev != self.root.stat().st_dev:
            return False
        if link:
            return True
        self.blobs.root.mkdir(parents=True, exist_ok=True)
        with tree.open_beneath(bundle, sources[0].path) as first:
            return self.blobs.shares(first)

    def _copy(self, bundle: Path, sources: list[Target], report: Report, link: bool) -> int:
        """Copy and hash in one pass: the bytes that were hashed are the bytes that stay. Returns the bytes copied."""
        report.begin("import", sum(t.size for t in sources))

        def advance(n_bytes: int) -> None:
            report.advance("import", n_bytes)

        def one(target: Target) -> int:
            try:
                with tree.open_beneath(bundle, target.path) as source:
                    if link and self.blobs.adopt(target.sha256, target.size, source, advance):
                        return 0
                    with self.blobs.incoming(target.sha256, target.size) as incoming:
                        return _fill(incoming, source, advance)
            except TrustError as error:
                raise TrustError(
                    error.what,
                    where=target.path,
                    remedy="The medium or the bundle is damaged; `appliance verify` lists every such file.",
                ) from error

        with ThreadPoolExecutor(COPIERS) as workers:
            copied = sum(workers.map(one, sorted(sources, key=lambda t: -t.size)))
        report.end("import")
        return copied

    def _make_view(self, trusted: Trusted, signed: Mapping[str, bytes], final: Path) -> None:
        staging = final.with_name(f".{final.name}.importing")
        old = final.with_name(f".{final.name}.old")
        for leftover in (staging, old):
            shutil.rmtree(leftover, ignore_errors=True)
        for target in trusted.targets.values():
            self.blobs.link(target.sha256, staging / target.path)
        metadata.write(staging, signed)
        if final.exists():
            final.rename(old)
        staging.rename(final)
        durable.sync_dir(final.parent)
        shutil.rmtree(old, ignore_errors=True)

    def manifest(self, release: str) -> dict[str, Any]:
        """The manifest of an imported release."""
        data: dict[str, Any] = json.loads((self.view(release) / "content" / "manifest.json").read_bytes())
        return data


def targets_of(view: Path) -> Mapping[str, Target]:
    """The files by path that a directory's targets metadata names; call it only where that was verified before."""
    kept = metadata.load(view, "targets.json")
    if kept is None:
        raise InputError(
            "the release is not here", where=str(view), remedy="`appliance depot list` shows what is there."
        )
    return listing(Metadata[Targets].from_bytes(kept).signed, 0).targets


def _fill(incoming: Incoming, source: BinaryIO, advance: Advance) -> int:
    """Bring in what a blob lacks; returns the bytes copied, none where the file system could share them."""
    shared = incoming.clone(source.fileno())
    advance(incoming.done)
    start = incoming.done
    source.seek(start)
    for piece in () if shared else pieces(source, incoming.size - start):
        incoming.write(piece)
        advance(len(piece))
    return incoming.done - start


def _served(trusted: Trusted, memory: Memory) -> dict[str, bytes]:
    """The metadata that nodes are served: the bytes that were verified, with every root that the depot knows."""
    roles = {
        name: data for name, data in trusted.metadata.items() if name in metadata.LENGTHS and name != metadata.PATCHES
    }
    return roles | {metadata.root_name(number): data for number, data in memory.roots().items()}
