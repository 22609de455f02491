"""The attacks that the TUF specification names (section 1.5.2), each tried on what a depot or a node does with a bundle."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata, Snapshot, Timestamp
from tuf.ngclient.fetcher import FetcherInterface

from engine import trust
from engine.errors import InputError, TrustError
from engine.memory import Demand, Memory
from engine.verify import open_bundle, verify
from installer.depot import Depot
from tests.bundles import NOW, Bundle, MemoryKeys, make

FILES = {"models/tiny/model.safetensors": b"weights" * 1000, "files/a.txt": b"a", "manifest.json": b"{}"}


@pytest.fixture
def keys(tmp_path: Path) -> MemoryKeys:
    return MemoryKeys(tmp_path / "keys")


@pytest.fixture
def memory(tmp_path: Path, keys: MemoryKeys) -> Memory:
    """A client that pinned the first root."""
    return Memory(tmp_path / "memory", keys.roots[1])


def release(tmp_path: Path, keys: MemoryKeys, version: str, **more: object) -> Bundle:
    """A bundle of these keys; each version's files differ."""
    files = {**FILES, "files/version": version.encode()}
    return make(tmp_path / version, files, keys=keys, version=version, **more)  # type: ignore[arg-type]


def seen(bundle: Bundle, memory: Memory, demand: Demand = Demand()) -> trust.Trusted:  # noqa: B008  frozen
    return open_bundle(bundle.path, memory.newest_root(), memory, demand)


def test_arbitrary_installation_content_of_a_stranger_is_refused(tmp_path: Path, memory: Memory) -> None:
    stranger = make(tmp_path / "stranger", FILES)
    with pytest.raises(TrustError, match="not signed by the keys"):
        seen(stranger, memory)


def test_arbitrary_installation_a_replaced_file_is_refused(tmp_path: Path, keys: MemoryKeys) -> None:
    bundle = release(tmp_path, keys, "1.0.0")
    (bundle.path / "content/files/a.txt").write_bytes(b"b")
    assert [(f.problem, f.path) for f in verify(bundle.path, bundle.root).findings] == [
        ("changed", "content/files/a.txt")
    ]


class Endless(FetcherInterface):
    """Serves a bundle's metadata, and one of the files without end."""

    def __init__(self, bundle: Path, victim: str) -> None:
        self._bundle, self._victim = bundle, victim
        self.sent = 0

    def _fetch(self, url: str) -> Iterator[bytes]:
        name = url.rsplit("/", 1)[1]
        if name == self._victim:
            while True:
                self.sent += 1 << 16
                yield b" " * (1 << 16)
        path = self._bundle / "metadata" / name
        if not path.exists():
            raise DownloadHTTPError(f"{name} is missing", 404)
        yield path.read_bytes()


@pytest.mark.parametrize("victim", ["2.root.json", "timestamp.json", "snapshot.json", "targets.json"])
def test_endless_data_is_cut_off_at_the_length_that_is_allowed(tmp_path: Path, keys: MemoryKeys, victim: str) -> None:
    bundle = release(tmp_path, keys, "1.0.0")
    source = Endless(bundle.path, victim)
    with pytest.raises(TrustError, match="longer than it may be"):
        trust.refresh(fetcher=source, url="file://", state=tmp_path / "state", pinned_root=bundle.root)
    assert source.sent <= trust.CONFIG.targets_max_length + (1 << 17)


def test_endless_data_a_file_longer_than_signed_is_not_read_to_its_end(tmp_path: Path, keys: MemoryKeys) -> None:
    bundle = release(tmp_path, keys, "1.0.0")
    victim = bundle.path / "content/files/a.txt"
    with victim.open("wb") as file:
        file.truncate(1 << 42)  # a hole: reading it would take hours
    found = verify(bundle.path, bundle.root).findings
    assert [(f.path, f.detail) for f in found] == [("content/files/a.txt", f"{1 << 42} bytes, signed 1")]


