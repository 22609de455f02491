"""What `appliance verify` does once its options are read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from engine import metadata, rootstore, signers, trust
from engine import verify as verifying
from engine.errors import Exit, InputError, TrustError
from engine.memory import Memory
from engine.report import printable
from engine.rootstore import RootStore
from engine.signers import Role
from engine.trust import Trusted
from engine.verify import Finding, Verification
from installer.carry import volumes
from installer.carry.patchnames import LIST
from installer.cli.screen import Screen, counted, size


def check(
    screen: Screen,
    bundle: Path,
    pinned: bytes,
    where: str,
    depot: Path | None,
    expect_builder: str = "",
    state: Path | None = None,
) -> Exit:
    """Verify a bundle or volume and say every finding.

    Args:
        where: the file that ``pinned``, the root of trust, was read from.
        depot: what it holds need not be in the bundle.
        expect_builder: URI that the provenance must name; empty takes any.
        state: a depot whose stored trust state judges the bundle as `import` would; without one the roots that this user has
            verified before count.

    Raises:
        InputError: there is no such bundle or depot, or it is a parity volume.
        TrustError: the metadata was refused.
    """
    if depot and not depot.is_dir():
        raise InputError("there is no such depot", where=str(depot), remedy="Correct --depot.")
    with screen:
        memory = _memory(state, pinned)
        roots = None if memory else rootstore.of_user()
        outcome, index = _compared(screen, bundle, memory.newest_root() if memory else pinned, roots, depot)
    trusted = outcome.trusted
    roles = signers.read(trusted)
    refused = _refused_here(memory, trusted, bundle) if memory and outcome.good else None
    if expect_builder:
        from installer.evidence import contents

        if not any(f.path in (contents.PROVENANCE, contents.MANIFEST) for f in outcome.findings):
            contents.require_builder(bundle, trusted, expect_builder)
    data: dict[str, Any] = {
        "bundle": str(bundle), "builder": expect_builder or None, "release": trusted.release, "good": outcome.good and refused is None, "version": trusted.version, "expires": trusted.expires,
        "files": len(trusted.targets), "size": trusted.size, "root": where, "findings": [vars(f) for f in outcome.findings],
        "signatures": [{"role": r.name, "needed": r.needed, "signed": list(r.signed), "keys": len(r.signers)} for r in roles],
    }  # fmt: skip
    if memory:
        data["import"] = {"refused": refused.what if refused else ""}
    if index:
        data["volume"] = {"number": index.number, "of": len(index.volumes)}
    if refused:
        screen.result(data, f"{trusted.release} is as signed, and `appliance import` would refuse it here")
        if not screen.json_output:
            screen.error(refused)
        return Exit.UNTRUSTED
    if outcome.good:
        whole = (
            f"{trusted.release} is good: {counted(len(trusted.targets), 'file')}, {size(trusted.size)}, all as signed"
        )
        one = f"volume {index.number} of {len(index.volumes)} of {trusted.release}" if index else ""
        told = f"{one} is good; the other volumes were not looked at" if index else whole
        screen.result(data, f"{told}; metadata valid until {trusted.expires[:10]}\n" + signed_by(roles))
        return Exit.OK
    lines = [
        f"{f.problem:<8} {printable(f.path, keep='')}\n         {printable(f.detail)}".rstrip()
        for f in outcome.findings
    ]
    screen.result(data, "\n".join(lines))
    if not screen.json_output:
        wrong = f"{len(outcome.findings)} of {len(trusted.targets)} files are not as signed"
        remedy = "Do not use this bundle. Copy it again from its source and verify the copy."
        if depot is None and all(f.problem == "missing" for f in outcome.findings):
            wrong = f"{len(outcome.findings)} of {len(trusted.targets)} files are not here; those that are here are as signed"
            remedy = (
                "A delta leaves out what its receiver has: verify it with --depot DIRECTORY, where the earlier release is. "
                "If this should be a whole bundle, copy it again."
            )
        screen.error(TrustError(wrong, where=str(bundle), remedy=remedy))
    return Exit.UNTRUSTED


def _compared(
    screen: Screen, bundle: Path, pinned: bytes, roots: RootStore | None, depot: Path | None
) -> tuple[Verification, volumes.Index | None]:
    """A bundle, delta or volume beside what is signed, and a volume's index."""
    if volumes.is_volume(bundle):
        index = volumes.read_index(bundle)
        if index.parity:
            raise InputError(
                "a parity volume is not signed, so there is nothing to verify",
                where=str(bundle),
                remedy="Keep it for `appliance recover`, which compares what it makes with the signed hashes.",
            )
        trusted, unsigned = verifying.opened(bundle, pinned, roots)
        return _volume(bundle, index, trusted, unsigned, depot, screen), index
    outcome = verifying.verify(bundle, pinned, report=screen, roots=roots)
    if metadata.PATCHES in outcome.trusted.metadata or depot:
        from installer.carry import checking
        from installer.depot import Depot

        outcome = checking.checked(bundle, outcome, Depot(depot).blobs if depot else None, screen)
    return outcome, None


