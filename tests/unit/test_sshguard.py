"""A change of sshd is taken back whenever something goes wrong before it is confirmed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

from engine import sshguard
from engine.errors import ApplianceError, InputError
from engine.process import ProcessError
from engine.sshguard import SshGuard

OLD, NEW = "AllowGroups old\n", "AllowGroups new\n"


class FakeTimer:
    """Remembers what is armed."""

    def __init__(self) -> None:
        self.armed: list[str] = []

    def arm(self, unit: str, argv: list[str], after_s: int) -> None:
        self.armed.append(unit)
        assert argv == ["systemctl", "start", "appliance-sshd-restore.service"] and after_s > 0

    def disarm(self, unit: str) -> None:
        self.armed = [u for u in self.armed if u != unit]


class Node:
    """sshd and systemctl in memory; ``broken`` names the call that fails."""

    def __init__(self, root: Path) -> None:
        (root / "ssh/sshd_config.d").mkdir(parents=True)
        (root / "ssh/sshd_config").write_text("Include /etc/ssh/sshd_config.d/*.conf\n")
        (root / "state").mkdir()
        self.timer = FakeTimer()
        self.guard = SshGuard(ssh=root / "ssh", state=root / "state", timer=self.timer)
        self.calls: list[str] = []
        self.broken = ""

    def run(self, argv: Sequence[Any], **_: Any) -> CompletedProcess[str]:
        call = " ".join(map(str, argv[:2] if argv[0] == "systemctl" else argv[1:2]))
        self.calls.append(call if len(argv) == 2 or argv[0] == "systemctl" else f"{call} candidate")
        if self.calls[-1] == self.broken:
            raise ProcessError([str(a) for a in argv], 255, "no")
        if call == "systemctl start":  # what the unit does
            if self.guard.previous.exists():
                self.guard.settings.write_text(self.guard.previous.read_text())
            else:
                self.guard.settings.unlink(missing_ok=True)
            self.guard.pending.unlink()
        return CompletedProcess([], 0, "", "")


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    made = Node(tmp_path)
    monkeypatch.setattr(sshguard, "run", made.run)
    return made


def test_a_change_waits_for_its_confirmation(node: Node) -> None:
    node.guard.settings.write_text(OLD)
    assert node.guard.apply(NEW, confirm_within_s=60)
    assert node.timer.armed and node.guard.pending.exists() and node.guard.previous.read_text() == OLD
    assert node.calls == ["-t candidate", "-t", "systemctl reload"]
    node.guard.confirm()
    assert not node.timer.armed and node.guard.settings.read_text() == NEW
    assert not node.guard.apply(NEW, confirm_within_s=60), "the second time nothing changes"


@pytest.mark.parametrize("broken", ["-t", "systemctl reload"])
@pytest.mark.parametrize("before", [OLD, None])
def test_a_change_that_sshd_does_not_take_leaves_what_was_there(node: Node, broken: str, before: str | None) -> None:
    if before:
        node.guard.settings.write_text(before)
    node.broken = broken
    with pytest.raises(ApplianceError):
        node.guard.apply(NEW, confirm_within_s=60)
    assert (node.guard.settings.read_text() if node.guard.settings.exists() else None) == before
    assert not node.timer.armed and not node.guard.pending.exists()


def test_nonsense_never_reaches_the_place_that_sshd_reads(node: Node) -> None:
    node.guard.settings.write_text(OLD)
    node.broken = "-t candidate"
    with pytest.raises(InputError, match="does not take the settings"):
        node.guard.apply(NEW, confirm_within_s=60)
    assert node.guard.settings.read_text() == OLD and not node.timer.armed


def test_a_second_change_starts_from_the_confirmed_one(node: Node) -> None:
    node.guard.settings.write_text(OLD)
    node.guard.apply(NEW, confirm_within_s=60)
    node.guard.apply("AllowGroups third\n", confirm_within_s=60)
    assert node.guard.previous.read_text() == OLD, "the unconfirmed one is no place to go back to"


def test_a_confirmation_that_comes_too_late_is_refused(node: Node) -> None:
    with pytest.raises(ApplianceError, match="no change of sshd waits"):
        node.guard.confirm()


def test_a_main_file_that_does_not_read_ours_is_refused(node: Node) -> None:
    node.guard.main.write_text("PermitRootLogin yes\n")
    with pytest.raises(InputError, match="does not read the files beside its main one"):
        node.guard.apply(NEW, confirm_within_s=60)
