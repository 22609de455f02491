"""What `appliance verify` does once its options are read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine import signers, trust
from engine import verify as verifying
from engine.errors import Exit, InputError, TrustError
from engine.report import printable
from engine.signers import Role
from engine.trust import Trusted
from installer.carry import volumes
from installer.carry.patchnames import LIST
from installer.cli.screen import Screen, size


def check(
    screen: Screen, bundle: Path, pinned: bytes, where: str, depot: Path | None, expect_builder: str = ""
) -> Exit:
    """Verify a bundle or volume and say every finding.

    Args:
        where: the file that ``pinned``, the root of trust, was read from.
        depot: what it holds need not be in the bundle.
        expect_builder: URI that the provenance must name; empty takes any.

    Raises:
        InputError: there is no such bundle or depot, or it is a parity volume.
        TrustError: the metadata was refused.
    """
    # Read only where there are any: the libraries behind it take as long to import as a small bundle to verify.
    patched = (bundle / LIST).exists()
    if depot and not depot.is_dir():
        raise InputError("there is no such depot", where=str(depot), remedy="Correct --depot.")
    index = None
    with screen:
        if volumes.is_volume(bundle):
            index = volumes.read_index(bundle)
            if index.parity:
                raise InputError(
                    "a parity volume is not signed, so there is nothing to verify",
                    where=str(bundle),
                    remedy="Keep it for `appliance recover`, which compares what it makes with the signed hashes.",
                )
            trusted = verifying.open_bundle(bundle, pinned)
            outcome = verifying.Verification(
                trusted, tuple(volumes.check(bundle, _carried(bundle, trusted, patched), screen))
            )
        else:
            outcome = verifying.verify(bundle, pinned, report=screen)
            if patched or depot:
                from installer.carry import checking
                from installer.depot import Depot

                outcome = checking.checked(bundle, outcome, Depot(depot).blobs if depot else None, screen)
    trusted = outcome.trusted
    roles = signers.read(bundle, trusted)
    if expect_builder:
        from installer.evidence import contents

        if not any(f.path in (contents.PROVENANCE, contents.MANIFEST) for f in outcome.findings):
            contents.require_builder(bundle, trusted, expect_builder)
    data: dict[str, Any] = {
        "bundle": str(bundle), "builder": expect_builder or None, "release": trusted.release, "good": outcome.good, "version": trusted.version, "expires": trusted.expires,
        "files": len(trusted.targets), "size": trusted.size, "root": where, "findings": [vars(f) for f in outcome.findings],
        "signatures": [{"role": r.name, "needed": r.needed, "signed": list(r.signed), "keys": len(r.signers)} for r in roles],
    }  # fmt: skip
    if index:
        data["volume"] = {"number": index.number, "of": len(index.volumes)}
    if outcome.good:
        whole = f"{trusted.release} is good: {len(trusted.targets)} files, {size(trusted.size)}, all as signed"
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


def signed_by(roles: tuple[Role, ...]) -> str:
    """Which keys signed the release, for people who compare key ids: whole ids, for their beginning can be imitated."""
    release = next(r for r in roles if r.name == "targets")
    ids = ", ".join(release.signed)
    return f"signed by {len(release.signed)} of {len(release.signers)} release keys, {release.needed} needed: {ids}"


def _carried(bundle: Path, trusted: Trusted, patched: bool) -> Trusted:
    if not patched:
        return trusted
    from installer.carry import patches

    return patches.extended(trusted, patches.read(bundle, trusted))


def read_pinned(candidates: list[Path]) -> tuple[bytes, str]:
    """The first of these roots of trust that can be read, and its name.

    Raises:
        InputError: there is none.
    """
    for path in candidates:
        try:
            return trust.read_root(path), str(path)
        except OSError:
            continue
    raise InputError(
        "no pinned root of trust",
        where=", ".join(map(str, candidates)),
        remedy="Give --root with the root.json you received on another way than the bundle.",
    )