def test_extraneous_targets_are_not_taken_along(tmp_path: Path, keys: MemoryKeys) -> None:
    """A file that nobody signed is named; a signed one goes only to nodes whose profile asks for it."""
    bundle = release(tmp_path, keys, "1.0.0")
    (bundle.path / "content/files/extra").write_bytes(b"x")
    assert [(f.problem, f.path) for f in verify(bundle.path, bundle.root).findings] == [
        ("extra", "content/files/extra")
    ]
    with pytest.raises(TrustError, match="covered by no signature"):
        Depot(tmp_path / "depot").import_bundle(bundle.path, root_json=_pin(tmp_path, bundle))
    assert open_bundle(bundle.path, bundle.root).for_profiles({"monitoring"}) == []


def test_fast_forward_a_version_far_ahead_is_refused_and_does_not_lock_the_client_out(
    tmp_path: Path, keys: MemoryKeys, memory: Memory
) -> None:
    """Versions are signing times: one from the future is refused before it is remembered."""
    ahead = release(tmp_path, keys, "9.0.0", now=NOW + timedelta(days=3650))
    with pytest.raises(TrustError, match="later than this machine's clock"):
        seen(ahead, memory)
    assert seen(release(tmp_path, keys, "1.0.0"), memory).release == "demo-1.0.0"


@pytest.mark.parametrize("ahead", [timedelta(minutes=12), timedelta(days=400), None])
def test_fast_forward_by_a_stolen_timestamp_key_does_not_lock_the_client_out(
    tmp_path: Path, keys: MemoryKeys, memory: Memory, ahead: timedelta | None
) -> None:
    """A thief of the timestamp key alone can neither install anything nor raise the stored version above the clock."""
    bundle = release(tmp_path, keys, "1.0.0", now=NOW - timedelta(hours=2))
    seen(bundle, memory)
    raw = Metadata[Timestamp].from_bytes((bundle.path / "metadata/timestamp.json").read_bytes())
    raw.signed.version = int((datetime.now(UTC) + ahead).timestamp()) if ahead else 1 << 40
    raw.sign(keys.by_role["timestamp"][0])
    thief = tmp_path / "thief"
    shutil.copytree(bundle.path, thief)
    (thief / "metadata/timestamp.json").write_bytes(raw.to_bytes())
    with pytest.raises(TrustError, match=r"timestamp metadata was signed at .* fast-forward attack"):
        open_bundle(thief, memory.newest_root(), memory)
    assert seen(release(tmp_path, keys, "1.1.0"), memory).release == "demo-1.1.0"


