"""The apply protocol on a kernel and a timer made of Python, where a crash can be put between any two steps."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from engine import durable, nft
from engine.errors import ApplianceError, Exit, InputError, ResourceError, TrustError
from engine.firewall import Firewall
from engine.firewall_cli import main
from engine.firewall_record import Places
from engine.firewall_rules import KEEP, Rules, Shelf
from engine.process import ProcessError


class Crash(BaseException):
    """The process dies here. No ``except Exception`` survives it, as none survives SIGKILL."""


class World:
    """What outlives a process: the kernel's tables and systemd's timer. ``die_at`` counts steps down to a crash."""

    def __init__(self, home: Path) -> None:
        self.tables: dict[str, str] = {}
        self.armed: dict[str, list[str]] = {}
        self.places = Places(home / "etc", home / "state", home / "run")
        self.die_at = 0

    def step(self) -> None:
        self.die_at -= 1
        if self.die_at == 0:
            raise Crash

    def firewall(self) -> Firewall:
        return Firewall(self.places, kernel=Kernel(self), timer=Switch(self))

    def fire(self) -> None:
        for argv in self.armed.values():
            Kernel(self).load(Path(argv[-1]).read_text())
        self.armed.clear()

    def restart(self) -> None:
        self.tables.clear()
        self.armed.clear()
        shutil.rmtree(self.places.run)


class Kernel(nft.Nft):
    def __init__(self, world: World) -> None:
        self.world = world

    def check(self, text: str, where: str = "rules") -> None:
        nft.only_ours(text, where)
        if "bogus" in text:
            raise InputError("nftables refuses the rules: bogus")

    def load(self, text: str) -> None:
        self.world.step()
        if "unloadable" in text:
            raise ProcessError(["nft"], 1, "unloadable")
        for family in nft.FAMILIES:
            if f"delete table {family} appliance" in text:
                self.world.tables.pop(family, None)
            if body := re.search(rf"table {family} appliance {{ .*? }}", text):
                self.world.tables[family] = body.group(0) + "\n"
        self.world.step()

    def _listing(self, family: str, stateless: bool) -> str:
        return self.world.tables[family]

    def _loaded(self) -> set[str]:
        return set(self.world.tables)

    def counters(self) -> dict[str, nft.Counter]:
        return {}


class Switch:
    def __init__(self, world: World) -> None:
        self.world = world

    def arm(self, unit: str, argv: list[str], after_s: int) -> None:
        self.world.step()
        self.world.armed[unit] = argv
        self.world.step()

    def disarm(self, unit: str) -> None:
        self.world.step()
        self.world.armed.pop(unit, None)
        self.world.step()


def rules(name: str) -> Rules:
    def text(family: str, body: str) -> str:
        return nft.replacing(family, f"table {family} appliance {{ {body} }}\n")

    return Rules(text("inet", name), text("netdev", name), text("inet", "closed"), text("netdev", "closed"))


OLD, NEW = rules("old"), rules("new")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    made = World(tmp_path)
    made.firewall().apply(OLD, confirm_within_s=60)
    made.firewall().confirm()
    real = durable.write

    def write(path: Path, data: bytes | str, *, mode: int = 0o644) -> None:
        made.step()
        real(path, data, mode=mode)
        made.step()

    monkeypatch.setattr(durable, "write", write)
    return made


def crashes(world: World, at: int, work: Callable[[], Any]) -> bool:
    """Run ``work`` and die at its step ``at``; false when it had fewer steps."""
    world.die_at = at
    try:
        work()
    except Crash:
        return True
    finally:
        world.die_at = 0
    return False


@pytest.mark.parametrize("at", range(1, 25))
@pytest.mark.parametrize("then", ["timer", "restart", "run again"])
def test_a_crash_anywhere_in_apply_ends_with_the_previous_rules_unless_someone_confirms(
    world: World, at: int, then: str
) -> None:
    """Invariant: whatever step apply dies at, the way back leads to the confirmed rules, and boot loads those."""
    died = crashes(world, at, lambda: world.firewall().apply(NEW, confirm_within_s=60))
    assert died or at > 18, "apply has fewer steps than this test thinks"
    assert world.firewall().shelf.active_digest() == OLD.digest
    if then == "timer":
        if "new" in "".join(world.tables.values()):
            assert world.armed, "new rules are loaded and nothing would take them back"
        world.fire()
    elif then == "restart":
        world.restart()
        world.firewall().load()
    else:
        world.firewall().apply(OLD, confirm_within_s=60)
        if world.armed:
            world.firewall().confirm()
    assert world.tables == {"inet": "table inet appliance { old }\n", "netdev": "table netdev appliance { old }\n"}
    assert world.firewall().status()["loaded"] == "active"


@pytest.mark.parametrize("at", range(1, 12))
def test_a_crash_anywhere_in_confirm_leaves_one_whole_set_to_boot(world: World, at: int) -> None:
    world.firewall().apply(NEW, confirm_within_s=60)
    crashes(world, at, lambda: world.firewall().confirm())
    world.restart()
    world.firewall().load()
    assert len({text.split()[4] for text in world.tables.values()}) == 1
    assert world.firewall().status()["loaded"] == "active"
    assert world.firewall().status()["pending"] is None


def test_applying_the_confirmed_rules_again_changes_nothing(world: World) -> None:
    before = {path: path.stat().st_mtime_ns for path in world.places.etc.rglob("*")}
    assert not world.firewall().apply(OLD, confirm_within_s=60).changed
    assert not world.firewall().check(OLD)
    assert not world.armed
    assert {path: path.stat().st_mtime_ns for path in world.places.etc.rglob("*")} == before


def test_checking_says_that_other_rules_would_change_something_and_changes_nothing(world: World) -> None:
    before = sorted(world.places.etc.rglob("*"))
    assert world.firewall().check(NEW)
    assert sorted(world.places.etc.rglob("*")) == before
    assert "old" in world.tables["inet"]


def test_a_change_of_the_closed_rules_alone_can_be_confirmed(world: World) -> None:
    other = Rules(OLD.inet, OLD.netdev, NEW.inet, NEW.netdev)
    assert world.firewall().apply(other, confirm_within_s=60).changed
    assert world.firewall().confirm() == other.digest


def test_rules_that_the_kernel_takes_in_check_but_not_for_real_leave_the_old_ones(world: World) -> None:
    with pytest.raises(ApplianceError, match="did not take the rules"):
        world.firewall().apply(rules("unloadable"), confirm_within_s=60)
    assert not world.armed
    assert world.firewall().status()["loaded"] == "active"
    assert world.firewall().status()["pending"] is None


def test_rules_changed_by_another_program_are_not_confirmed(world: World) -> None:
    world.firewall().apply(NEW, confirm_within_s=60)
    world.tables["inet"] = "table inet appliance { someone }\n"
    with pytest.raises(ApplianceError, match="another program changed the loaded rules"):
        world.firewall().confirm()
    assert "old" in world.tables["inet"]
    assert not world.armed


def test_a_rollback_by_hand_puts_the_old_rules_back_and_keeps_the_reason(world: World) -> None:
    world.firewall().apply(NEW, confirm_within_s=60)
    assert world.firewall().rollback("the operator changed her mind") == NEW.digest
    assert "old" in world.tables["inet"]
    assert world.firewall().status()["last"]["outcome"] == "rolled back: the operator changed her mind"
    with pytest.raises(ApplianceError, match="no firewall rules are waiting"):
        world.firewall().rollback()


def test_two_changes_at_once_are_refused(world: World) -> None:
    with world.firewall()._lock(), pytest.raises(ResourceError, match="another firewall change"):
        world.firewall().apply(NEW, confirm_within_s=60)


def test_a_time_too_short_to_reconnect_is_refused(world: World) -> None:
    with pytest.raises(InputError, match="too short"):
        world.firewall().apply(NEW, confirm_within_s=1)


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"digest": "x"}'])
def test_damaged_records_do_not_keep_the_rules_from_loading(world: World, damage: str) -> None:
    for name in ("pending.json", "last.json"):
        (world.places.state / name).write_text(damage)
    (world.places.run / "loaded.json").write_text(damage)
    world.firewall().load()
    assert world.firewall().status()["loaded"] == "active"


def test_a_set_that_was_edited_is_not_read_as_confirmed(world: World) -> None:
    path = world.places.etc / "active" / "inet.nft"
    path.write_text(path.read_text().replace("old", "odd"))
    with pytest.raises(TrustError, match="not the ones that were confirmed"):
        Shelf(world.places.etc).read(OLD.digest)


def test_old_sets_are_pruned_and_the_active_one_never_is(world: World) -> None:
    for number in range(6):
        world.firewall().apply(rules(f"set{number}"), confirm_within_s=60)
        world.firewall().rollback()
    left = {path.name for path in (world.places.etc / "rules").iterdir()}
    assert OLD.digest in left
    assert len(left) == KEEP + 1


def test_the_files_are_for_root_alone(world: World) -> None:
    world.firewall().apply(NEW, confirm_within_s=60)
    files = [path for root in (world.places.etc, world.places.state) for path in root.rglob("*") if path.is_file()]
    assert len(files) >= 10
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}


@pytest.mark.parametrize(
    "text",
    [
        "flush ruleset\n",
        "flush table inet appliance\n",
        "table inet filter { }\n",
        "table ip appliance { }\n",
        "delete table inet filter\n",
        'include "/etc/nftables.conf"\n',
        'table inet appliance {\ninclude "/tmp/more"\n}\n',
        "define x = 1\n",
        "table inet appliance {\n}\n}\nflush ruleset\n",
        "table inet appliance { }; flush ruleset\n",
        "add table ip nat\n",
        "{ }\n",
    ],
)
def test_text_that_touches_more_than_our_tables_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        nft.only_ours(text)


def test_words_in_comments_and_strings_do_not_count_as_statements() -> None:
    nft.only_ours(
        nft.replacing("inet", 'table inet appliance {\n# flush ruleset }\nchain a {\nlog prefix "} flush "\n}\n}\n')
    )


def test_interfaces_are_read_from_the_hooks_and_can_be_left_out() -> None:
    text = "".join(
        f'chain e{n} {{ type filter hook egress device "{name}" priority filter; policy drop; jump out; }}\n'
        for n, name in enumerate(["eth0", "bond0.7"])
    )
    assert nft.devices(text) == ["eth0", "bond0.7"]
    assert nft.devices(nft.without_devices(text, {"eth0"})) == ["bond0.7"]
    assert nft.without_devices(text, set()) == text


@pytest.mark.parametrize("wrong", ["", "[]", "{", '{"inet": "x"}', json.dumps(OLD.files() | {"netdev": ""})])
def test_input_that_is_no_rule_set_is_a_usage_error(
    wrong: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(wrong))
    assert main(["apply", "--check"]) == Exit.USAGE
    assert "firewall role" in capsys.readouterr().err
