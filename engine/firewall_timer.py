"""The dead man's switch of a firewall change."""

from __future__ import annotations

import time
from typing import Protocol

from engine.process import run

TIMEOUT_S = 30.0
POLL_S = 0.05


class Timer(Protocol):
    """Runs a command later, whatever becomes of this process."""

    def arm(self, unit: str, argv: list[str], after_s: int) -> None:
        """Run ``argv`` in ``after_s`` seconds under the name ``unit``."""

    def disarm(self, unit: str) -> None:
        """Make sure that it does not run from now on; when it runs already, wait for its end."""


class SystemdTimer:
    """A transient systemd timer: it outlives the SSH session, and a restart of the node forgets it."""

    def __init__(self, description: str = "Put the previous firewall rules back") -> None:
        self.description = description

    def arm(self, unit: str, argv: list[str], after_s: int) -> None:
        run(
            [
                "systemd-run", f"--unit={unit}", f"--on-active={after_s}s", "--timer-property=AccuracySec=100ms",
                f"--description={self.description}", "--collect", "--quiet", *argv,
            ],
            timeout_s=TIMEOUT_S,
            package="systemd",
        )  # fmt: skip

    def disarm(self, unit: str) -> None:
        run(["systemctl", "stop", f"{unit}.timer"], ok=(0, 5), timeout_s=TIMEOUT_S, package="systemd")
        deadline = time.monotonic() + TIMEOUT_S
        while time.monotonic() < deadline:
            asked = ["systemctl", "is-active", f"{unit}.service"]
            state = run(asked, ok=(0, 3, 4), timeout_s=TIMEOUT_S, package="systemd").stdout.strip()
            if state not in ("active", "activating", "deactivating"):
                return
            time.sleep(POLL_S)
