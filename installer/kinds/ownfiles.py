"""Which files this product's own wheels are made of: what git tracks in the checkout, and nothing else that lies there.

A checkout is where people work. Beside the product's files lie inventories of sites, SSH keys and passwords of vaults, and whatever is
packed is signed and crosses the gap.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from engine import tree
from engine.bounds import Bounds
from engine.errors import ResourceError, TrustError
from engine.process import ProcessError, run
from engine.report import Report, printable
from installer.lockfile import Product

# What the wheels are built from. Everything else of a checkout (tests, docs, definitions) is not looked at.
BELOW = ("engine", "installer", "inventories", "playbooks", "requirements", "roles")
FILES = (".gitignore", "LICENSE", "README.md", "pyproject.toml")
NAMED = 5  # files that are named on the screen
# The checkout's own configuration and hooks have no say, and neither have those of the user or the system: the same tree gives the same
# list for everyone. `safe.directory`, because the code that runs here comes from this tree already, whoever owns it.
SETTINGS = ("core.fsmonitor=false", "core.hooksPath=/dev/null", "core.quotePath=false")
GIT = Bounds(memory=2 << 30, time_s=300.0)
ENVIRONMENT = {"GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1", "GIT_OPTIONAL_LOCKS": "0"}
PLAIN = {"100644": 0o644, "100755": 0o755}  # git's modes of plain files, and the mode that a copy gets


@dataclass(frozen=True)
class Sources:
    """The checkout as git sees it.

    Attributes:
        files: what is tracked, by path, with the mode of a copy.
        product: the commit, and tracked files that are not as committed; it goes into the lock and the provenance.
        untracked: files that lie beside them and are left out; those that git ignores are not among them.
    """

    checkout: Path
    files: dict[str, int]
    product: Product
    untracked: tuple[str, ...] = ()


def read(checkout: Path) -> Sources:
    """Ask git.

    Raises:
        ResourceError: git is not installed, or the tree is not a repository of its own, so that nobody knows which files belong to it.
        TrustError: it tracks something that is not a plain file, or a merge has not ended.
    """
    _require_repository(checkout)
    files, deleted = {}, set()
    for entry in _listed(checkout, "ls-files", "-z", "--cached", "--stage"):
        about, _, path = entry.partition("\t")
        mode, _, stage = about.split()
        if stage != "0":
            raise TrustError("a merge in this file has not ended", where=path, remedy="Resolve it and commit.")
        if mode not in PLAIN:
            raise TrustError(
                "git tracks a link or a submodule here, and only plain files are packed",
                where=path,
                remedy="Replace it with a plain file.",
            )
        if os.path.lexists(checkout / path):
            files[path] = PLAIN[mode]
        else:
            deleted.add(path)
    changed, untracked = set(deleted), list[str]()
    for entry in _listed(
        checkout, "status", "-z", "--porcelain=v1", "--no-renames", "--untracked-files=all", "--ignore-submodules=none"
    ):
        (untracked.append if entry.startswith("??") else changed.add)(entry[3:])
    return Sources(checkout, files, Product(commit=_commit(checkout), changed=tuple(sorted(changed))), tuple(untracked))


def say(sources: Sources, report: Report) -> None:
    """Tell people that the tree is not what its commit says, and what is left out."""
    if changed := sources.product.changed:
        report.say(
            f"{len(changed)} files of this checkout are not as committed, and are packed as they are: {_some(changed)}. "
            "The lock and the provenance record this."
        )
    if sources.untracked:
        report.say(
            f"{len(sources.untracked)} files that git does not track are left out of the product's wheels: {_some(sources.untracked)}"
        )


def copy(sources: Sources, destination: Path) -> None:
    """Write the tracked files below ``destination``, with modes that do not depend on this host. No link is followed.

    Raises:
        TrustError: a tracked file, or a directory on the way to it, was replaced with a link or with something that is not a file.
    """
    for path, mode in sources.files.items():
        target = destination / path
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            source = tree.open_beneath(sources.checkout, path)
        except (TrustError, FileNotFoundError) as error:
            raise TrustError(
                "a file that git tracks is a link, below a link, or not a plain file",
                where=str(sources.checkout / path),
                remedy=f"Restore it: git checkout -- {printable(path, '')}",
            ) from error
        with source, target.open("wb") as file:
            shutil.copyfileobj(source, file)
        target.chmod(mode)


def _some(paths: tuple[str, ...]) -> str:
    shown = ", ".join(printable(p, "") for p in paths[:NAMED])
    return f"{shown} and {len(paths) - NAMED} more" if len(paths) > NAMED else shown


def _require_repository(checkout: Path) -> None:
    """A tree within another repository has no list of its own: that one may track anything of its owner."""
    try:
        top = _git(checkout, "rev-parse", "--show-toplevel").removesuffix("\n")
    except ProcessError as error:
        why = error.stderr.strip().removeprefix("fatal: ") or "it has no git repository"
    else:
        if Path(top).resolve() == checkout.resolve():
            return
        why = f"it belongs to the repository {top}"
    raise ResourceError(
        f"nobody can say which files of this tree belong to appliance: {why}",
        where=str(checkout),
        remedy="Build from a clone (`git clone`), or from an installed copy of appliance; only tracked files are packed.",
    )


def _commit(checkout: Path) -> str:
    """The commit in force; empty before the first one."""
    try:
        return _git(checkout, "rev-parse", "--verify", "--quiet", "HEAD^{commit}").strip()
    except ProcessError:
        return ""


def _listed(checkout: Path, *words: str) -> list[str]:
    return [e for e in _git(checkout, *words, "--", *BELOW, *FILES).split("\0") if e]


def _git(checkout: Path, *words: str) -> str:
    options = [o for s in (f"safe.directory={checkout.resolve()}", *SETTINGS) for o in ("-c", s)]
    return run(
        ["git", *options, "-C", checkout, *words], env=ENVIRONMENT, inherit=False, package="git", bounds=GIT
    ).stdout
