"""What a client remembers so that nobody can lead it back: the roots, the newest metadata of each name, the time.

    roots/N.root.json   every root since the pinned one, each signed by the one before it
    names/NAME/         python-tuf's state for the bundles of that name: older ones are refused
    versions.json       the newest version seen of each name; python-tuf takes damaged state for none, this does not
    clock.json          the latest time seen
    overrides.log       every time an operator said that older is meant, with the reason; one JSON document a line

The depot and every node keep one of these.
"""

from __future__ import annotations

import getpass
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import engine.nocloud  # noqa: F401  # isort: skip  # before tuf
from tuf.api.metadata import Metadata, Root
from tuf.ngclient.fetcher import FetcherInterface

from engine import clock, durable, strictjson, trust
from engine.errors import InputError, TrustError
from engine.trust import ReadOnce, Trusted

MIN_REASON = 10  # characters
MAX_ROOTS = 256  # versions; python-tuf follows no more in one go
MAX_STEP = 10 * 366 * 86400  # seconds, the unit of versions, that the newest version of a name may grow by at once


@dataclass(frozen=True)
class Demand:
    """What the caller requires beyond valid metadata.

    Attributes:
        minimum_version: refuse anything older; how a client without memory is protected by one that has it.
        downgrade: the operator's reason for going back to an older bundle; empty refuses to.
        approvals: files in which other people agree to that downgrade.
    """

    minimum_version: int = 0
    downgrade: str = ""
    approvals: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Downgrade:
    """One step back: from the newest version seen of a name to an older release's."""

    name: str
    release: str
    before: int
    after: int


Judge = Callable[[Downgrade, tuple[Path, ...]], list[dict[str, str]]]
ANY = Demand()


