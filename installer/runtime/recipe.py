"""What a runtime image is made from. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from engine.errors import InputError
from installer.definition import Definition, Target
from installer.kinds import debevidence
from installer.lockfile import Artifact, Lock
from installer.runtime import compiler

FORMAT = 3  # raise it when the same inputs shall give another tree or image
DIRECTORY = "runtimes"  # below content/
WHEELS = ":wheels"  # ends the profile of nodes that install wheels although there is an image of them
# The image says nothing of when it was made: two releases with the same wheels share it.
EPOCH = 315532800  # 1980-01-01, the first day that every archive format knows


@dataclass(frozen=True)
class Recipe:
    """The inputs of one image.

    Attributes:
        name: the wheel set.
        target: operating system, processor and Python that the wheels were resolved for.
        wheels: all wheels of the set, in order of their paths.
        packages: the interpreter's Debian packages; empty when the node's own interpreter runs it.
        compiler: the Debian packages of the C and C++ compiler and of all headers; empty when the image has none.
    """

    name: str
    target: Target
    wheels: tuple[Artifact, ...]
    packages: tuple[Artifact, ...]
    profiles: tuple[str, ...]
    compiler: tuple[Artifact, ...] = ()

    @property
    def path(self) -> str:
        """Where the image lies in the bundle."""
        return f"content/{DIRECTORY}/{self.name}.squashfs"

    def key(self, tools: Mapping[str, str]) -> str:
        """A name for what comes out: equal inputs and equal ``tools`` (name to version) give equal bytes."""
        told = {
            "format": FORMAT,
            "target": [self.target.os, self.target.arch, self.target.python],
            "wheels": [[a.path.rsplit("/", 1)[-1], a.sha256] for a in self.wheels],
            "packages": [[a.name, a.sha256] for a in self.packages],
            "tools": dict(tools),
        }
        if self.compiler:
            told["compiler"] = [compiler.FORMAT, *([a.name, a.sha256] for a in self.compiler)]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def recipes(definition: Definition, lock: Lock) -> tuple[Recipe, ...]:
    """The images that a definition asks for, in order of their names.

    Raises:
        InputError: an image shall hold its interpreter or a compiler, and the lock has no packages of it.
    """
    made = []
    for wheels in definition.wheels:
        if wheels.runtime:
            packages = _interpreter(wheels.name, definition.target.python, lock) if wheels.runtime == "debs" else ()
            inside = tuple(a for a in lock.of_kind("wheels") if a.group == wheels.name)
            builds = _compiler(wheels.name, definition.target.python, lock) if wheels.compiler else ()
            made.append(Recipe(wheels.name, definition.target, inside, packages, wheels.profiles, builds))
    return tuple(sorted(made, key=lambda r: r.name))


def _compiler(name: str, python: str, lock: Lock) -> tuple[Artifact, ...]:
    found = {a.name: a for a in lock.of_kind("debs") if not debevidence.is_evidence(a)}
    if missing := [n for n in compiler.needed(python) if n not in found]:
        raise InputError(
            f"wheels: {name}: compiler: the lock has no {', '.join(missing)}",
            remedy="Add g++ and python3-dev to debs.groups for the same profiles, or leave compiler out.",
        )
    return tuple(found[n] for n in sorted(found) if compiler.belongs(n, python))


def _interpreter(name: str, python: str, lock: Lock) -> tuple[Artifact, ...]:
    by_name = {a.name: a for a in lock.of_kind("debs") if not debevidence.is_evidence(a)}
    needed, useful = interpreter_packages(python)
    missing = [n for n in needed if n not in by_name]
    if missing:
        raise InputError(
            f"wheels: {name}: runtime: the lock has no {', '.join(missing)}",
            remedy=f"Add python{python} to debs.groups for the same profiles, or set runtime: node to use the node's own.",
        )
    return tuple(by_name[n] for n in (*needed, *useful) if n in by_name)


def interpreter_packages(python: str) -> tuple[Sequence[str], Sequence[str]]:
    """Names of the packages that are an interpreter, and of those taken too where they are there (headers)."""
    return (
        (f"libpython{python}-minimal", f"libpython{python}-stdlib", f"python{python}-minimal"),
        (f"libpython{python}-dev",),
    )
