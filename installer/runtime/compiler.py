"""A C and C++ compiler inside the image, so that nodes need none: GCC, binutils and headers of the locked Debian packages.

compiler/bin/               gcc, g++, cc, c++: what a program finds on its PATH
compiler/usr/, lib, lib64   the packages' files, which GCC sees as the whole system (gcc(1), --sysroot)
compiler/tools/             libraries that the compiler's own programs link; the C library is the node's
compiler/run/               libraries that what was compiled links, by its run path
compiler/specs              the run path, as GCC wants to be told (gcc(1), -specs)

GCC finds its parts beside itself, wherever it is mounted. Nothing of the node is read: neither headers nor libraries.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from installer.runtime import packages

DIRECTORY = "compiler"
FORMAT = 1  # raise it when the same packages shall give other files
# Debian's and Ubuntu's names; numbers and the processor are part of some.
PACKAGES = re.compile(
    r"""(gcc|g\+\+|cpp)(-\d+)?(-[a-z0-9-]+-linux-gnu)? | gcc-\d+-base
    | binutils(-common|-[a-z0-9-]+-linux-gnu)? | libbinutils | libctf(-nobfd)?0 | libsframe\d+
    | libisl\d+ | libmpc\d+ | libmpfr\d+ | libgmp\d+ | libzstd\d+ | zlib1g | libjansson\d+
    | libc6(-dev)? | linux-libc-dev | libcrypt1 | libcrypt-dev
    | libgcc-(s\d+|\d+-dev) | libstdc\+\+(\d+|-\d+-dev) | libgomp1 | libatomic1 | libquadmath0""",
    re.VERBOSE,
)
PARTS = ("bin", "include", "lib", "lib64", "libexec")
# Link-time optimisation, other languages, profilers, tables of character sets, and the archive of the interpreter.
SKIPPED = re.compile(r"lto1|lto-dump.*|gp-.*|gprofng.*|gcov.*|gconv|audit|libgprofng.*|config-3.*|libpython.*")
TOOLS = re.compile(r"lib(bfd|opcodes|ctf|sframe|isl|mpc|mpfr|gmp|zstd|z|jansson)\b.*\.so.*")
RUN = re.compile(r"lib(gomp|atomic|quadmath)\.so\.\d+")
# No path is in it: the image is mounted where nodes want it.
STARTS = """#!/bin/sh
here=$(dirname -- "$(dirname -- "$(realpath -- "$0")")")
export LD_LIBRARY_PATH="$here/tools"
exec "$here/usr/bin/{program}" --sysroot="$here" -B"$here/usr/bin" -specs="$here/specs" "$@"
"""
# The run path, for %R the root. On the command line it would count as something to link, and a header that is to be compiled would be linked.
SPECS = "*link:\n+ -rpath %R/run\n\n"
STARTED = {"gcc": "gcc", "cc": "gcc", "g++": "g++", "c++": "g++"}


def needed(python: str) -> tuple[str, ...]:
    """Names of packages without which nothing can be compiled for an interpreter, such as ``3.11``."""
    return ("g++", "gcc", "binutils", "libc6-dev", "linux-libc-dev", f"libpython{python}-dev")


def belongs(name: str, python: str) -> bool:
    """Whether a package is part of the compiler, or holds headers that it is asked for."""
    return bool(PACKAGES.fullmatch(name)) or name == f"libpython{python}-dev"


def lay_out(roots: Sequence[Path], place: Path) -> None:
    """Make ``compiler/`` below ``place`` from packages that were unpacked below a root each."""
    top = place / DIRECTORY
    for root in roots:
        for above in (root / "usr", root):  # a distribution that moved /lib below /usr still has packages from before
            for part in PARTS:
                if (above / part).is_dir() and not (above / part).is_symlink():
                    _take(above / part, top / "usr" / part, top)
    for part in ("lib", "lib64"):
        if (top / "usr" / part).is_dir():
            (top / part).symlink_to(f"usr/{part}")
    for kind, names in (("tools", TOOLS), ("run", RUN)):
        (top / kind).mkdir()
        for library in sorted((top / "usr/lib").glob("*-linux-gnu/lib*.so*")):
            if names.fullmatch(library.name):
                (top / kind / library.name).symlink_to(os.path.relpath(library, top / kind))
    (top / "specs").write_text(SPECS)
    (top / "bin").mkdir()
    for name, program in STARTED.items():
        (top / "bin" / name).write_text(STARTS.format(program=program))
        (top / "bin" / name).chmod(0o755)


def _take(source: Path, destination: Path, top: Path) -> None:
    """Copy files, and links that lead to places inside; an absolute one means the packages' own root."""
    for here, directories, files in os.walk(source):
        place = destination / Path(here).relative_to(source)
        place.mkdir(parents=True, exist_ok=True)
        links = [d for d in directories if (Path(here) / d).is_symlink()]
        directories[:] = [d for d in directories if d not in links and not SKIPPED.fullmatch(d)]
        for name in sorted(files + links):
            path = Path(here) / name
            if SKIPPED.fullmatch(name):
                continue
            if not path.is_symlink():
                packages.copy(path, place / name)
            elif target := _inside(path.readlink(), place, top):
                (place / name).unlink(missing_ok=True)
                (place / name).symlink_to(target)


def _inside(target: Path, place: Path, top: Path) -> str:
    """What a link in ``place`` says so that it leads to the same file below ``top``; empty when it leads out of it."""
    parts = target.parts[1:] if target.is_absolute() else ()
    if parts and parts[0] in ("lib", "lib64"):
        parts = ("usr", *parts)
    path = Path(os.path.normpath(top.joinpath(*parts) if parts else place / target))
    return os.path.relpath(path, place) if path.is_relative_to(top) else ""
