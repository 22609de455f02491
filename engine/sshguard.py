"""`appliance-engine sshd`: settings of sshd that are taken back unless a new connection confirms them.

Our settings are one file, which sshd reads before all others. A change is written down with what was there before, a timer
of systemd is armed, and only then sshd reads it. Timer and node's start run the same unit, appliance-sshd-restore.service,
which needs neither this program nor the SSH session.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from engine import durable
from engine.errors import ApplianceError, InputError
from engine.firewall_timer import SystemdTimer, Timer
from engine.process import ProcessError, run

MAX_CHARACTERS = 1 << 20
TIMEOUT_S = 30.0
RESTORE = "appliance-sshd-restore.service"
TIMER = "appliance-sshd-rollback"


class SshGuard:
    """Places and tools; tests give others."""

    def __init__(
        self, *, ssh: Path = Path("/etc/ssh"), state: Path = Path("/var/lib/appliance/sshd"), timer: Timer | None = None
    ):
        self.main = ssh / "sshd_config"
        self.settings = ssh / "sshd_config.d" / "00-appliance.conf"
        self.previous = state / "previous"
        self.pending = state / "pending"
        self.state = state
        self.timer = timer or SystemdTimer("Take an unconfirmed change of sshd back")

    def changes(self, text: str) -> bool:
        """Whether ``text`` is something else than what is in force."""
        return self.pending.exists() or not self.settings.exists() or self.settings.read_text() != text

    def check(self, text: str) -> None:
        """Have sshd judge the settings together with its main file.

        Raises:
            InputError: sshd does not take them, or its main file does not read ours.
        """
        if not any(line.split()[:2] == ["Include", "/etc/ssh/sshd_config.d/*.conf"] for line in self._main_lines()):
            raise InputError(
                "sshd does not read the files beside its main one",
                where=str(self.main),
                remedy="Put `Include /etc/ssh/sshd_config.d/*.conf` at its beginning.",
            )
        # First values count, so what stands before the main file stands for our file.
        with tempfile.NamedTemporaryFile("w", dir=self.state, suffix=".conf") as file:
            file.write(f"{text}\nInclude {self.main}\n")
            file.flush()
            try:
                run(["/usr/sbin/sshd", "-t", "-f", file.name], timeout_s=TIMEOUT_S, package="openssh-server")
            except ProcessError as error:
                raise InputError(
                    f"sshd does not take the settings: {error.stderr.strip()}",
                    remedy="Correct the variables of the baseline.",
                ) from error

    def apply(self, text: str, *, confirm_within_s: int) -> bool:
        """Put ``text`` in force until confirmed; False when it is already.

        Raises:
            ApplianceError: it was not taken; what was there before is in force.
        """
        if not self.changes(text):
            return False
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.check(text)
        if self.pending.exists():
            self.roll_back()
        if self.settings.exists():
            durable.write(self.previous, self.settings.read_text(), mode=0o600)
        else:
            self.previous.unlink(missing_ok=True)
        durable.write(self.pending, "", mode=0o600)
        self.timer.arm(TIMER, ["systemctl", "start", RESTORE], confirm_within_s)
        try:
            durable.write(self.settings, text, mode=0o600)
            run(["/usr/sbin/sshd", "-t"], timeout_s=TIMEOUT_S, package="openssh-server")
            run(["systemctl", "reload", "ssh.service"], timeout_s=TIMEOUT_S, package="systemd")
        except ApplianceError:
            self.roll_back()
            raise
        return True

    def confirm(self) -> None:
        """Keep the change.

        Raises:
            ApplianceError: it was taken back before.
        """
        self.timer.disarm(TIMER)
        if not self.pending.exists():
            raise ApplianceError(
                "no change of sshd waits for a confirmation", remedy="It was taken back in time: apply it again."
            )
        self.pending.unlink()
        durable.sync_dir(self.state)

    def roll_back(self) -> None:
        """What the timer does, now."""
        self.timer.disarm(TIMER)
        run(["systemctl", "start", RESTORE], timeout_s=TIMEOUT_S, package="systemd")

    def _main_lines(self) -> list[str]:
        return [line.strip() for line in self.main.read_text().splitlines() if line.strip()]


def main(argv: list[str]) -> int:
    """Run one verb."""
    parser = argparse.ArgumentParser(
        prog="appliance-engine sshd", description="Settings of sshd, confirmed or taken back."
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    apply = verbs.add_parser("apply", help="put the settings of standard input in force, to be confirmed in time")
    apply.add_argument("--confirm-within", type=int, default=60, metavar="SECONDS", help="then they are taken back")
    apply.add_argument("--check", action="store_true", help="only say whether it would change anything")
    verbs.add_parser("confirm", help="keep them")
    verbs.add_parser("rollback", help="take them back now")
    asked = parser.parse_args(argv)
    guard = SshGuard()
    if asked.verb == "confirm":
        guard.confirm()
        answer = {"confirmed": True}
    elif asked.verb == "rollback":
        guard.roll_back()
        answer = {"rolled_back": True}
    else:
        text = sys.stdin.read(MAX_CHARACTERS)
        changed = guard.changes(text) if asked.check else guard.apply(text, confirm_within_s=asked.confirm_within)
        answer = {"changed": changed}
    sys.stdout.write(json.dumps(answer) + "\n")
    return 0
