"""What a node holds, and what of it is signed: read from disk alone, for verification must work when the depot is long gone."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import engine.nocloud  # noqa: F401  # isort: skip  # before tuf
from tuf.api.metadata import Metadata, Root, Targets

from engine import tree
from engine.errors import ApplianceError, TrustError
from engine.memory import Memory
from engine.trust import CONFIG, Trusted, listing

MODEL = re.compile(r'^model: ("(?:[^"\\]|\\.)*")$', re.MULTILINE)  # as roles/vllm/templates/config.yaml.j2 writes it
MAX_CONFIG = 1 << 20  # bytes


@dataclass(frozen=True)
class Service:
    """A served model of this node: the unit's instance, and the directory it reads."""

    name: str
    model: str


def blobs(root: Path) -> list[str]:
    """Names (SHA-256) of all blobs, in order.

    Raises:
        ApplianceError: there is no store, for example because its file system is not mounted.
    """
    base = root / "sha256"
    if not base.is_dir():
        raise ApplianceError(
            "there is no content to verify", where=str(base),
            remedy="Mount the store's file system, or run the install, which brings the content.",
        )  # fmt: skip
    return sorted(e.name for d in os.scandir(base) if d.is_dir(follow_symlinks=False) for e in os.scandir(d))


def names(views: Path) -> dict[int, list[str]]:
    """Every name below ``views`` by inode number, RELEASE/content/…: views are hard links, so these are a blob's users."""
    found: dict[int, list[str]] = {}
    for release in (
        sorted(p for p in views.iterdir() if p.is_dir() and not p.name.startswith(".")) if views.is_dir() else []
    ):
        for directory, _, files in os.walk(release):
            for file in files:
                path = Path(directory, file)
                found.setdefault(path.stat(follow_symlinks=False).st_ino, []).append(str(path.relative_to(views)))
    return found


def signed(trust: Path, pinned_root: bytes) -> Iterator[Trusted]:
    """The newest release of each name that this node trusts, by the signatures on the metadata it keeps.

    Its age is not judged: content does not rot because metadata expires.

    Raises:
        TrustError: the kept metadata is not signed by a root that this node knows.
    """
    memory = Memory(trust, pinned_root)
    known = set(memory.roots().values())
    for name in memory.names():
        state = memory.state(name)
        try:
            root, raw = (_read(state / file, most) for file, most in
                         (("root.json", CONFIG.root_max_length), ("targets.json", CONFIG.targets_max_length)))  # fmt: skip
            if root not in known:
                raise TrustError("its root is none that this node followed")
            targets = Metadata[Targets].from_bytes(raw)
            verified = Metadata[Root].from_bytes(root)
            verified.signed.verify_delegate("targets", targets.signed_bytes, targets.signatures)
        except FileNotFoundError:
            continue  # a first fetch that was refused leaves a directory without metadata
        except Exception as error:  # python-tuf raises many types on malformed input
            raise TrustError(
                f"the metadata that this node keeps cannot be trusted: {error}", where=str(state),
                remedy="Run the install again, which fetches it anew; if that repeats, suspect the node's disk.",
            ) from error  # fmt: skip
        yield listing(targets.signed, verified.signed.version, root)


def _read(path: Path, most: int) -> bytes:
    with path.open("rb") as file:
        return file.read(most + 1)


def strangers(views: Path, root: Path, release: Trusted) -> list[str]:
    """Names in the release's view that are not the blob that was signed under that name."""
    view = views / release.release
    wrong = []
    for entry in tree.walk(view) if view.is_dir() else ():
        target = release.targets.get(entry.path)
        blob = root / "sha256" / target.sha256[:2] / target.sha256 if target else None
        try:
            same = blob is not None and blob.stat().st_ino == (view / entry.path).stat(follow_symlinks=False).st_ino
        except FileNotFoundError:
            same = False  # the blob was set aside, or a fetch is under way
        if not same:
            wrong.append(f"{release.release}/{entry.path}")
    return sorted(wrong)


def services(directory: Path) -> list[Service]:
    """The served models of this node, from the configurations that the role vllm wrote."""
    return [Service(p.stem, model_of(p)) for p in sorted(directory.glob("*.yaml"))] if directory.is_dir() else []


def model_of(config: Path) -> str:
    """The directory of the model that a service is configured with; empty when it names none."""
    match = MODEL.search(_read(config, MAX_CONFIG).decode(errors="replace"))
    return str(json.loads(match[1])) if match else ""


def touched(paths: list[str], views: Path, serving: list[Service]) -> list[str]:
    """Services that read one of ``paths`` (relative to ``views``); a runtime's image is read by all."""
    absolute = [str(views / p) for p in paths]
    runtime = any("/content/runtimes/" in p for p in absolute)
    return [
        s.name for s in serving if runtime or any(s.model and p.startswith(s.model.rstrip("/") + "/") for p in absolute)
    ]
