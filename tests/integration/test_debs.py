"""Resolving, fetching and checking packages with the real apt against real repositories."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.blobs import Blobs
from engine.errors import InputError, TrustError, UpstreamError
from engine.report import Silent
from installer import lockfile, openpgp
from installer.definition import Definition
from installer.kinds import Work, debevidence, debs
from installer.lockfile import Artifact
from tests.integration import aptsite


class Remarks(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[aptsite.Key, aptsite.Key]:
    """The vendor's key and a stranger's."""
    base = tmp_path_factory.mktemp("keys")
    return aptsite.make_key(base / "vendor", "Vendor"), aptsite.make_key(base / "stranger", "Stranger")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[aptsite.Site]:
    with aptsite.serve(tmp_path / "site") as served:
        yield served


def definition(groups: list[dict[str, Any]], sources: list[dict[str, Any]], **target: str) -> Definition:
    return Definition.model_validate(
        {
            "schema": 1, "name": "test", "version": "1.0",
            "target": {"os": "debian-12", "python": "3.11", **target},
            "debs": {"sources": sources, "groups": groups},
        }
    )  # fmt: skip


def work_with(
    site: aptsite.Site, tmp_path: Path, key: aptsite.Key, *packages: str, uri: str = "", **target: str
) -> Work:
    """Work on a definition with the site as its one source."""
    (tmp_path / "vendor.asc").write_bytes(openpgp.public(key[0]))
    source = {"uri": uri or site.url, "suites": ["./"], "signed_by": "vendor.asc"}
    groups = [{"packages": list(packages), "profiles": ["gpu"]}]
    return Work(definition(groups, [source], **target), tmp_path, Blobs(tmp_path / "cache"))


def resolve(work: Work) -> list[Artifact]:
    """The packages of a definition, without the evidence for them."""
    return [a for a in debs.resolve(work) if not debevidence.is_evidence(a)]


def names(artifacts: list[Artifact]) -> dict[str, str]:
    return {a.name: a.version for a in artifacts}


def fingerprint(*paths: str) -> list[tuple[str, int, int]]:
    files = [f for p in paths for f in [Path(p), *Path(p).rglob("*")] if f.exists()]
    return sorted((str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in files)


def test_a_package_of_this_release_is_locked_down_to_libc_and_the_builders_apt_is_untouched(tmp_path: Path) -> None:
    release = platform.freedesktop_os_release()
    target = f"{release['ID']}-{release['VERSION_ID']}"
    wanted = definition([{"packages": ["hostname", "jq"], "profiles": ["gpu"]}], [], os=target)
    work = Work(wanted, tmp_path, Blobs(tmp_path / "cache"), Remarks())
    watched = ("/var/lib/apt", "/var/cache/apt", "/var/lib/dpkg", "/etc/apt")
    before = fingerprint(*watched)
    everything = debs.resolve(work)
    found = {a.name: a for a in everything if not debevidence.is_evidence(a)}
    assert fingerprint(*watched) == before
    assert {"jq", "libjq1", "libonig5", "libc6", "hostname"} <= set(found)
    assert all(len(a.sha256) == 64 and a.size > 0 and a.source.endswith(".deb") for a in found.values())
    some = [found["hostname"], *(a for a in everything if debevidence.is_evidence(a))]
    debs.fetch(work, some)
    debs.check(work, some)
    assert work.cache.has(found["hostname"].sha256, found["hostname"].size)


def test_the_closure_comes_from_the_definitions_source_and_nothing_else(
    site: aptsite.Site, tmp_path: Path, keys: tuple[aptsite.Key, aptsite.Key]
) -> None:
    site.deb("libthing", "2:1.4-1")
    site.deb("tool", depends="libthing (>= 2:1.0)")
    site.deb("unrelated")
    site.publish(keys[0])
    work = work_with(site, tmp_path, keys[0], "tool")
    found = debs.resolve(work)
    packages = [a for a in found if not debevidence.is_evidence(a)]
    assert names(packages) == {"tool": "1.0", "libthing": "2:1.4-1"}
    paths = {a.path for a in packages}
    assert paths == {"debs/pool/tool_1.0_amd64.deb", "debs/pool/libthing_1.4-1_amd64.deb"}
    debs.fetch(work, found)
    debs.check(work, found)


MAIL = "Provides: mail-agent\nConflicts: mail-agent\n"


def with_groups(site: aptsite.Site, tmp_path: Path, key: aptsite.Key, groups: list[dict[str, Any]]) -> Work:
    """Work on a definition with these groups and the site as its one source."""
    (tmp_path / "vendor.asc").write_bytes(openpgp.public(key[0]))
    source = {"uri": site.url, "suites": ["./"], "signed_by": "vendor.asc"}
    return Work(definition(groups, [source]), tmp_path, Blobs(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("profiles", "told"),
    [
        ((["gpu"], ["gpu"], ["control"]), "that a node with the profile gpu gets cannot be installed together"),
        (
            (["gpu", "gateway"], ["monitoring", "gateway"], ["gateway"]),
            "that a node with the profile gateway gets cannot",
        ),
        ((["gpu"], ["gateway"], ["monitoring"]), "that a node with the profiles gpu and gateway gets cannot"),
    ],
)
def test_groups_that_one_node_gets_and_that_conflict_are_refused_as_one_group_is(
    site: aptsite.Site,
    tmp_path: Path,
    keys: tuple[aptsite.Key, aptsite.Key],
    profiles: tuple[list[str], ...],
    told: str,
) -> None:
    site.deb("mta-a", more=MAIL)
    site.deb("needs-b", depends="mta-b")  # the conflict may come with a dependency
    site.deb("mta-b", more=MAIL)
    site.deb("harmless")
    site.publish(keys[0])
    packages = (["mta-a"], ["needs-b"], ["harmless"])
    groups = [{"packages": n, "profiles": p} for n, p in zip(packages, profiles, strict=True)]
    with pytest.raises(InputError, match=told) as refused:
        debs.resolve(with_groups(site, tmp_path, keys[0], groups))
    assert "needs-b : Depends: mta-b" in refused.value.what
    apart = with_groups(site, tmp_path, keys[0], [groups[0], groups[2]])
    assert names(resolve(apart)).keys() == {"mta-a", "harmless"}


def test_groups_that_ask_for_two_versions_of_a_package_are_refused(
    site: aptsite.Site, tmp_path: Path, keys: tuple[aptsite.Key, aptsite.Key]
) -> None:
    site.deb("tool", "1.0")
    site.deb("tool", "2.0")
    site.publish(keys[0])
    groups = [{"packages": [f"tool={v}"], "profiles": ["gpu"]} for v in ("1.0", "2.0")]
    with pytest.raises(InputError, match=r"tool is asked for in the versions 1\.0 and 2\.0"):
        debs.resolve(with_groups(site, tmp_path, keys[0], groups))


def test_a_virtual_package_is_refused_and_its_providers_are_named(
    site: aptsite.Site, tmp_path: Path, keys: tuple[aptsite.Key, aptsite.Key]
) -> None:
    for name in ("mta-b", "mta-a"):
        site.deb(name, more=MAIL)
    site.publish(keys[0])
    with pytest.raises(InputError, match="virtual package provided by: mta-a, mta-b; name one of them"):
        debs.resolve(work_with(site, tmp_path, keys[0], "mail-agent"))


def test_a_package_that_two_groups_need_is_locked_once_with_the_profiles_of_both(
    site: aptsite.Site, tmp_path: Path, keys: tuple[aptsite.Key, aptsite.Key]
) -> None:
    site.deb("base")
    site.deb("one", depends="base, other | two")
    site.deb("two", depends="base")
    site.deb("other", "3")
    site.publish(keys[0])
    work = work_with(site, tmp_path, keys[0], "one")
    source = work.definition.debs.sources[0].model_dump() if work.definition.debs else {}
    groups = [{"packages": ["one"], "profiles": ["gpu"]}, {"packages": ["two"], "profiles": ["gateway"]}]
    wanted = definition(groups, [source])
    lock = lockfile.make(wanted, resolve(Work(wanted, tmp_path, work.cache)))
    assert {a.name: a.profiles for a in lock.artifacts if not debevidence.is_evidence(a)} == {
        "base": ("gateway", "gpu"), "one": ("gpu",), "two": ("gateway",), "other": ("gpu",)
    }  # fmt: skip


def test_packages_are_those_of_the_targets_processor(
    site: aptsite.Site, tmp_path: Path, keys: tuple[aptsite.Key, aptsite.Key]
) -> None:
    site.deb("tool", "1.0")
    site.deb("tool", "0.9", arch="arm64", depends="data")
    site.deb("data", arch="all")
    site.publish(keys[0])
    work = work_with(site, tmp_path, keys[0], "tool", arch="aarch64")
    found = debs.resolve(work)
    assert {a.path for a in found if not debevidence.is_evidence(a)} == {
        "debs/pool/tool_0.9_arm64.deb",
        "debs/pool/data_1.0_all.deb",
    }
    debs.fetch(work, found)
    debs.check(work, found)


@pytest.mark.parametrize("signed", ["not at all", "by a stranger", "over another index"])
def test_a_source_that_its_key_does_not_vouch_for_is_refused(
    signed: str, site: aptsite.Site, tmp_path: Path, keys: tuple[aptsite.Key, aptsite.Key]
) -> None:
    vendor, stranger = keys
    site.deb("tool")
    site.publish({"not at all": None, "by a stranger": stranger}.get(signed, vendor))
    if signed == "over another index":
        index = site.root / "Packages"
        index.write_text(index.read_text().replace("Version: 1.0", "Version: 6.6"))
    with pytest.raises(TrustError) as error:
        resolve(work_with(site, tmp_path, vendor, "tool"))
    assert site.url.rstrip("/") in str(error.value)


def test_a_source_that_does_not_answer_is_named(tmp_path: Path, keys: tuple[aptsite.Key, aptsite.Key]) -> None:
    with aptsite.serve(tmp_path / "gone") as gone:
        pass
    with pytest.raises(UpstreamError, match=gone.url):
        resolve(work_with(gone, tmp_path, keys[0], "tool"))


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ("nowhere", "nowhere"),
        ("tool=9", "'9' for 'tool'"),
        ("broken", "absent-library"),
        ("tool-", "tool-"),  # apt would take it as: remove tool
        ("too.", "too"),  # apt would take it as a pattern
    ],
)
def test_a_package_that_cannot_be_had_is_named_with_the_reason(
    asked: str, reason: str, site: aptsite.Site, tmp_path: Path, keys: tuple[aptsite.Key, aptsite.Key]
) -> None:
    site.deb("tool")
    site.deb("broken", depends="absent-library")
    site.publish(keys[0])
    with pytest.raises(InputError) as error:
        resolve(work_with(site, tmp_path, keys[0], asked))
    assert asked in str(error.value)
    assert reason in str(error.value)


def test_an_address_with_a_password_does_not_get_into_a_lock(
    site: aptsite.Site, tmp_path: Path, keys: tuple[aptsite.Key, aptsite.Key]
) -> None:
    site.deb("tool")
    site.publish(keys[0])
    secret = site.url.replace("http://", "http://me:hunter2@")
    with pytest.raises(ValueError, match="password") as error:
        work_with(site, tmp_path, keys[0], "tool", uri=secret)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(("change", "error"), [("replaced", TrustError), ("removed", UpstreamError)])
def test_a_package_that_changed_upstream_after_the_lock_is_refused(
    change: str, error: type[Exception], site: aptsite.Site, tmp_path: Path, keys: tuple[aptsite.Key, aptsite.Key]
) -> None:
    deb = site.deb("tool")
    site.publish(keys[0])
    work = work_with(site, tmp_path, keys[0], "tool")
    locked = resolve(work)
    if change == "removed":
        deb.unlink()
    else:
        data = bytearray(deb.read_bytes())
        data[-1] ^= 1
        deb.write_bytes(data)
    with pytest.raises(error, match="changed") as caught:
        debs.fetch(work, locked)
    assert "tool_1.0_amd64.deb" in str(caught.value)
    assert "ock again" in str(caught.value) or "`appliance lock` again" in str(caught.value)
    assert not work.cache.has(locked[0].sha256, locked[0].size)


def test_a_file_that_is_another_package_than_its_name_says_is_refused(
    site: aptsite.Site, tmp_path: Path, keys: tuple[aptsite.Key, aptsite.Key]
) -> None:
    site.deb("tool")
    site.publish(keys[0])
    work = work_with(site, tmp_path, keys[0], "tool")
    (artifact,) = resolve(work)
    debs.fetch(work, [artifact])
    for lie in ({"name": "other"}, {"version": "2.0"}, {"path": "debs/pool/tool_1.0_all.deb"}):
        with pytest.raises(TrustError, match=r"tool 1\.0 amd64"):
            debs.check(work, [artifact.model_copy(update=lie)])


@pytest.mark.parametrize("other", ["dead", "unsigned", "unsigned, trusted=yes"])
def test_of_the_builders_sources_one_that_cannot_be_verified_is_remarked_on_and_left_out(
    other: str,
    site: aptsite.Site,
    tmp_path: Path,
    keys: tuple[aptsite.Key, aptsite.Key],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site.deb("tool")
    site.publish(keys[0])
    etc = tmp_path / "etc"
    (etc / "sources.list.d").mkdir(parents=True)
    (etc / "trusted.gpg.d").mkdir()
    (etc / "trusted.gpg.d/vendor.asc").write_bytes(openpgp.public(keys[0][0]))
    (etc / "sources.list").write_text(f"deb {site.url} ./\n")
    release = platform.freedesktop_os_release()
    target = f"{release['ID']}-{release['VERSION_ID']}"
    wanted = definition([{"packages": ["tool"], "profiles": ["gpu"]}], [], os=target)
    remarks = Remarks()
    work = Work(wanted, tmp_path, Blobs(tmp_path / "cache"), remarks)
    monkeypatch.setattr(debs, "BUILDERS_APT", etc)
    with aptsite.serve(tmp_path / "third/site", "127.0.0.2") as third:
        third.deb("tool", "7.7")
        third.publish(keys[0] if other == "dead" else None)
        option = "[trusted=yes] " if "trusted" in other else ""
        (etc / "sources.list.d/third.list").write_text(f"deb {option}{third.url} ./\n")
        if other != "dead":
            assert names(resolve(work)) == {"tool": "1.0"}
    if other == "dead":
        assert names(resolve(work)) == {"tool": "1.0"}
    said = "\n".join(remarks.lines)
    assert third.url.rstrip("/") in said
    assert ("switches verification off" in said) is ("trusted" in other)
    (etc / "sources.list").unlink()
    with pytest.raises((UpstreamError, TrustError), match="source"):
        resolve(work)


def test_another_release_needs_sources_of_its_own(tmp_path: Path) -> None:
    mine = platform.freedesktop_os_release()["VERSION_ID"]
    other = "debian-13" if mine != "13" else "debian-12"
    wanted = definition([{"packages": ["hostname"], "profiles": ["gpu"]}], [], os=other)
    with pytest.raises(InputError, match=r"debs\.sources"):
        resolve(Work(wanted, tmp_path, Blobs(tmp_path / "cache")))
