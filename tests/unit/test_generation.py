"""Generations on a directory that stands for a node: kept, compared, switched, killed in between, pruned."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from engine import durable
from engine.daytwo import states as remote
from engine.errors import ApplianceError, InputError, ResourceError
from engine.generation import checks, cli, states, tree, units
from engine.generation.store import Store
from engine.generation.switch import switch

VLLM = "[Service]\nExecStart=/opt/appliance/runtimes/{image}/bin/python\nLoadCredential=config.yaml:/etc/appliance/vllm/%i.yaml\nUser=root\n"
NGINX = "[Service]\nExecStart=/usr/sbin/nginx -c /etc/appliance/nginx/nginx.conf\nUser=root\n"


def write(root: Path, path: str, text: str, mode: int = 0o644) -> None:
    durable.write(root / path, text, mode=mode)


def link(root: Path, path: str, target: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).unlink(missing_ok=True)
    (root / path).symlink_to(target)


def install(root: Path, release: str, image: str, temperature: str = "1") -> None:
    """What the roles leave, in little."""
    unit = "etc/systemd/system"
    write(root, f"{unit}/appliance-vllm@.service", VLLM.format(image=image))
    write(root, f"{unit}/appliance-nginx.service", NGINX)
    write(root, f"{unit}/opt-appliance-runtimes-{image}.mount", f"[Mount]\nWhere=/opt/appliance/runtimes/{image}\n")
    for name, file in (
        ("appliance-vllm@chat.service", "appliance-vllm@.service"),
        ("appliance-nginx.service", "appliance-nginx.service"),
    ):
        link(root, f"{unit}/multi-user.target.wants/{name}", f"/{unit}/{file}")
    write(root, "etc/appliance/vllm/chat.yaml", f"temperature: {temperature}\n", 0o600)
    write(root, "etc/appliance/nginx/nginx.conf", "listen 8443;\n")
    write(root, "etc/appliance/pki/node.key", "secret", 0o640)
    write(root, "etc/appliance/gateway/gateway.yml", "tenants", 0o640)
    write(root, "etc/operators-own.conf", "mine\n")
    write(root, f"var/lib/appliance/views/{release}/content/a", release)
    (root / f"opt/appliance/releases/{release}").mkdir(parents=True, exist_ok=True)
    link(root, tree.CURRENT, f"releases/{release}")


class Record:
    """A double of systemd: remembers what it was asked."""

    def __init__(self, loaded: Iterable[str] = (), die_at: str = "") -> None:
        self.known, self.die_at, self.said = tuple(loaded), die_at, list[tuple[str, tuple[str, ...]]]()

    def loaded(self) -> tuple[str, ...]:
        return self.known

    def inactive(self, units: Iterable[str]) -> tuple[str, ...]:
        return ()

    def forget_failures(self) -> None:
        pass

    def missed(self) -> tuple[str, ...]:
        return ()

    def _note(self, what: str, units: Iterable[str] = ()) -> None:
        self.said.append((what, tuple(units)))
        if what == self.die_at:
            raise ApplianceError("killed here")

    def stop(self, units: Iterable[str]) -> None:
        self._note("stop", units)

    def reload(self) -> None:
        self._note("reload")

    def reload_edge(self) -> None:
        self._note("reload the edge")

    def start(self, units: Iterable[str]) -> None:
        self._note("start", units)


LOADED = (
    "appliance-vllm@chat.service",
    "appliance-nginx.service",
    "opt-appliance-runtimes-new.mount",
    "appliance-firewall.service",
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path)
    install(tmp_path, "d-1", "old")
    made.keep("in-1", {"x": 1})
    return made


def upgrade(store: Store) -> None:
    (store.root / "etc/systemd/system/opt-appliance-runtimes-old.mount").unlink()
    install(store.root, "d-2", "new", "2")


def test_keeping_the_same_again_writes_nothing(store: Store) -> None:
    before = {p: p.lstat().st_mtime_ns for p in store.directory.rglob("*")}
    kept, changed = store.keep("in-1", {"x": 1})
    assert (kept.number, kept.release, changed) == (1, "d-1", False)
    assert {p: p.lstat().st_mtime_ns for p in store.directory.rglob("*")} == before


def test_the_list_says_which_files_differ_from_the_current_state(store: Store) -> None:
    upgrade(store)
    store.keep("in-2", {})
    before, now = states.listed(store)["generations"]
    assert now["differs"] == []
    assert {"/opt/appliance/current", "/etc/systemd/system/opt-appliance-runtimes-old.mount"} <= set(before["differs"])


def test_secrets_and_the_operators_files_are_not_kept(store: Store) -> None:
    kept = store.load(1)
    assert "etc/appliance/gateway/gateway.yml" not in kept.entries  # a revoked key would come back
    assert "etc/appliance/pki/node.key" not in kept.entries and "etc/operators-own.conf" not in kept.entries
    assert not [p for p in store.directory.rglob("*") if p.is_file() and p.stat().st_mode & 0o077 and p.name != ".lock"]


def test_a_switch_puts_back_files_modes_links_and_removes_what_was_new(store: Store) -> None:
    before = tree.scan(store.root)
    upgrade(store)
    store.keep("in-2", {})
    systemd = Record(LOADED)
    done = switch(store, store.previous(), systemd, lambda _texts: False)  # type: ignore[arg-type]
    assert tree.scan(store.root) == before
    assert (done.generation, done.release) == (1, "d-1")
    assert (store.root / "etc/operators-own.conf").read_text() == "mine\n"
    assert (store.root / tree.CURRENT).readlink().name == "d-1"
    # The edge leaves first and comes last; the mount of the new image ends after the service that used it; the firewall is not touched.
    assert systemd.said[0] == (
        "stop",
        ("appliance-nginx.service", "appliance-vllm@chat.service", "opt-appliance-runtimes-new.mount"),
    )
    assert [u for u in systemd.said[-1][1] if u.endswith(".service")] == [
        "appliance-vllm@chat.service",
        "appliance-nginx.service",
    ]
    current = store.current()
    assert current is not None and current.number == 1


@pytest.mark.parametrize("place", ["stop", "reload", "start"])
def test_a_switch_that_is_killed_is_ended_by_the_next(store: Store, place: str) -> None:
    before = tree.scan(store.root)
    upgrade(store)
    store.keep("in-2", {})
    with pytest.raises(ApplianceError, match="killed here"):
        switch(store, store.load(1), Record(LOADED, die_at=place), lambda _texts: False)  # type: ignore[arg-type]
    assert store.begun() == 1
    current = store.current()
    assert current is not None and current.number == 2  # nothing counts before it is done
    switch(store, store.load(1), Record(LOADED), lambda _texts: False)  # type: ignore[arg-type]
    assert tree.scan(store.root) == before and store.begun() is None


def test_every_file_changes_whole_or_not_at_all_and_the_release_last(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at every durable write in turn: what is there is a mixture of whole files, and the next switch completes."""
    before = tree.scan(store.root)
    upgrade(store)
    store.keep("in-2", {})
    after = tree.scan(store.root)
    real, left = durable.write, [0]

    def dying(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
        if left[0] == 0:
            raise KeyboardInterrupt
        left[0] -= 1
        real(path, data, mode=mode)

    points = 0
    for n in range(50):
        left[0] = n
        monkeypatch.setattr("engine.durable.write", dying)
        try:
            store.put_back(store.load(1))
        except KeyboardInterrupt:
            now = tree.scan(store.root)
            assert all(entry in (before.get(p), after.get(p)) for p, entry in now.items())
            assert now[tree.CURRENT] == after[tree.CURRENT]
            points += 1
            monkeypatch.setattr("engine.durable.write", real)
            store.put_back(store.load(2))
            continue
        break
    assert points >= 2
    assert tree.scan(store.root) == before


def test_a_damaged_copy_is_found_before_anything_changes(store: Store) -> None:
    upgrade(store)
    store.keep("in-2", {})
    after = tree.scan(store.root)
    (store.directory / "1/files/etc/appliance/vllm/chat.yaml").write_text("temperature: 9\n")
    with pytest.raises(ApplianceError, match="damaged"):
        store.put_back(store.load(1))
    assert tree.scan(store.root) == after


def test_pruning_keeps_the_newest_and_the_current(store: Store) -> None:
    for n in range(2, 6):
        write(store.root, "etc/appliance/nginx/nginx.conf", f"listen {n};\n")
        store.keep(f"in-{n}", {})
    store.end(1)
    assert store.surplus(2) == (2, 3)
    store.forget(store.surplus(2))
    assert store.numbers() == (1, 4, 5)


def test_one_at_a_time(store: Store) -> None:
    with store.exclusive(), pytest.raises(ResourceError, match="already"), Store(store.root).exclusive():
        pass


def test_there_is_nothing_before_the_first(tmp_path: Path) -> None:
    assert Store(tmp_path).current() is None and Store(tmp_path).previous() is None
    with pytest.raises(InputError, match="The node has: none"):
        Store(tmp_path).load(1)


def test_only_what_a_unit_reads_restarts_it(tmp_path: Path) -> None:
    install(tmp_path, "d-1", "old")
    before = tree.scan(tmp_path)
    write(tmp_path, "etc/appliance/vllm/chat.yaml", "temperature: 7\n", 0o600)
    after = tree.scan(tmp_path)
    moved = tree.differences(after, before)
    planned = units.moves(moved, after, before, LOADED[:2], lambda p: (tmp_path / p).read_text())
    assert planned.stop == ("appliance-vllm@chat.service",) == planned.start


@pytest.mark.parametrize("only", [True, False])
def test_the_only_gateway_answers_while_the_rest_is_switched(tmp_path: Path, only: bool) -> None:
    """It is told to by a file, reads its configuration at the end, and the file is gone then; elsewhere the edge stops first."""
    store, asks, drained = Store(tmp_path), f"if (-f /{units.DRAINED})" if only else "", tmp_path / units.DRAINED
    (tmp_path / "run/appliance-nginx").mkdir(parents=True)
    for number in "12":
        install(tmp_path, f"d-{number}", f"image{number}")
        write(tmp_path, units.EDGE_CONFIGURATION, f"{asks} {number}")
        store.keep(f"in-{number}", {})

    class Watched(Record):
        def _note(self, what: str, units: Iterable[str] = ()) -> None:
            super()._note(f"{what}, drained" if drained.exists() else what, units)

    systemd = Watched(LOADED)
    switch(store, store.load(1), systemd, lambda _texts: False)  # type: ignore[arg-type]
    said = dict(systemd.said)
    stops = said["stop, drained" if only else "stop"]
    assert (units.EDGE in stops) == (not only) and "appliance-vllm@chat.service" in stops
    assert ("reload the edge, drained" in said) == only
    assert not drained.exists()


def test_an_edge_that_was_left_out_of_service_is_drift(store: Store) -> None:
    write(store.root, units.DRAINED, "")
    assert "the edge answers that the node is out of service" in cli._drift(store, store.load(1), Record(LOADED))  # type: ignore[arg-type]


def test_drift_is_named(tmp_path: Path) -> None:
    install(tmp_path, "d-1", "old")
    noted = checks.note(tmp_path, "d-1", "2030-01-01T00:00:00+00:00")
    assert checks.changes(tmp_path, "d-1", noted, "2029-01-01T00:00:00+00:00") == []
    assert "renewal" in checks.changes(tmp_path, "d-1", noted, "2030-01-02T00:00:00+00:00")[0]
    write(tmp_path, "etc/appliance/pki/node.key", "another", 0o640)
    write(tmp_path, "var/lib/appliance/views/d-1/content/a", "changed")
    found = checks.changes(
        tmp_path, "d-1", {**noted, "accounts": ["nobody-has-this-name"]}, "2029-01-01T00:00:00+00:00"
    )
    assert len(found) == 3


def test_packages_of_the_release_are_those_that_its_repository_names(tmp_path: Path) -> None:
    write(
        tmp_path,
        "var/lib/dpkg/status",
        "Package: nginx\nStatus: install ok installed\nVersion: 1\n\nPackage: vim\nStatus: install ok installed\nVersion: 2\n",
    )
    write(
        tmp_path, "var/lib/appliance/apt/lists/x_Packages", "Package: nginx\nVersion: 1\n\nPackage: curl\nVersion: 3\n"
    )
    assert checks.packages(tmp_path) == {"nginx": "1"}
    write(tmp_path, "var/lib/dpkg/status", "Package: nginx\nStatus: deinstall ok config-files\nVersion: 1\n")
    assert checks.packages(tmp_path) == {}


def test_what_an_interrupted_write_left_does_not_count(store: Store) -> None:
    (store.root / "etc/appliance/nginx/.nginx.conf.ab12.tmp").write_text("half")
    assert tree.scan(store.root) == store.load(1).entries
    assert len(list((store.root / "etc/appliance/nginx").iterdir())) == 2


def test_what_should_run_and_does_not() -> None:
    def shown(unit: str, state: str, kind: str = "exec", remain: str = "no", met: str = "yes", at: str = "5") -> str:
        return (
            f"Id={unit}\nActiveState={state}\nType={kind}\nRemainAfterExit={remain}\nConditionResult={met}\n"
            f"ConditionTimestampMonotonic={at}\n"
        )

    text = "\n".join(
        [
            shown("up.service", "active"), shown("down.service", "inactive"), shown("broken.service", "failed"),
            shown("done.service", "inactive", "oneshot"), shown("undone.service", "failed", "oneshot"),
            shown("stays.service", "inactive", "oneshot", "yes"), shown("unmet.service", "inactive", met="no"),
            shown("never.service", "inactive", met="no", at="0"),
        ]
    )  # fmt: skip
    assert units.idle(text) == ("down.service", "broken.service", "undone.service", "stays.service", "never.service")


# -- dropping states for the sake of the disk ---------------------------------------------------------
def content(root: Path, release: str, name: str, size: int) -> Path:
    """A file of a release as a fetch leaves it: one file of content, linked where the release shows it."""
    blob = root / "var/lib/appliance/blobs" / hashlib.sha256(name.encode()).hexdigest()
    if not blob.exists():
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(b"x" * size)
    view = root / f"var/lib/appliance/views/{release}/content/{name}"
    view.parent.mkdir(parents=True, exist_ok=True)
    view.hardlink_to(blob)
    return blob


@pytest.fixture
def changed(store: Store) -> Store:
    """A node that went from model A to model B: d-1 shows A and what both share, d-2 shows B and the same."""
    content(store.root, "d-1", "models/a", 1000)
    content(store.root, "d-1", "debs/both", 10)
    write(store.root, "opt/appliance/releases/d-1/vllm/lib/torch.so", "t" * 500)
    (store.root / "opt/appliance/releases/d-1/vllm/lib/again.so").hardlink_to(
        store.root / "opt/appliance/releases/d-1/vllm/lib/torch.so"
    )
    upgrade(store)
    content(store.root, "d-2", "models/b", 2000)
    content(store.root, "d-2", "debs/both", 10)
    store.keep("in-2", {})
    return store


def everything(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*") if p.name != ".lock"}


def free(root: Path) -> int:
    """Bytes of all files, each counted once."""
    files = {(s.st_dev, s.st_ino): s.st_size for p in root.rglob("*") if p.is_file() for s in [p.lstat()]}
    return sum(files.values())


def test_dropping_the_older_state_frees_its_model_and_keeps_what_both_need(changed: Store) -> None:
    root, before = changed.root, everything(changed.root)
    told = remote.answer({"keep": 1, "check": True}, root)
    assert everything(root) == before  # a dry run
    records = sum(p.stat().st_size for p in (root / "opt/appliance/generations/1").rglob("*") if p.is_file())
    size = free(root)
    done = remote.answer({"keep": 1}, root)
    assert done == told and done["generations"] == [1] and done["kept"] == [{"number": 2, "release": "d-2"}]
    assert {Path(p).name for p in done["removed"]} == {"d-1"} and len(done["removed"]) == 2
    assert done["freed_bytes"] == 1000 + 500 + len("d-1") == size - free(root) - records
    assert sorted(p.stat().st_size for p in (root / "var/lib/appliance/blobs").iterdir()) == [10, 2000]
    assert (root / "var/lib/appliance/views/d-2/content/debs/both").read_bytes() == b"x" * 10
    assert cli.state(changed, Record(LOADED))["generation"] == 2  # type: ignore[arg-type]
    assert remote.answer({"keep": 1}, root)["removed"] == []  # a second time there is nothing


def test_after_a_rollback_the_state_that_runs_is_the_one_that_is_kept(changed: Store) -> None:
    switch(changed, changed.load(1), Record(LOADED), lambda *_: False)  # type: ignore[arg-type]
    done = remote.answer({"keep": 1}, changed.root)
    assert (done["generations"], done["kept"]) == ([2], [{"number": 1, "release": "d-1"}])
    assert (changed.root / "var/lib/appliance/views/d-1/content/models/a").is_file()
    assert not (changed.root / "var/lib/appliance/views/d-2").exists()


@pytest.mark.parametrize(("keep", "gone"), [(1, (1, 2, 3)), (2, (1, 2)), (3, (1,)), (4, ()), (9, ())])
def test_exactly_as_many_states_stay_as_were_asked_for(store: Store, keep: int, gone: tuple[int, ...]) -> None:
    for n in range(2, 5):
        write(store.root, "etc/appliance/nginx/nginx.conf", f"listen {n};\n")
        store.keep(f"in-{n}", {})
    assert states.beyond(store, keep) == gone


def test_no_state_is_dropped_while_a_switch_has_not_ended_or_none_proved_itself(store: Store, tmp_path: Path) -> None:
    store.begin(1)
    with pytest.raises(ResourceError, match="has begun and not ended"):
        remote.answer({"keep": 1}, store.root)
    with pytest.raises(InputError, match="0 states cannot be kept"):
        states.beyond(store, 0)
    empty = tmp_path / "new"
    empty.mkdir()
    nothing = {"generations": [], "removed": [], "freed_bytes": 0, "kept": []}
    assert remote.answer({"keep": 1}, empty) == nothing and not list(empty.iterdir())
    with store.exclusive(), pytest.raises(ResourceError, match="already"):
        remote.answer({"keep": 1}, store.root)


@pytest.mark.parametrize("at", range(1, 4))
def test_a_killed_drop_is_completed_by_the_next(changed: Store, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Records, then content, then the views that show it: killed before the content, before the first directory and before the second."""
    steps = iter(range(1, 99))
    real_unlink, real_rmtree = Path.unlink, shutil.rmtree

    def dying(real: Any) -> Any:
        def step(path: Path, *more: Any, **named: Any) -> None:
            if "generations" not in str(path) and next(steps) == at:
                raise KeyboardInterrupt
            real(path, *more, **named)

        return step

    monkeypatch.setattr(Path, "unlink", dying(real_unlink))
    monkeypatch.setattr(shutil, "rmtree", dying(real_rmtree))
    with pytest.raises(KeyboardInterrupt):
        remote.answer({"keep": 1}, changed.root)
    monkeypatch.undo()
    remote.answer({"keep": 1}, changed.root)
    assert sorted(p.stat().st_size for p in (changed.root / "var/lib/appliance/blobs").iterdir()) == [10, 2000]
    assert [p.name for p in (changed.root / "opt/appliance/releases").iterdir()] == ["d-2"]
