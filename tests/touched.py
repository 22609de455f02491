"""Which tests a change touches, for `./run test --changed BASE`: what they import, and what they read or run.

Imports are followed through the whole project, those inside functions included. Tests that start the program, or boot nodes that a
bundle is installed on, depend on more than they import; RUN says on what. In doubt a test is run.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path

PACKAGES = ("installer", "engine", "tests")
# A change of these touches everything.
EVERYTHING = ("run", "pyproject.toml", "engine/pyproject.toml", "requirements/", "tests/conftest.py", ".ci/")
# Modules of tests/ that run the product on nodes or as a program; what uses them depends on all of it.
RUN = ("tests/demo.py", "tests/e2e/", "tests/nodes/", "tests/roles/", "tests/molecule/")
PRODUCT = ("installer/", "engine/", "roles/", "playbooks/", "inventories/", "bundles/")


def changed(tree: Path, base: str) -> set[str]:
    """Paths that differ from the commit ``base``, uncommitted and untracked ones included.

    Raises:
        ValueError: git does not know ``base``.
    """

    def git(*words: str) -> set[str]:
        done = subprocess.run(["git", *words], cwd=tree, capture_output=True, text=True, check=False)
        if done.returncode:
            raise ValueError(done.stderr.strip())
        return set(done.stdout.split("\0")) - {""}

    return git("diff", "--name-only", "-z", "--no-renames", base, "--") | git(
        "ls-files", "-z", "--others", "--exclude-standard"
    )


class Tree:
    """The project's modules and what they import."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def touches(self, paths: Iterable[str], nodeid: str) -> bool:
        """Whether a change of ``paths`` can change the outcome of the test."""
        paths = set(paths)
        module = nodeid.partition("::")[0]
        if any(_below(p, EVERYTHING) for p in paths):
            return True
        if role := re.search(r"\[([a-z_]+)-", nodeid) if module.startswith("tests/roles/") else None:
            roles = "roles/" if role[1] == "tests" else f"roles/{role[1]}/"  # a lab of tests/molecule brings several
            wanted = (
                roles,
                "engine/",
                "playbooks/",
                "tests/molecule/",
                "tests/roles/",
                "tests/rolecontent.py",
                "tests/moleculelab.py",
            )
            return any(_below(p, wanted) for p in paths)
        uses = self.uses(module)
        if any(_below(u, RUN) for u in uses):
            return any(_below(p, PRODUCT) or p in uses for p in paths)
        if uses & paths:
            return True
        named = {text for used in uses if used.startswith("tests/") for text in self._named[used]}
        if "installer" in named:  # it starts the program
            named |= {"engine"}
        return any(p.startswith(text) for p in paths for text in named)

    def uses(self, module: str) -> set[str]:
        """The module and everything it imports, as paths."""
        found, waiting = set[str](), [module]
        while waiting:
            path = waiting.pop()
            if path not in found:
                found.add(path)
                waiting += self._imports.get(path, ())
        return found

    @cached_property
    def _sources(self) -> dict[str, ast.Module]:
        files = [f for package in PACKAGES for f in sorted((self._root / package).rglob("*.py"))]
        return {str(f.relative_to(self._root)): ast.parse(f.read_text()) for f in files}

    @cached_property
    def _imports(self) -> Mapping[str, set[str]]:
        return {
            path: {t for n in ast.walk(source) for t in self._targets(path, n)}
            for path, source in self._sources.items()
        }

    @cached_property
    def _named(self) -> Mapping[str, set[str]]:
        """Files and directories of the project that a module names in a string; ``installer`` and ``engine`` are programs."""
        named: dict[str, set[str]] = {}
        for path, source in self._sources.items():
            texts = {
                n.value.strip("/") for n in ast.walk(source) if isinstance(n, ast.Constant) and isinstance(n.value, str)
            }
            named[path] = {t for t in texts if re.fullmatch(r"[\w.][\w./-]*", t) and (self._root / t).exists()}
            named[path] -= {"tests", "."}
        return named

    def _targets(self, path: str, node: ast.AST) -> Iterable[str]:
        if isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
        else:
            return
        for name in names:
            if name.split(".")[0] in PACKAGES:
                stem = name.replace(".", "/")
                yield from (
                    f for f in (f"{stem}.py", f"{stem}/__init__.py") if (self._root / f).is_file() and f != path
                )


def _below(path: str, places: Iterable[str]) -> bool:
    return any(path == p or (p.endswith("/") and path.startswith(p)) for p in places)
