"""What `verify` would refuse, found before anything is fetched or signed; and a look at the whole result with `verify`'s own eyes.

A bundle is refused far away, by people who cannot repair it. Whatever is known here is said here.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from engine import metadata, tree, trust, verify
from engine.errors import ApplianceError, InputError, TrustError
from engine.memory import require_follows
from engine.report import Report
from installer.trust.keys import KeyStore, read_root

if TYPE_CHECKING:
    from tuf.api.metadata import Root

CONTENT = "content/"  # before every path of a lock


def require_roots(keys: KeyStore, now: datetime, days: int, report: Report) -> None:
    """The root of trust is in force, and every root leads to the next; clients walk the whole chain.

    Args:
        days: how long the release is to be valid; said when the root ends before.

    Raises:
        TrustError: clients would refuse the root, and with it every release.
    """
    chain = keys.root_chain()
    roots = {number: read_root(data, _name(keys, number)) for number, data in sorted(chain.items())}
    last = max(roots, default=0)
    if not roots or last - min(roots) + 1 != len(roots) or chain[last] != keys.root_bytes():
        raise TrustError(
            "the chain of roots has a gap, or root.json is not its last",
            where=str(keys.directory),
            remedy="Put back every N.root.json of this directory, from its backup or from a bundle's metadata.",
        )
    for number, root in roots.items():
        _require_in_chain(keys, chain, number, root)
    root = roots[last]
    if root.is_expired(now):
        raise TrustError(
            f"the root of trust has expired on {root.expires:%Y-%m-%d}, so every client would refuse the release",
            where=str(keys.root_path),
            remedy="`appliance keys rotate timestamp` makes the next root with a new end; or set this machine's clock.",
        )
    if root.expires < now + timedelta(days=days):
        report.say(
            f"warning: the root of trust ends on {root.expires:%Y-%m-%d}, before the release does; `appliance keys rotate timestamp` makes the next one"
        )


def require_paths(paths: Collection[str]) -> None:
    """Paths of a bundle that every client takes, on every file system.

    Raises:
        InputError: two are one file where case does not count, one is a directory of another, one is not a path that
            a bundle may have, or there are too many.
    """
    if len(paths) > trust.MAX_TARGETS:
        raise InputError(
            f"{len(paths)} files are more than the {trust.MAX_TARGETS} that a bundle may have",
            remedy="Split the definition into two.",
        )
    for path in paths:
        try:
            tree.check_path(path)
        except TrustError as error:
            raise InputError(
                "a bundle may not have a file of this name", where=error.where, remedy="Give it another name."
            ) from error
    if pairs := tree.collisions(list(paths)):
        raise InputError(
            f"two files differ only in case: {pairs[0][0]} and {pairs[0][1]}",
            remedy="Rename one of them in the definition: a medium whose file system ignores case would hold one of the two.",
        )
    folded = {p.casefold(): p for p in paths}
    for path in paths:
        parts = path.casefold().split("/")
        for depth in range(1, len(parts)):
            if other := folded.get("/".join(parts[:depth])):
                raise InputError(
                    f"{other} would have to be a file and a directory, because of {path}",
                    remedy="Rename one of them in the definition.",
                )


def require_good(bundle: Path, keys: KeyStore) -> None:
    """`verify` would accept the metadata and the names of this finished bundle. Content is not read: it was hashed for the signature.

    Raises:
        ApplianceError: it would not; what it would say, with the cause of a fault of this program.
    """
    chain = keys.root_chain()
    for number in sorted({min(chain), max(chain)}):  # pinned at the first release, and today
        try:
            trusted, unsigned = verify.opened(bundle, chain[number])
            found = [f"{f.path}: {f.detail or f.problem}" for f in unsigned]
            found += [f"{e.path}: it is not signed" for e in tree.walk(bundle) if _foreign(e, trusted)]
        except ApplianceError as error:
            found = [str(error)]
        if found:
            raise TrustError(
                f"`appliance verify` would refuse what was built: {found[0]}",
                where=str(bundle),
                remedy=f"Nothing was left. Check {keys.directory} and this machine's clock, and build again.",
            )


def _foreign(entry: tree.Entry, trusted: trust.Trusted) -> bool:
    if entry.path.startswith(f"{metadata.DIRECTORY}/"):
        return False  # judged with the signatures
    return entry.kind != "file" or entry.path not in trusted.targets


def _require_in_chain(keys: KeyStore, chain: dict[int, bytes], number: int, root: Root) -> None:
    where = _name(keys, number)
    remedy = "Put it back from a backup, or from a bundle's metadata."
    if root.version != number:
        raise TrustError(f"it says that it is version {root.version} of the root", where=where, remedy=remedy)
    if number - 1 not in chain:
        return  # the first that this directory has
    try:
        require_follows(chain[number - 1], chain[number], number)
    except Exception as error:  # python-tuf raises many types
        raise TrustError(
            f"it does not follow version {number - 1} of the root: {error}", where=where, remedy=remedy
        ) from error


def _name(keys: KeyStore, number: int) -> str:
    return str(keys.directory / f"{number}.root.json")
