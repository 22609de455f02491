"""The product's own wheels, made again from an installed copy: exactly the files that its RECORD lists, with the hashes it gives.

What else lies in the installation's directories (files that were put there later, compiled modules, what an installer writes about
itself) is not in the wheel.
"""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import stat
import time
import zipfile
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from engine import tree
from engine.errors import ResourceError, TrustError

# What an installer adds beside what was in the wheel.
ADDED = frozenset({"INSTALLER", "REQUESTED", "RECORD", "direct_url.json", "uv_build.json", "uv_cache.json"})
ZIP_BEGINS = 315532800  # seconds since 1970; a zip file has no earlier times
AGAIN = "Install appliance again from wheels, not from a checkout (`pip install -e`), or build from a clone."


def make(name: str, module: Path, out: Path, epoch: int) -> Path:
    """Write the wheel of the installed distribution ``name`` into ``out``; the same bytes for the same installation.

    Args:
        module: a file of it that this process runs, so that no other installation is taken.
        epoch: seconds since 1970 for every file's time.

    Raises:
        ResourceError: it is not installed from a wheel.
        TrustError: an installed file is not what the wheel held.
    """
    try:
        found = distribution(name)
    except PackageNotFoundError as error:
        raise ResourceError(f"{name} is not installed", where=str(module), remedy=AGAIN) from error
    base = Path(str(found.locate_file(""))).resolve()
    files = {path: _read(base, path, sha256) for path, sha256 in sorted(_recorded(found, module.parent.name).items())}
    if not module.resolve().is_relative_to(base) or str(module.resolve().relative_to(base)) not in files:
        raise ResourceError(f"what runs here is not the installed {name}", where=str(module), remedy=AGAIN)
    about = next(p.split("/")[0] for p in files if p.endswith(".dist-info/WHEEL"))
    files[f"{about}/RECORD"] = _record(files, about)
    tag = next(
        line.removeprefix("Tag: ") for line in files[f"{about}/WHEEL"].decode().splitlines() if line.startswith("Tag: ")
    )
    out.mkdir(parents=True, exist_ok=True)
    wheel = out / f"{about.removesuffix('.dist-info')}-{tag}.whl"
    when = time.gmtime(max(epoch, ZIP_BEGINS))[:6]
    with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
        # The description last, as wheels have it.
        for path, data in sorted(files.items(), key=lambda f: (f[0].startswith(f"{about}/"), f[0])):
            entry = zipfile.ZipInfo(path, when)
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, (stat.S_IFREG | 0o644) << 16
            archive.writestr(entry, data)
    return wheel


def _recorded(found: Distribution, package: str) -> dict[str, str]:
    """SHA-256 in RECORD's own form of every file that was in the wheel, by path: the package's and what is said about it.

    Scripts are neither; an installer makes them from the wheel's entry points.
    """
    listed = {}
    for path, digest, *_ in csv.reader(io.StringIO(found.read_text("RECORD") or "")):
        about = ".dist-info/" in path
        if not (path.startswith(f"{package}/") or about or path.endswith(".pth")) or path.endswith(".pyc"):
            continue
        if about and path.rpartition("/")[2] in ADDED:
            continue
        if not digest.startswith("sha256=") or path.endswith(".pth"):
            raise ResourceError("the installed copy does not list its files with hashes", where=path, remedy=AGAIN)
        listed[path] = digest.removeprefix("sha256=")
    if not any(p.endswith(".dist-info/WHEEL") for p in listed):
        raise ResourceError(
            "the installed copy has no list of its files", where=str(found.locate_file("")), remedy=AGAIN
        )
    return listed


def _read(base: Path, path: str, sha256: str) -> bytes:
    try:
        with tree.open_beneath(base, path) as file:
            data = file.read()
    except (TrustError, FileNotFoundError) as error:
        raise TrustError("an installed file is missing or a link", where=str(base / path), remedy=AGAIN) from error
    if _digest(data) != sha256:
        raise TrustError("an installed file was changed", where=str(base / path), remedy=AGAIN)
    return data


def _record(files: dict[str, bytes], about: str) -> bytes:
    """RECORD as the wheel has it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([path, f"sha256={_digest(data)}", len(data)] for path, data in sorted(files.items()))
    writer.writerow([f"{about}/RECORD", "", ""])
    return text.getvalue().encode()


def _digest(data: bytes) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
