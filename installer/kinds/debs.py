"""Operating-system packages: the closure for the target, carried as an apt repository that nodes' apt verifies."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from engine.errors import InputError, TrustError, UpstreamError
from engine.process import ProcessError, run
from installer import aptmirror, debfile
from installer.definition import DebGroup
from installer.kinds import Work, apt, aptrepo, debaudit, debevidence, debgroups, items, place
from installer.lockfile import Artifact
from installer.network import aptconfig

BUILDERS_APT = Path("/etc/apt")
GONE = re.compile(r"answers (404|410)$|^cannot read ")


def resolve(work: Work) -> list[Artifact]:
    """The closure of every group of packages, each group by itself, for nodes differ in what they install; what one node gets
    of several groups must fit together.

    A package that several groups need is listed for each; the lock keeps one, with the profiles of all.

    Raises:
        InputError: a package does not exist, a dependency cannot be met, groups that one node gets conflict, or there are no
            sources for the target.
        TrustError: a source is unsigned or signed by another key.
        UpstreamError: a source does not answer.
    """
    debs, target = work.definition.debs, work.definition.target
    if debs is None:
        return []
    if not debs.sources:
        _builder_is(target.os)
    own = aptconfig.read(BUILDERS_APT, work.report)
    with apt.private(target, work.network, own) as session:
        if debs.sources:
            family = target.os.partition("-")[0]
            session.use(aptmirror.expand(debs.sources, BUILDERS_APT, family), work.base)
        else:
            session.use_builders(BUILDERS_APT, work.report)
        session.update(work.report, every_source=bool(debs.sources))
        closures = [(group, session.closure(group.packages)) for group in debs.groups]
        debgroups.require_together(debs.groups, session.closure)
        chosen = [p for _, packages in closures for p in packages]
        reachable = replace(work, reach=own.merged(work.network, [p.url for p in chosen]))
        evidence = debevidence.collect(reachable, session, chosen)
    return [*(_artifact(p, group) for group, packages in closures for p in packages), *evidence]


def _builder_is(target_os: str) -> None:
    release = platform.freedesktop_os_release()
    builder = f"{release.get('ID', '')}-{release.get('VERSION_ID', '')}"
    if builder != target_os:
        raise InputError(
            f"debs: the definition has no sources, and this builder's own are for {builder}, not for {target_os}",
            remedy=f"Give debs.sources for {target_os}: with builders: true for this builder's mirror, or with uri and signed_by.",
        )


def _artifact(package: apt.Package, group: DebGroup) -> Artifact:
    return Artifact(
        path=f"debs/pool/{package.filename}", kind="debs", name=package.name, version=package.version,
        size=package.size, sha256=package.sha256, source=package.url, profiles=group.profiles,
    )  # fmt: skip


def fetch(work: Work, artifacts: Sequence[Artifact]) -> None:
    """Bring the locked packages in.

    Raises:
        UpstreamError: upstream no longer has a locked version, or does not answer.
        TrustError: upstream has other bytes under the same name.
    """
    own = aptconfig.read(BUILDERS_APT, work.report) if artifacts else aptconfig.AptNetwork()
    work = replace(work, reach=own.merged(work.network, [a.source for a in artifacts]))
    evidence = [a for a in artifacts if debevidence.is_evidence(a)]
    try:
        work.downloader().fetch_all(items(evidence), task="debs: evidence")
    except (TrustError, UpstreamError) as error:
        raise UpstreamError(
            f"upstream has signed anew since the lock, and this cache does not hold what it had signed ({error.what})",
            where=error.where,
            remedy="Build with the cache that the lock was made with, or run `appliance lock` again and review what changed.",
        ) from error
    try:
        work.downloader().fetch_all(items([a for a in artifacts if not debevidence.is_evidence(a)]), task="debs")
    except UpstreamError as error:
        if not GONE.search(error.what):
            raise
        raise UpstreamError(
            f"upstream changed: a locked package is gone ({error.what})",
            where=error.where,
            remedy="Run `appliance lock` again and review what changed, or take sources that keep old versions.",
        ) from error


def check(work: Work, artifacts: Sequence[Artifact]) -> None:
    """Each file is a Debian package and the one its name in the lock says, and a vendor signed for it.

    Raises:
        TrustError: it is not.
    """
    ours = apt.ARCH[work.definition.target.arch]
    for artifact in artifacts:
        if debevidence.is_evidence(artifact):
            continue
        debfile.require_small_control(work.cache.path(artifact.sha256), artifact.path)
        try:
            told = run(
                ["dpkg-deb", "--show", "--showformat", "${Package}\n${Version}\n${Architecture}\n",
                 work.cache.path(artifact.sha256)], inherit=False, package="dpkg", bounds=debfile.BOUNDS,
            ).stdout.splitlines()  # fmt: skip
        except ProcessError as error:
            raise TrustError(
                f"not a Debian package: {error.stderr.strip()}",
                where=artifact.path,
                remedy="Lock again from a sound source.",
            ) from error
        arch = artifact.path.removesuffix(".deb").rpartition("_")[2]
        if told != [artifact.name, artifact.version, arch] or arch not in (ours, "all"):
            raise TrustError(
                f"the package says it is {' '.join(told)}, the lock says {artifact.name} {artifact.version} {arch}",
                where=artifact.path,
                remedy=f"Lock again from a sound source for {ours}.",
            )
    if artifacts:
        debaudit.audit({a.path.removeprefix("debs/"): work.cache.path(a.sha256) for a in artifacts})


def lay_out(work: Work, artifacts: Sequence[Artifact], content: Path) -> None:
    """An apt repository below ``content/debs``, signed with the apt key.

    Raises:
        InputError: there is no key, or its passphrase is wrong.
    """
    if not artifacts:
        return
    if work.apt_key is None:
        raise InputError(
            "there is no key to sign the apt repository with",
            remedy="Make one with `appliance keys init`, and build with it.",
        )
    place(work, artifacts, content)
    arch = apt.ARCH[work.definition.target.arch]
    stanzas = [aptrepo.stanza(a, work.cache.path(a.sha256)) for a in artifacts if not debevidence.is_evidence(a)]
    description = f"Packages of {work.definition.release}"
    aptrepo.write(content / "debs", stanzas, arch=arch, description=description, epoch=work.epoch, key=work.apt_key)