def test_indefinite_freeze_expired_metadata_is_refused_even_if_it_was_accepted_before(
    tmp_path: Path, keys: MemoryKeys, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = release(tmp_path, keys, "1.0.0", days=30)
    seen(bundle, memory)
    later = datetime.now(UTC) + timedelta(days=31)
    _clock(monkeypatch, later)
    with pytest.raises(TrustError, match="expired"):
        seen(bundle, memory)


def test_indefinite_freeze_a_clock_set_back_does_not_revive_expired_metadata(
    tmp_path: Path, keys: MemoryKeys, memory: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = release(tmp_path, keys, "1.0.0", days=30)
    _clock(monkeypatch, datetime.now(UTC) + timedelta(days=40))
    seen(make(tmp_path / "late", FILES, keys=keys, version="1.1.0", days=90), memory)
    _clock(monkeypatch, datetime.now(UTC) + timedelta(days=5))
    with pytest.raises(TrustError, match=r"it has been .* already") as refused:
        seen(old, memory)
    assert refused.value.where == str(memory.clock_file)
    assert "Set the clock" in refused.value.remedy


def test_mix_and_match_metadata_of_two_releases_is_refused(tmp_path: Path, keys: MemoryKeys, memory: Memory) -> None:
    one = release(tmp_path, keys, "1.0.0", now=NOW - timedelta(hours=1))
    two = release(tmp_path, keys, "2.0.0")
    shutil.copyfile(one.path / "metadata/targets.json", two.path / "metadata/targets.json")
    with pytest.raises(TrustError, match="mixed from two bundles"):
        seen(two, memory)


def test_mix_and_match_files_of_another_release_are_refused(tmp_path: Path, keys: MemoryKeys) -> None:
    one, two = release(tmp_path, keys, "1.0.0"), release(tmp_path, keys, "2.0.0")
    shutil.copyfile(one.path / "content/files/version", two.path / "content/files/version")
    assert [f.path for f in verify(two.path, two.root).findings] == ["content/files/version"]


def test_rollback_an_older_release_is_refused_once_a_newer_one_was_seen(
    tmp_path: Path, keys: MemoryKeys, memory: Memory
) -> None:
    old = release(tmp_path, keys, "1.0.0", now=NOW - timedelta(hours=1))
    seen(release(tmp_path, keys, "1.1.0"), memory)
    with pytest.raises(TrustError, match="older") as refused:
        seen(old, memory)
    assert "planned downgrade" in refused.value.remedy


def test_rollback_of_a_machine_without_memory_is_refused_by_the_minimum_it_is_given(
    tmp_path: Path, keys: MemoryKeys, memory: Memory
) -> None:
    """A reinstalled node has forgotten; the control host remembers for it."""
    old = release(tmp_path, keys, "1.0.0", now=NOW - timedelta(hours=1))
    newest = seen(release(tmp_path, keys, "1.1.0"), memory).version
    reinstalled = Memory(tmp_path / "reinstalled", keys.roots[1])
    with pytest.raises(TrustError, match=f"at least {newest} is required"):
        seen(old, reinstalled, Demand(minimum_version=newest))
    assert reinstalled.names() == []


@pytest.mark.parametrize("damage", ["targets.json", "timestamp.json", "all"])
def test_rollback_is_refused_although_the_newest_metadata_were_damaged_or_lost(
    tmp_path: Path, keys: MemoryKeys, memory: Memory, damage: str
) -> None:
    """python-tuf takes damaged state for none; the record of versions does not forget with it."""
    old = release(tmp_path, keys, "1.0.0", now=NOW - timedelta(hours=1))
    seen(release(tmp_path, keys, "1.1.0"), memory)
    if damage == "all":
        shutil.rmtree(memory.state("demo"))
    else:
        (memory.state("demo") / damage).write_bytes(b"{")
    with pytest.raises(TrustError, match="older"):
        seen(old, memory)
    assert seen(release(tmp_path, keys, "1.2.0", now=NOW + timedelta(seconds=1)), memory).release == "demo-1.2.0"


@pytest.mark.parametrize("text", ["", "{", "[]", '{"demo": "x"}', "null"])
def test_a_damaged_record_of_versions_is_not_guessed(
    tmp_path: Path, keys: MemoryKeys, memory: Memory, text: str
) -> None:
    seen(release(tmp_path, keys, "1.1.0"), memory)
    (memory.directory / "versions.json").write_text(text)
    with pytest.raises(TrustError, match="cannot read which versions were seen"):
        seen(release(tmp_path, keys, "1.2.0", now=NOW + timedelta(seconds=1)), memory)


def test_a_planned_downgrade_needs_a_reason_and_is_on_record(tmp_path: Path, keys: MemoryKeys, memory: Memory) -> None:
    old = release(tmp_path, keys, "1.0.0", now=NOW - timedelta(hours=1))
    seen(release(tmp_path, keys, "1.1.0"), memory)
    with pytest.raises(InputError, match="too short"):
        seen(old, memory, Demand(downgrade="because"))
    assert seen(old, memory, Demand(downgrade="1.1.0 loses requests, change 4711")).release == "demo-1.0.0"
    [line] = memory.overrides.read_text().splitlines()
    assert json.loads(line)["reason"] == "1.1.0 loses requests, change 4711"
    assert json.loads(line)["to"] < json.loads(line)["from"]


def test_a_planned_downgrade_does_not_undo_a_revocation(tmp_path: Path, keys: MemoryKeys, memory: Memory) -> None:
    old = release(tmp_path, keys, "1.0.0", now=NOW - timedelta(hours=1))
    keys.replace("targets")
    seen(release(tmp_path, keys, "1.1.0"), memory)
    with pytest.raises(TrustError, match="not signed by the keys"):
        seen(old, memory, Demand(downgrade="1.1.0 loses requests, change 4711"))


def test_key_compromise_one_of_two_release_keys_is_not_enough(tmp_path: Path) -> None:
    keys = MemoryKeys(tmp_path / "keys", signers=3, signatures=2)
    stolen = keys.by_role["targets"][:1]
    keys.by_role["targets"] = stolen
    bundle = make(tmp_path, FILES, keys=keys)
    with pytest.raises(TrustError, match="not signed yet"):
        verify(bundle.path, bundle.root)
    _finish_anyway(bundle, keys)
    with pytest.raises(TrustError, match="not signed by the keys"):
        verify(bundle.path, bundle.root)


def test_key_compromise_root_keys_below_the_threshold_cannot_change_keys(
    tmp_path: Path, keys: MemoryKeys, memory: Memory
) -> None:
    keys.next_root(lambda root: None, keys.root_signers[:1])
    with pytest.raises(TrustError, match="not signed by the keys"):
        seen(release(tmp_path, keys, "1.0.0"), memory)
    with pytest.raises(TrustError, match="as the one before it demands"):
        memory.learn(keys.roots)


def test_key_compromise_one_root_key_cannot_sign_twice(tmp_path: Path, keys: MemoryKeys, memory: Memory) -> None:
    """The same signature under two names counts once."""
    keys.next_root(lambda root: None, keys.root_signers[:1])
    raw = json.loads(keys.roots[2])
    raw["signatures"].append(dict(raw["signatures"][0]))
    keys.roots[2] = json.dumps(raw).encode()
    with pytest.raises(TrustError):
        memory.learn(keys.roots)


def test_key_compromise_a_revoked_release_key_counts_for_nothing_after_the_update_that_says_so(
    tmp_path: Path, keys: MemoryKeys, memory: Memory
) -> None:
    signed_before = release(tmp_path, keys, "1.0.0")
    keys.replace("targets")
    assert memory.learn(keys.roots) == 2
    with pytest.raises(TrustError, match="not signed by the keys"):
        seen(signed_before, memory)


def test_a_revocation_learned_with_one_bundle_holds_for_bundles_of_every_other_name(
    tmp_path: Path, keys: MemoryKeys, memory: Memory
) -> None:
    other = make(tmp_path / "other", FILES, keys=keys, name="other")
    keys.replace("targets")
    seen(release(tmp_path, keys, "1.0.0"), memory)
    with pytest.raises(TrustError, match="not signed by the keys"):
        seen(other, memory)


def test_a_site_that_missed_three_rotations_follows_them_in_one_bundle(
    tmp_path: Path, keys: MemoryKeys, memory: Memory
) -> None:
    """One root key is lost, the other two rotate it out; then targets and timestamp keys change."""
    seen(release(tmp_path, keys, "1.0.0", now=NOW - timedelta(hours=1)), memory)
    lost = keys.root_signers.pop(0)
    keys.next_root(lambda root: root.revoke_key(lost.public_key.keyid, "root"))
    keys.replace("targets")
    keys.replace("timestamp")
    assert seen(release(tmp_path, keys, "2.0.0"), memory).root_version == 4


def test_an_altered_provenance_statement_is_a_changed_file(tmp_path: Path, keys: MemoryKeys) -> None:
    bundle = make(tmp_path, {**FILES, "provenance/bundle.intoto.json": b'{"builder": "ours"}'}, keys=keys)
    (bundle.path / "content/provenance/bundle.intoto.json").write_bytes(b'{"builder": "evil"}')
    assert [f.path for f in verify(bundle.path, bundle.root).findings] == ["content/provenance/bundle.intoto.json"]


def test_wrong_software_a_bundle_in_the_place_of_another_is_known_by_its_signed_name(
    tmp_path: Path, keys: MemoryKeys
) -> None:
    other = make(tmp_path / "other", FILES, keys=keys, name="other")
    renamed = other.path.rename(other.path.with_name("demo-1.0.0"))
    assert open_bundle(renamed, keys.roots[1]).release == "other-1.0.0"


def test_a_root_chain_with_a_gap_is_refused_and_what_came_before_it_is_kept(keys: MemoryKeys, memory: Memory) -> None:
    for _ in range(3):
        keys.next_root(lambda root: None)
    with pytest.raises(TrustError, match="version 3 of the root is missing"):
        memory.learn({n: r for n, r in keys.roots.items() if n != 3})
    assert max(memory.roots()) == 2


def test_a_depot_hands_new_roots_on_to_its_nodes(tmp_path: Path, keys: MemoryKeys) -> None:
    depot = Depot(tmp_path / "depot")
    bundle = release(tmp_path, keys, "1.0.0")
    depot.import_bundle(bundle.path, root_json=_pin(tmp_path, bundle))
    keys.replace("timestamp")
    assert depot.learn(keys.roots) == 2
    node = Memory(tmp_path / "node", keys.roots[1])
    with pytest.raises(TrustError, match="not signed by the keys"):
        open_bundle(depot.view("demo-1.0.0"), keys.roots[1], node)


def test_renewed_metadata_alone_renews_the_depot_and_its_nodes(tmp_path: Path, keys: MemoryKeys) -> None:
    from installer.trust import sign

    depot = Depot(tmp_path / "depot")
    bundle = release(tmp_path, keys, "1.0.0", now=NOW - timedelta(days=1))
    first = depot.import_bundle(bundle.path, root_json=_pin(tmp_path, bundle))
    keys.replace("targets")
    renewal = tmp_path / "renewal"
    sign.renew(bundle.path, renewal, keys=keys, passphrase="", days=30, now=NOW)
    again = depot.import_bundle(renewal)
    assert again.changed
    assert again.copied == 0
    assert again.trusted.version > first.trusted.version
    node = Memory(tmp_path / "node", keys.roots[1])
    assert open_bundle(depot.view("demo-1.0.0"), keys.roots[1], node).root_version == 2


def test_a_renewal_for_content_the_depot_lacks_names_what_is_missing(tmp_path: Path, keys: MemoryKeys) -> None:
    from installer.trust import sign

    bundle = release(tmp_path, keys, "1.0.0", now=NOW - timedelta(days=1))
    sign.renew(bundle.path, tmp_path / "renewal", keys=keys, passphrase="", days=30, now=NOW)
    with pytest.raises(TrustError, match="neither in the bundle nor in the depot"):
        Depot(tmp_path / "depot").import_bundle(tmp_path / "renewal", root_json=_pin(tmp_path, bundle))


def test_a_bundle_of_strangers_is_not_renewed(tmp_path: Path, keys: MemoryKeys) -> None:
    from installer.trust import sign

    stranger = make(tmp_path / "stranger", FILES)
    with pytest.raises(TrustError, match="not signed with these keys"):
        sign.renew(stranger.path, tmp_path / "renewal", keys=keys, passphrase="", days=30, now=NOW)


def _pin(tmp_path: Path, bundle: Bundle) -> Path:
    path = tmp_path / "root.json"
    path.write_bytes(bundle.root)
    return path


def _clock(monkeypatch: pytest.MonkeyPatch, now: datetime) -> None:
    """What every reader of the clock on the way sees."""

    class Clock(datetime):
        @classmethod
        def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
            return now

    for module in ("engine.memory", "tuf.ngclient._internal.trusted_metadata_set"):
        monkeypatch.setattr(f"{module}.datetime" if module == "engine.memory" else f"{module}.datetime.datetime", Clock)


def _finish_anyway(bundle: Bundle, keys: MemoryKeys) -> None:
    """A thief who also holds the builder's own keys writes snapshot and timestamp over a release that too few signed."""
    raw = (bundle.path / "metadata/targets.json").read_bytes()
    targets = Metadata.from_bytes(raw).signed
    from installer.trust.sign import _meta

    snapshot = Metadata(
        Snapshot(version=targets.version, expires=targets.expires, meta={"targets.json": _meta(targets.version, raw)})
    )
    snapshot.sign(keys.by_role["snapshot"][0])
    raw_snapshot = snapshot.to_bytes()
    timestamp = Metadata(
        Timestamp(version=targets.version, expires=targets.expires, snapshot_meta=_meta(targets.version, raw_snapshot))
    )
    timestamp.sign(keys.by_role["timestamp"][0])
    (bundle.path / "metadata/snapshot.json").write_bytes(raw_snapshot)
    (bundle.path / "metadata/timestamp.json").write_bytes(timestamp.to_bytes())