def signed_by(roles: tuple[Role, ...]) -> str:
    """Which keys signed the release, for people who compare key ids: whole ids, for their beginning can be imitated."""
    release = next(r for r in roles if r.name == "targets")
    ids = ", ".join(release.signed)
    return f"signed by {len(release.signed)} of {len(release.signers)} release keys, {release.needed} needed: {ids}"


def _memory(state: Path | None, pinned: bytes) -> Memory | None:
    """The trust state of the depot ``state``, where it pins the same root of trust and this user may read it."""
    if state is None or not os.access(state / "trust", os.R_OK | os.X_OK):
        return None
    from installer.depot import Depot

    depot = Depot(state)
    try:
        return depot.memory() if depot.pinned_root.read_bytes() == pinned else None
    except OSError:
        return None


def _refused_here(memory: Memory, trusted: Trusted, bundle: Path) -> TrustError | None:
    """Why `import` would refuse what is signed: older than what was seen, or from the future. From the bytes that were verified."""
    try:
        memory.look(trust.FilesFetcher(trusted.metadata), "file://", where=str(bundle))
    except TrustError as error:
        return error
    except OSError:
        return None  # another user's state; import says it
    return None


def _volume(
    volume: Path, index: volumes.Index, trusted: Trusted, unsigned: list[Finding], depot: Path | None, screen: Screen
) -> Verification:
    """One volume of a set, which may be of a delta: then a depot has what is on no volume."""
    made: set[str] = set()
    carried = trusted
    if metadata.PATCHES in trusted.metadata:
        from installer.carry import patches

        listed = patches.read(trusted)
        carried, made = patches.extended(trusted, listed), {p.target for p in listed}
        unsigned = [f for f in unsigned if f.path != LIST]
    if depot:
        from installer.depot import Depot

        blobs = Depot(depot).blobs
        made |= {t.sha256 for t in trusted.targets.values() if blobs.has(t.sha256, t.size)}
    found = [*unsigned, *volumes.check(volume, carried, made, screen, index)]
    return Verification(trusted, tuple(sorted(found, key=lambda f: (f.path, f.problem))))


def read_pinned(candidates: list[Path]) -> tuple[bytes, str]:
    """The first of these roots of trust that is there, and its name. A single candidate is one that was asked for.

    Raises:
        InputError: there is none.
        TrustError: it is damaged. Said here, for whoever reads a bundle with it would blame the bundle.
    """
    found = candidates if len(candidates) == 1 else [path for path in candidates if path.exists()]
    if not found:
        raise InputError(
            "no pinned root of trust",
            where=", ".join(map(str, candidates)),
            remedy="Give --root with the root.json you received on another way than the bundle.",
        )
    return trust.read_root(found[0]), str(found[0])
