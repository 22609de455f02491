"""Fuzz target of the one reader of metadata: a directory of any names, kinds and lengths, which changes while it is read."""

from __future__ import annotations

import functools
import os
import shutil
import tempfile
from pathlib import Path

from engine import metadata, tree
from engine.errors import ApplianceError, TrustError
from tests.fuzz.targets import FuzzTarget

NAMES = (
    "1.root.json", "2.root.json", "timestamp.json", "snapshot.json", "targets.json", "patches.json", "01.root.json", "0.root.json",
    "1000000.root.json", "1.ROOT.json", "root.json", "targets.json ", "TARGETS.JSON", "id_rsa", ".targets.json", "é.json",
)  # fmt: skip
KINDS = ("file", "empty", "long", "link", "directory", "special", "gone", "exchanged")


@functools.cache
def _place() -> Path:
    """In memory where the machine has that: a run makes millions of small files."""
    memory = Path("/dev/shm")  # noqa: S108  a directory of its own below it
    holder = tempfile.TemporaryDirectory(prefix="appliance-fuzz-", dir=memory if os.access(memory, os.W_OK) else None)
    _kept.append(holder)
    return Path(holder.name)


_kept: list[tempfile.TemporaryDirectory[str]] = []


def reader(data: bytes) -> None:
    """Two bytes a file: its name and what it is; what is left over is their content.

    What comes back are whole files under names that metadata has, no longer than allowed; everything else there is named and was not
    opened; a link is never followed.
    """
    count = min(data[0] % 8, (len(data) - 1) // 2) if data else 0
    plan = {NAMES[data[1 + 2 * i] % len(NAMES)]: KINDS[data[2 + 2 * i] % len(KINDS)] for i in range(count)}
    body = data[1 + 2 * count :]
    bundle, secret = _place() / "bundle", _place() / "secret"
    shutil.rmtree(bundle, ignore_errors=True)
    directory = bundle / metadata.DIRECTORY
    directory.mkdir(parents=True)
    secret.write_bytes(b"secret")
    for name, kind in plan.items():
        _make(directory / name, kind, body, secret)
    later = {n for n, k in plan.items() if k in ("gone", "exchanged")}
    opened = tree.open_beneath

    def changing(root: Path, path: str) -> object:
        for name in later:
            (directory / name).unlink(missing_ok=True)
            if plan[name] == "exchanged":
                (directory / name).symlink_to(secret)
        return opened(root, path)

    tree.open_beneath = changing  # type: ignore[assignment]
    try:
        files = metadata.read(bundle)
    except TrustError:
        bad = {"long", "link", "directory", "special", "exchanged"}
        assert any(k in bad and _is_metadata(n) for n, k in plan.items())
        return
    except ApplianceError as error:
        raise AssertionError(f"a directory that is there: {error}") from error
    finally:
        tree.open_beneath = opened
    for name, content in files.content.items():
        assert _is_metadata(name)
        assert content == (body if plan[name] == "file" else b"")
    assert {s.name for s in files.strangers} == {n for n in plan if not _is_metadata(n)}
    assert all(1 <= version < 1_000_000 for version in files.roots)


def _is_metadata(name: str) -> bool:
    return name in {"1.root.json", "2.root.json", "timestamp.json", "snapshot.json", "targets.json", "patches.json"}


def _make(path: Path, kind: str, body: bytes, secret: Path) -> None:
    if kind == "link":
        path.symlink_to(secret)
    elif kind == "directory":
        path.mkdir()
    elif kind == "special":
        os.mkfifo(path)
    elif kind == "long":
        with path.open("wb") as file:
            file.truncate(metadata.LENGTHS.get(path.name, metadata.ROOT_LENGTH) + 1)
    else:
        path.write_bytes(body if kind == "file" else b"")


TARGETS: dict[str, FuzzTarget] = {
    "metadata_reader": FuzzTarget(
        reader, lambda: [bytes([7, *(b for i in range(7) for b in (i, i)), *b"{}"]), bytes([3, 0, 0, 2, 0, 4, 7, 0x7B])]
    ),
}
