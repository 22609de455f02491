"""Debian packages unpacked as files, each under a root of its own, so that none decides where another's files go.

A name in a package never becomes a path: each part is opened below the part before it, by descriptor and without following links. That, and
dpkg-deb, which takes the package apart, happen in a process of their own in the best sandbox there is (`installer.sandbox`).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import stat
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path

from engine.bounds import Bounds, BoundsError
from engine.errors import ApplianceError, Exit, TrustError
from engine.process import run
from installer import debfile, sandbox, tarstream, unpack
from installer.lockfile import Artifact
from installer.sandbox import enter

MEMORY = 1 << 30  # bytes for dpkg-deb and Python
TIME_S = 600.0
DEEPEST = 64  # directories in each other
LONGEST, LONGEST_TARGET = 255, 4096  # bytes of one name (NAME_MAX), and of a link's target (PATH_MAX)
# A distribution that moved these below /usr ships them as links in one package, and packages built before name files below them.
USRMERGE = frozenset({"bin", "sbin", "lib", "lib32", "lib64", "libx32", "libo32"})
REMEDY = "Do not use this package: lock again from a sound source."


def unpack_each(packages: Sequence[Artifact], files: Sequence[Path], scratch: Path) -> list[Path]:
    """Unpack every package under ``scratch``; returns their roots, in the same order. Nothing of them is executed.

    Args:
        files: where each package lies; its hash was compared.
        scratch: an existing directory.

    Raises:
        TrustError: a package is damaged, too large, or writes through a link; or two of them do not go together.
    """
    roots, scratch = [], scratch.resolve()  # inside, there are no links that lead here
    for number, (package, file) in enumerate(zip(packages, files, strict=True)):
        name = package.path.rsplit("/", 1)[-1]
        root, place = scratch / f"package-{number}", scratch / f"sandbox-{number}"
        root.mkdir(mode=0o755)
        place.mkdir()
        _unpack_apart(file, name, root, place)
        place.rmdir()
        roots.append(root)
    require_together({p.path.rsplit("/", 1)[-1]: listing(root) for p, root in zip(packages, roots, strict=True)})
    return roots


def _unpack_apart(file: Path, name: str, root: Path, place: Path) -> None:
    way = sandbox.reaching(sandbox.best(), [root])
    limit = unpack.allowance(file.stat().st_size)
    bounds = Bounds(memory=MEMORY, file=limit, directory=root, disk=limit + unpack.FLOOR, time_s=TIME_S)
    argv: list[str | Path] = [sys.executable, "-I", "-m", __name__, way, "--name", name, "--place", place, file, root]
    try:
        done = run(argv, inherit=False, ok=(0, Exit.UNTRUSTED), bounds=bounds)
    except BoundsError as error:
        raise TrustError(f"it cannot be unpacked within bounds: {error.what}", where=name, remedy=REMEDY) from error
    if done.returncode:
        raise TrustError(str(json.loads(done.stdout)["what"]), where=name, remedy=REMEDY)


Listing = Mapping[str, str]  # path without a leading slash: "directory", "file", or "link to TARGET"


def listing(root: Path) -> dict[str, str]:
    """What is below ``root``; links are not followed."""
    found = {}
    for here, directories, files in os.walk(root):
        for entry in (*directories, *files):
            path = Path(here) / entry
            mode = path.lstat().st_mode
            kind = "directory" if stat.S_ISDIR(mode) else f"link to {path.readlink()}" if stat.S_ISLNK(mode) else "file"
            found[str(path.relative_to(root))] = kind
    return found


def require_together(packages: Mapping[str, Listing]) -> None:
    """One tree can hold all of them: no file of one lies below a link of another, and none is there twice. Pure.

    Raises:
        TrustError: names both packages and the path.
    """
    owners: dict[str, dict[str, str]] = {}  # path: package: kind
    for name, entries in packages.items():
        for path, kind in entries.items():
            owners.setdefault(path, {})[name] = kind
    for path, kinds in owners.items():
        if len(kinds) > 1 and not all(_harmless(path, kind) for kind in kinds.values()):
            (one, first), (two, second), *_ = kinds.items()
            raise TrustError(f"{path} is a {second} here and a {first} in {one}", where=two, remedy=REMEDY)
        parts = path.split("/")
        for above in ("/".join(parts[:n]) for n in range(1, len(parts))):
            for other, kind in owners.get(above, {}).items():
                if not _harmless(above, kind):
                    what = f"{path} would be written through {above}, which is a {kind} in {other}"
                    raise TrustError(what, where=next(iter(kinds)), remedy=REMEDY)


def _harmless(path: str, kind: str) -> bool:
    """Whether files of other packages may lie below it."""
    return kind == "directory" or _usrmerge(path, kind)


def _usrmerge(path: str, kind: str) -> bool:
    return path in USRMERGE and kind in (f"link to usr/{path}", f"link to /usr/{path}")


def extract(members: tarstream.Reader, root: int) -> None:
    """Write every member below the directory ``root`` (a descriptor). What is there is never replaced, and no link followed.

    Raises:
        TrustError: a member leads elsewhere, is there twice, or is neither file, directory nor link.
    """
    for member in members:
        parts = [p for p in member.name.split("/") if p not in ("", ".")]
        if not parts:
            continue  # the root itself
        _require_name(parts, member.name)
        try:
            if member.kind == "directory":
                os.close(_directory(root, parts, make=True))
                continue
            above = _directory(root, parts[:-1], make=True)
        except OSError as error:
            raise TrustError(
                f"{_shown(member.name)} lies below something that is not a directory of this package"
            ) from error
        try:
            _write(members, member, above, parts[-1], root)
        except FileExistsError as error:
            raise TrustError(f"{_shown(member.name)} is there twice") from error
        finally:
            os.close(above)


def _write(members: tarstream.Reader, member: tarstream.Member, above: int, name: str, root: int) -> None:
    if member.kind == "link":
        if not 0 < len(os.fsencode(member.target)) < LONGEST_TARGET or "\0" in member.target:
            raise TrustError(f"{_shown(member.name)} is a link to nothing that can be a path")
        os.symlink(member.target, name, dir_fd=above)
    elif member.kind == "file":
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, 0o755 if member.mode & 0o111 else 0o644, dir_fd=above), "wb") as file:
            while data := members.read(unpack.BUFFER):
                file.write(data)
    elif member.kind == "hardlink":
        _hard_link(member, above, name, root)
    else:
        raise TrustError(f"{_shown(member.name)} is neither a file, a directory nor a link")


def _hard_link(member: tarstream.Member, above: int, name: str, root: int) -> None:
    parts = [p for p in member.target.split("/") if p not in ("", ".")]
    _require_name(parts or [".."], member.target)
    try:
        source = _directory(root, parts[:-1])
        try:
            if not stat.S_ISREG(os.stat(parts[-1], dir_fd=source, follow_symlinks=False).st_mode):
                raise OSError
            os.link(parts[-1], name, src_dir_fd=source, dst_dir_fd=above, follow_symlinks=False)
        finally:
            os.close(source)
    except FileExistsError:
        raise
    except OSError as error:
        raise TrustError(
            f"{_shown(member.name)} is another name of {_shown(member.target)}, which is not a file of this package"
        ) from error


def _directory(root: int, parts: Sequence[str], *, make: bool = False) -> int:
    """A descriptor of the directory, each part opened below the one before it.

    Raises:
        OSError: a part is a link or a file, or is not there and shall not be made.
    """
    here = os.dup(root)
    for part in parts:
        try:
            if make:
                with suppress(FileExistsError):
                    os.mkdir(part, 0o755, dir_fd=here)
            below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=here)
        finally:
            os.close(here)
        here = below
    return here


def _require_name(parts: Sequence[str], name: str) -> None:
    if ".." in parts or "\0" in name or len(parts) > DEEPEST or any(len(os.fsencode(p)) > LONGEST for p in parts):
        raise TrustError(f"{_shown(name)} is not a path inside of a package")


def _shown(name: str) -> str:
    return ascii(name[:160])


def open_inside(root: int, path: str) -> int:
    """A descriptor of the regular file at ``path`` below the directory ``root``, no link followed in any part of it.

    Raises:
        OSError: it is not there, or is not a regular file.
    """
    *above, name = path.split("/")
    directory = _directory(root, above)
    try:
        # Not blocking: a pipe in its place would wait for a writer.
        found = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    finally:
        os.close(directory)
    if not stat.S_ISREG(os.fstat(found).st_mode):
        os.close(found)
        raise OSError(f"{path} is not a regular file")
    return found


def copy(source: Path, destination: Path) -> None:
    """A regular file as a new one: a link at either end is not followed, what is at ``destination`` is replaced.

    Raises:
        OSError: the source is not a regular file.
    """
    destination.unlink(missing_ok=True)
    fd = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with closing(os.fdopen(fd, "rb")) as data:
        about = os.fstat(fd)
        if not stat.S_ISREG(about.st_mode):
            raise OSError(f"{source} is not a regular file")
        mode = 0o755 if about.st_mode & 0o111 else 0o644
        with os.fdopen(os.open(destination, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            shutil.copyfileobj(data, file, unpack.BUFFER)


def main(argv: list[str]) -> int:
    """Unpack one package in the sandbox. A refusal is one JSON document on standard output, with exit code 3."""
    parser = argparse.ArgumentParser(prog="packages")
    parser.add_argument("way")
    parser.add_argument("--name", required=True)
    parser.add_argument("--place", type=Path, required=True)
    parser.add_argument("deb", type=Path)
    parser.add_argument("root", type=Path)
    options = parser.parse_args(argv)
    # Opened here: inside, there is no path to it, and the user there need not be able to read it.
    os.dup2(os.open(options.deb, os.O_RDONLY), 0)
    size = options.deb.stat().st_size

    def work() -> int:
        root = os.open(options.root, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with debfile.files_of_input(size, options.name) as members:
                extract(members, root)
        except ApplianceError as error:
            sys.stdout.write(json.dumps({"what": error.what}) + "\n")
            return Exit.UNTRUSTED
        return 0

    os.umask(0o022)
    return enter.inside(options.way, options.place, [], [str(options.root)], work)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
