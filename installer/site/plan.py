"""What an install would do, as one document that people can review and a digest can name. Pure.

The digest covers what would be done: releases, the content that comes, tasks that would change something, files and how they change,
batches. Estimates are outside it: they move without anybody changing anything.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from engine.trust import Target
from installer.site.placed import Placed

SCHEMA = 1
# Files whose text people review. Of any other only that it changes: configurations may hold what is not for a change record.
SHOWN = (
    "/etc/appliance/firewall/",
    "/etc/appliance/gateway/gateway.yml",  # not of an encrypted tenants file: the role shows no difference then
    "/etc/appliance/nginx/",
    "/etc/systemd/system/",
    "/etc/appliance/apt",
    "/etc/apt/preferences.d/",
)
MAX_DIFF = 20_000  # characters of one file
DRIVER = ("nvidia", "libnvidia", "libcuda", "cuda-", "firmware-nvidia", "xserver-xorg-video-nvidia")


@dataclass(frozen=True)
class FileChange:
    """A file that would change. ``diff`` is empty for files that are not shown; ``digest`` is over both texts."""

    path: str
    digest: str
    diff: str = ""


@dataclass(frozen=True)
class NodePlan:
    """One node.

    Attributes:
        before: its release; empty when it has none.
        tasks: what would report a change, `role: task`.
        fetch_bytes: content that would travel to it.
        leaves: services that it takes out of service while it changes.
        services: replicas that it runs afterwards, and with what.
    """

    node: str
    before: str
    tasks: tuple[str, ...] = ()
    files: tuple[FileChange, ...] = ()
    fetch_bytes: int = 0
    leaves: tuple[str, ...] = ()
    reboot: bool = False
    services: tuple[Placed, ...] = ()
    blind: bool = False  # nothing is installed yet, so the dry run sees only the first steps

    @property
    def certificate(self) -> bool:
        return any(t.startswith("pki: ") for t in self.tasks)


@dataclass(frozen=True)
class ContentChange:
    """Something of the release that changes: packages, driver, models, runtimes. Versions are empty where there is none."""

    kind: str
    name: str
    before: str
    after: str


@dataclass(frozen=True)
class Plan:
    """The whole change. ``content_sha256`` is that of the release's signed list of content."""

    release: str
    content_sha256: str
    nodes: tuple[NodePlan, ...]
    batches: tuple[tuple[str, ...], ...]
    content: tuple[ContentChange, ...] = ()
    policy: Mapping[str, Any] = field(default_factory=dict)

    @property
    def changes(self) -> bool:
        return any(n.tasks or n.blind for n in self.nodes)

    def data(self) -> dict[str, Any]:
        """The document."""
        return {"schema": SCHEMA, **asdict(self)}

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON of the document."""
        return hashlib.sha256(json.dumps(self.data(), sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def file_change(path: str, before: str, after: str) -> FileChange:
    """One file, with its unified diff if it is one that people review."""
    digest = hashlib.sha256(f"{len(before)} ".encode() + before.encode() + after.encode()).hexdigest()
    if not path.startswith(SHOWN):
        return FileChange(path, digest)
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), f"{path} (now)", f"{path} (then)", lineterm="", n=2
    )
    text = "\n".join(lines)
    return FileChange(
        path, digest, text if len(text) <= MAX_DIFF else f"{text[:MAX_DIFF]}\n… {len(text) - MAX_DIFF} characters more"
    )


def content_changes(before: Mapping[str, Target] | None, after: Mapping[str, Target]) -> tuple[ContentChange, ...]:
    """What a release brings that the other does not have, by package, model and runtime."""
    old, new = _named(before or {}), _named(after)
    found = [
        ContentChange(kind, name, old.get((kind, name), ""), new.get((kind, name), ""))
        for kind, name in sorted(old.keys() | new.keys())
        if old.get((kind, name)) != new.get((kind, name))
    ]
    return tuple(found) if before is not None else tuple(c for c in found if c.kind in ("driver", "model", "runtime"))


def differences(mine: Plan, theirs_digest: str) -> str:
    """Why a plan is not the one that was approved; empty when it is."""
    if mine.digest == theirs_digest.removeprefix("sha256:"):
        return ""
    return f"the plan of now is sha256:{mine.digest}, not sha256:{theirs_digest.removeprefix('sha256:')}"


def _named(targets: Mapping[str, Target]) -> dict[tuple[str, str], str]:
    """Version of everything that has a name: packages by version, models and runtimes by a digest over their files."""
    found: dict[tuple[str, str], str] = {}
    trees: dict[tuple[str, str], list[str]] = {}
    for path, target in sorted(targets.items()):
        parts = PurePosixPath(path).parts
        if len(parts) < 3 or parts[0] != "content":
            continue
        if parts[1] == "debs" and path.endswith(".deb"):
            name, _, rest = parts[-1].partition("_")
            found["driver" if name.startswith(DRIVER) else "package", name] = rest.rpartition("_")[0].replace(
                "%3a", ":"
            )
        elif parts[1] in ("models", "runtimes", "images", "wheels", "installer"):
            kind = {
                "models": "model",
                "runtimes": "runtime",
                "images": "image",
                "wheels": "wheels",
                "installer": "installer",
            }[parts[1]]
            trees.setdefault((kind, parts[2]), []).append(f"{path} {target.sha256}")
    for key, lines in trees.items():
        found[key] = hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
    return found


def batches_of(plan: Plan) -> Sequence[Sequence[str]]:
    """Batches without the nodes that nothing would change on."""
    busy = {n.node for n in plan.nodes if n.tasks or n.blind}
    return [[n for n in batch if n in busy] for batch in plan.batches if any(n in busy for n in batch)]