class Memory:
    """The memory below ``directory`` of a client that pinned ``pinned_root``.

    Args:
        judge: decides on a downgrade by its approvals, raises when they are too few, and returns what goes on record;
            None where nobody but the operator is asked.
    """

    def __init__(self, directory: Path, pinned_root: bytes, judge: Judge | None = None) -> None:
        self.directory = directory
        self._pinned = pinned_root
        self._judge_downgrade = judge

    @property
    def clock_file(self) -> Path:
        return self.directory / "clock.json"

    @property
    def overrides(self) -> Path:
        return self.directory / "overrides.log"

    def state(self, name: str) -> Path:
        """Where the newest metadata of the bundles called ``name`` are."""
        return self.directory / "names" / name

    def roots(self) -> dict[int, bytes]:
        """The chain from the pinned root to the newest known, by version."""
        chain = {_version(self._pinned): self._pinned}
        for path in sorted((self.directory / "roots").glob("*.root.json")):
            if (number := path.name.split(".")[0]).isdigit():
                chain.setdefault(int(number), path.read_bytes())
        return dict(sorted(chain.items()))

    def newest_root(self) -> bytes:
        """The root in force here, whatever bundle brought it."""
        chain = self.roots()
        return chain[max(chain)]

    def names(self) -> list[str]:
        """Names of bundles seen."""
        base = self.directory / "names"
        return sorted(p.name for p in base.iterdir()) if base.is_dir() else []

    def version(self, name: str) -> int:
        """The newest version seen of a name; 0 when none was.

        Raises:
            TrustError: the record is damaged; guessing would undo what it is for.
        """
        return self._versions().get(name, 0)

    def _versions(self) -> dict[str, int]:
        path = self.directory / "versions.json"
        try:
            return {str(name): int(version) for name, version in strictjson.loads(path.read_bytes()).items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError, TypeError) as error:
            raise TrustError(
                "cannot read which versions were seen", where=str(path),
                remedy="Put the file back from a backup, or delete it and give --minimum-version from the release note once.",
            ) from error  # fmt: skip

    def _remember(self, name: str, version: int) -> None:
        versions = self._versions()
        if versions.get(name) != version:
            durable.write(
                self.directory / "versions.json", json.dumps({**versions, name: version}, sort_keys=True) + "\n"
            )

    def refresh(self, fetcher: FetcherInterface, url: str, demand: Demand = ANY, where: str = "") -> Trusted:
        """Check the metadata that ``fetcher`` finds at ``url`` and store it as the newest trusted.

        It is judged twice, from the same bytes: first without the stored state, to learn the signed name under which that is kept,
        then against it. Roots that were verified are kept even when the rest is refused (TUF specification 5.3.8), so that a
        revoked key stays revoked.

        Raises:
            TrustError: refused, because of signatures, age, or a clock that went back.
            UpstreamError: it cannot be read.
        """
        now = datetime.now(UTC)
        clock.check(self.clock_file, now)
        once, at = ReadOnce(fetcher), where or url
        with tempfile.TemporaryDirectory(prefix="appliance-trust-") as scratch:
            try:
                first = trust.refresh(
                    fetcher=once, url=url, state=Path(scratch), pinned_root=self.newest_root(), where=where
                )
            finally:
                self._keep_roots(Path(scratch))
        self._judge(first, demand, now, at)
        state = self.state(first.name)
        trusted = trust.refresh(fetcher=once, url=url, state=state, pinned_root=self.newest_root(), where=where)
        if trusted.targets != first.targets or trusted.version != first.version:
            raise TrustError(
                f"other content of {first.name} was trusted before under the same version ({first.version})",
                where=at,
                remedy="Two releases were signed in the same second, or a signing key is in other hands. Ask the builder to sign again "
                "(`appliance renew`), and to compare the content digests.",
            )
        self._remember(trusted.name, trusted.version)
        clock.remember(self.clock_file, now)
        return trusted

    def look(self, fetcher: FetcherInterface, url: str, demand: Demand = ANY, where: str = "") -> Trusted:
        """Say what ``refresh`` would, and change nothing.

        Raises:
            TrustError, UpstreamError: as ``refresh`` does.
        """
        with tempfile.TemporaryDirectory(prefix="appliance-trust-") as scratch:
            copy = Path(scratch) / "trust"
            if self.directory.is_dir():
                shutil.copytree(self.directory, copy, symlinks=True)
            return Memory(copy, self._pinned, self._judge_downgrade).refresh(fetcher, url, demand, where)

    def _judge(self, first: Trusted, demand: Demand, now: datetime, where: str) -> None:
        """Refuse what is signed and yet not wanted here: from the future, too old, or a step that no time explains."""
        for role, version in first.versions.items():
            clock.check_signed_at(version, now, role)
        seen = self.version(first.name)
        if demand.downgrade:
            self._forget(first, demand)
        elif first.version < demand.minimum_version:
            raise TrustError(
                f"{first.release} has version {first.version}; at least {demand.minimum_version} is required here",
                where=where,
                remedy="Use the newest bundle. For a planned downgrade give the reason with --allow-downgrade.",
            )
        elif first.version < seen:
            raise TrustError(
                f"the metadata is older than what was trusted before, as in a rollback attack (version {first.version}, {seen} was seen)",
                where=where,
                remedy="Use the newest bundle. For a planned downgrade give the reason with --allow-downgrade.",
            )
        if seen and first.version - seen > MAX_STEP:
            raise TrustError(
                f"the version grows from {seen} to {first.version}, more than {MAX_STEP // (366 * 86400)} years at once, as in a "
                "fast-forward attack",
                where=where,
                remedy="Check this machine's clock and the builder's. If both are right, start a new depot.",
            )

    def learn(self, chain: dict[int, bytes]) -> int:
        """Follow roots that came by themselves, without a bundle; returns the version in force then.

        Each must be signed by the threshold of the one before it and by its own (TUF specification 5.3.4, 5.3.5).

        Raises:
            TrustError: one is not, or a version is missing; those before it are kept.
        """
        known = self.roots()
        newest = max(known)
        if not chain or max(chain) > newest + MAX_ROOTS:
            raise InputError("this holds no root", remedy="Name a directory that `appliance keys export` wrote.")
        for version in range(newest + 1, max(chain) + 1):
            if version not in chain:
                raise TrustError(
                    f"version {version} of the root is missing",
                    remedy="Export the chain again on the builder; it holds every version.",
                )
            require_follows(known[version - 1], chain[version], version)
            known[version] = chain[version]
            durable.write(self.directory / "roots" / f"{version}.root.json", chain[version])
        return max(known)

    def follow(self, chain: Mapping[int, bytes]) -> None:
        """Store the roots of ``chain`` that follow from the newest known one, as far as they do."""
        known = self.roots()
        version = max(known)
        while (data := chain.get(version + 1)) is not None and version - max(known) < MAX_ROOTS:
            try:
                require_follows(known[version], data, version + 1)
            except TrustError:
                return
            version += 1
            known[version] = data
            durable.write(self.directory / "roots" / f"{version}.root.json", data)

    def proven_root(self) -> bytes:
        """The newest stored root that the pinned one leads to, each step checked again: where others may write into the store."""
        known = self.roots()
        version = _version(self._pinned)
        while (data := known.get(version + 1)) is not None:
            require_follows(known[version], data, version + 1)
            version += 1
        return known[version]

    def _forget(self, older: Trusted, demand: Demand) -> None:
        """Forget what was newest of one name, on record; the newest root stays in force for what comes instead."""
        before, reason = self.version(older.name), demand.downgrade
        if before <= older.version:
            return
        if len(reason.strip()) < MIN_REASON:
            raise InputError("the reason for a downgrade is too short", remedy="Say in a few words why older is meant.")
        step = Downgrade(older.name, older.release, before, older.version)
        approved = self._judge_downgrade(step, demand.approvals) if self._judge_downgrade else []
        line = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "by": os.environ.get("SUDO_USER") or _user(),
            "name": older.name,
            "from": before,
            "to": older.version,
            "reason": reason,
            **({"approved": approved} if approved else {}),
        }
        self.note(line)
        self._remember(older.name, older.version)
        shutil.rmtree(self.state(older.name), ignore_errors=True)

    def note(self, line: Mapping[str, object]) -> None:
        """Put one line on record, on the disk before anything is done because of it."""
        _append(self.overrides, json.dumps(line, ensure_ascii=False))

    def _keep_roots(self, state: Path) -> None:
        """Store the roots that python-tuf has verified in ``state``; a root holds for bundles of every name."""
        known = self.roots()
        for path in (state / "root_history").glob("*.root.json"):
            if (number := path.name.split(".")[0]).isdigit() and int(number) not in known:
                durable.write(self.directory / "roots" / path.name, path.read_bytes())


def _version(root: bytes) -> int:
    try:
        return Metadata[Root].from_bytes(root).signed.version
    except Exception as error:  # python-tuf raises many types on malformed input
        raise TrustError(
            f"the pinned root of trust is damaged: {error}", remedy="Put back the root.json you received."
        ) from error


def require_follows(before: bytes, after: bytes, version: int) -> None:
    """``after`` is root ``version``, signed by the thresholds of ``before`` and of itself.

    Raises:
        TrustError: it is not.
    """
    try:
        old, new = Metadata[Root].from_bytes(before), Metadata[Root].from_bytes(after)
        if new.signed.version != version:
            raise TrustError(f"it says that it is version {new.signed.version}")
        for judge in (old.signed, new.signed):
            judge.verify_delegate("root", new.signed_bytes, new.signatures)
    except Exception as error:  # see _version
        raise TrustError(
            f"version {version} of the root is not signed as the one before it demands: {error}",
            remedy="Do not use it; ask the builder for the right chain.",
        ) from error


def _user() -> str:
    """Who runs this, by name where the list of users has one."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"


def _append(path: Path, line: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(line + "\n")
        file.flush()
        os.fsync(file.fileno())
