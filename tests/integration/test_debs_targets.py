"""Packages for releases that the builder does not run: Debian 13 from the real mirror, Ubuntu's shape from a made one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.blobs import Blobs
from engine.errors import ApplianceError, InputError, TrustError, UpstreamError
from installer import openpgp
from installer.definition import Definition
from installer.kinds import Work, debevidence, debs
from installer.lockfile import Artifact
from tests.integration import aptsite

JAMMY = ("jammy", "jammy-updates", "jammy-security")


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> aptsite.Key:
    return aptsite.make_key(tmp_path_factory.mktemp("keys") / "vendor", "Vendor")


@pytest.fixture
def archive(tmp_path: Path, key: aptsite.Key) -> Iterator[aptsite.Site]:
    """An archive of Ubuntu's shape: three pockets, two components, a tool that updates and security carry as well."""
    with aptsite.serve(tmp_path / "site") as site:
        for version in ("1.0", "1.1", "1.2"):
            site.deb("tool", version, depends="lib")
        for name in ("lib", "driver", "broken"):
            site.deb(name, depends={"driver": "tool", "broken": "absent"}.get(name, ""))
        both = {("tool", "1.2"), ("lib", "1.0")}
        site.publish_suite("jammy", {"main": {("tool", "1.0"), ("lib", "1.0")}, "restricted": {("driver", "1.0"), ("broken", "1.0")}}, key)  # fmt: skip
        site.publish_suite("jammy-updates", {"main": {("tool", "1.1"), *both}, "restricted": set()}, key)
        site.publish_suite("jammy-security", {"main": both, "restricted": set()}, key)
        yield site


def work(
    tmp_path: Path, source: dict[str, Any], *packages: str, os: str = "ubuntu-22.04", arch: str = "x86_64"
) -> Work:
    text = {
        "schema": 1, "name": "test", "version": "1.0", "target": {"os": os, "python": "3.11", "arch": arch},
        "debs": {"sources": [source], "groups": [{"packages": list(packages), "profiles": ["gpu"]}]},
    }  # fmt: skip
    return Work(Definition.model_validate(text), tmp_path, Blobs(tmp_path / "cache"))


def jammy(archive: aptsite.Site, tmp_path: Path, key: aptsite.Key, **change: Any) -> dict[str, Any]:
    (tmp_path / "vendor.asc").write_bytes(openpgp.public(key[0]))
    source = {"uri": archive.url, "suites": JAMMY, "components": ["main", "restricted"], "signed_by": "vendor.asc"}
    return source | change


def packages(found: list[Artifact]) -> dict[str, str]:
    return {a.name: a.version for a in found if not debevidence.is_evidence(a)}


@pytest.mark.slow
def test_debian_13_is_resolved_from_the_builders_own_mirror_with_its_nvidia_driver(tmp_path: Path) -> None:
    source = {
        "builders": True,
        "suites": ["trixie", "trixie-updates", "trixie-security"],
        "components": ["main", "contrib", "non-free", "non-free-firmware"],
    }
    job = work(tmp_path, source, "libnvidia-ml1", os="debian-13")
    found = debs.resolve(job)
    assert "libnvidia-ml1" in packages(found)
    evidence = [a for a in found if debevidence.is_evidence(a)]
    assert any(a.path.endswith("/non-free/binary-amd64/Packages.xz") for a in evidence)
    assert {a.profiles for a in evidence} == {("control",)}
    assert all(job.cache.has(a.sha256, a.size) for a in evidence)
    signed = next(a for a in evidence if a.path.endswith("_trixie/InRelease"))
    assert (
        "04B54C3CDCA79751B16BC6B5225629DF75B188BD" in signed.notes[0]
    )  # Debian Archive Automatic Signing Key (13/trixie)


def test_ubuntus_pockets_give_the_version_apt_prefers_with_evidence_for_each_that_was_used(
    archive: aptsite.Site, tmp_path: Path, key: aptsite.Key
) -> None:
    job = work(tmp_path, jammy(archive, tmp_path, key), "driver")
    found = debs.resolve(job)
    assert packages(found) == {"driver": "1.0", "tool": "1.2", "lib": "1.0"}
    evidence = {a.path.split("/", 3)[3]: a for a in found if debevidence.is_evidence(a)}
    assert {"restricted/binary-amd64/Packages.xz", "main/binary-amd64/Packages.xz", "InRelease"} <= set(evidence)
    index = evidence["restricted/binary-amd64/Packages.xz"]
    assert index.source.endswith(f"dists/jammy/restricted/binary-amd64/by-hash/SHA256/{index.sha256}")
    debs.fetch(job, found)
    debs.check(job, found)


@pytest.mark.parametrize(
    ("change", "asked", "error", "said"),
    [
        ({"suites": ["jamy"]}, "tool", InputError, "/dists/jamy|jamy Release' does not have a Release file"),
        ({"components": ["main", "restrictd"]}, "tool", InputError, "doesn't have the component 'restrictd'"),
        ({"signed_by": "nowhere.gpg"}, "tool", InputError, "cannot read the keyring"),
        ({}, "nowhere", InputError, "cannot resolve nowhere: .*nowhere"),
        ({}, "broken", InputError, "cannot resolve broken: .*absent"),
    ],
)
def test_what_cannot_be_had_ends_in_one_clear_error(
    change: dict[str, Any],
    asked: str,
    error: type[ApplianceError],
    said: str,
    archive: aptsite.Site,
    tmp_path: Path,
    key: aptsite.Key,
) -> None:
    with pytest.raises(error, match=said) as caught:
        debs.resolve(work(tmp_path, jammy(archive, tmp_path, key, **change), asked))
    assert caught.value.remedy


def test_a_source_without_the_targets_processor_is_named(
    archive: aptsite.Site, tmp_path: Path, key: aptsite.Key
) -> None:
    with pytest.raises(InputError, match="doesn't support architecture 'arm64'") as error:
        debs.resolve(work(tmp_path, jammy(archive, tmp_path, key), "tool", arch="aarch64"))
    assert "arm64" in error.value.remedy


def test_an_ubuntu_target_on_a_builder_without_ubuntu_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no source of ubuntu") as error:
        debs.resolve(work(tmp_path, {"builders": True, "suites": ["jammy"]}, "tool"))
    assert "uri and signed_by" in error.value.remedy


def test_a_keyring_of_somebody_else_is_refused(archive: aptsite.Site, tmp_path: Path, key: aptsite.Key) -> None:
    stranger = aptsite.make_key(tmp_path / "stranger", "Stranger")
    (tmp_path / "stranger.asc").write_bytes(openpgp.public(stranger[0]))
    with pytest.raises(TrustError, match=r"NO_PUBKEY|not signed"):
        debs.resolve(work(tmp_path, jammy(archive, tmp_path, key, signed_by="stranger.asc"), "tool"))


def test_a_build_with_another_cache_says_so_when_the_vendor_has_signed_anew(
    archive: aptsite.Site, tmp_path: Path, key: aptsite.Key
) -> None:
    job = work(tmp_path, jammy(archive, tmp_path, key), "tool")
    found = debs.resolve(job)
    archive.publish_suite("jammy-updates", {"main": {("tool", "1.1")}, "restricted": set()}, key)
    debs.fetch(job, found)  # the cache of the lock has it all
    fresh = Work(job.definition, job.base, Blobs(tmp_path / "other"))
    with pytest.raises(UpstreamError, match="signed anew since the lock"):
        debs.fetch(fresh, found)
