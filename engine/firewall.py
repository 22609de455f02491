"""The firewall of a node: new rules are kept only when a new connection proved that they let the operator in.

    apply      check, save what is loaded, arm a rollback in systemd, load in one transaction
    confirm    disarm the rollback and make the rules the ones that boot loads
    rollback   put back what was there before
    load       what boot runs: the confirmed rules, or the closed ones when those cannot be loaded
    status     what is loaded, what is pending, what the counters say

The link ``active`` names the set of rules that boot loads and changes only in ``confirm``, so a restart between apply
and confirm comes back with the previous rules. The rollback is a transient systemd timer that runs ``nft`` on a saved
file: it needs neither this program nor the session that armed it.
"""

from __future__ import annotations

import fcntl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

from engine import durable, nft
from engine.errors import ApplianceError, InputError, ResourceError
from engine.firewall_record import Pending, Places, Record, now
from engine.firewall_rules import Rules, Shelf
from engine.firewall_timer import SystemdTimer, Timer
from engine.process import ProcessError

SHORTEST_CONFIRM_S = 5
POLL_S = 0.05


@dataclass(frozen=True)
class Applied:
    """What ``apply`` did; ``changed`` is false when these rules are confirmed and loaded already."""

    changed: bool
    digest: str
    confirm_within_s: int = 0


class Firewall:
    """The two tables of this node and the files they come from. Only root can change them."""

    def __init__(
        self,
        places: Places | None = None,
        *,
        kernel: nft.Nft | None = None,
        timer: Timer | None = None,
    ) -> None:
        self.places = places or Places()
        self.kernel = kernel or nft.Nft()
        self.timer = timer or SystemdTimer()
        self.shelf = Shelf(self.places.etc)
        self.record = Record(self.places)

    # -- what people do -----------------------------------------------------------------------
    def check(self, rules: Rules) -> bool:
        """Whether ``apply`` would change anything. Changes nothing itself.

        Raises:
            InputError: the kernel would refuse one of the texts.
        """
        for name, text in rules.files().items():
            self.kernel.check(text, name)
        return self.shelf.active_digest() != rules.digest or self.in_force() != "active"

    def apply(self, rules: Rules, *, confirm_within_s: int) -> Applied:
        """Load ``rules``; unless ``confirm`` follows within ``confirm_within_s`` seconds, the previous ones return.

        Raises:
            InputError: the rules are refused, name an interface that is not there, or the time is too short.
            ApplianceError: they could not be loaded; what was loaded before still is.
        """
        if confirm_within_s < SHORTEST_CONFIRM_S:
            raise InputError(
                f"{confirm_within_s} s is too short to confirm a firewall",
                remedy=f"Give at least {SHORTEST_CONFIRM_S} s; 60 s suit a slow SSH connection.",
            )
        with self._lock():
            if pending := self._settled():
                self._roll_back(pending, "another apply came before it was confirmed")
            if missing := nft.absent(nft.devices(rules.netdev)):
                raise InputError(
                    f"this node has no interface {', '.join(sorted(missing))}",
                    remedy=f"Set appliance_firewall_interfaces to some of: {', '.join(nft.present())}.",
                )
            if not self.check(rules):
                return Applied(changed=False, digest=rules.digest)
            self._try(rules, confirm_within_s)
            return Applied(changed=True, digest=rules.digest, confirm_within_s=confirm_within_s)

    def confirm(self) -> str:
        """Keep the pending rules for good and return their digest.

        Raises:
            ApplianceError: nothing is pending, the time ran out, or somebody changed the rules meanwhile.
        """
        with self._lock():
            if pending := self._settled():
                self.timer.disarm(pending.unit)
                if self._state(pending) == "waiting":
                    self.shelf.activate(pending.digest)
                    self._note("active", pending.digest)
                    self._end(pending, "confirmed")
                    return pending.digest
                if self._settled():
                    self._roll_back(pending, "another program changed the loaded rules before they were confirmed")
            raise ApplianceError(
                f"no firewall rules are waiting for confirmation (last: {self.record.last_words()})",
                remedy="Apply the rules again and confirm them in time.",
            )

    def rollback(self, reason: str = "asked for") -> str:
        """Put back what was loaded before the pending apply, and return the digest of what is taken back.

        Raises:
            ApplianceError: nothing is pending.
        """
        with self._lock():
            if pending := self._settled():
                self._roll_back(pending, reason)
                return pending.digest
            raise ApplianceError(
                f"no firewall rules are waiting for confirmation (last: {self.record.last_words()})",
                remedy="Confirmed rules are changed by applying others.",
            )

    def load(self, *, wait_s: float = 0) -> None:
        """Load the confirmed rules: sockets first, then the interfaces, for which it waits up to ``wait_s`` seconds.

        Whatever fails, the node stays shut: the closed rules (management by SSH only) are loaded instead, and if even
        they are refused, what is in the kernel stays, which at boot is the unit's own deny-all.

        Raises:
            ApplianceError: the confirmed rules are not, or not on every interface, in force.
        """
        with self._lock():
            self._load(wait_s)

    def mend(self) -> bool:
        """Load the confirmed rules again when the tables are gone or hold something else; says whether it did.

        Rules that wait for their confirmation are left to that, or to their rollback.

        Raises:
            ApplianceError: as ``load``.
        """
        with self._lock():
            if self._settled() or self.in_force() not in ("none", "foreign"):
                return False
            self._load(wait_s=0)
            return True

    def in_force(self) -> str:
        """``active``, ``closed``, ``candidate``, ``none``, or ``foreign`` when our tables hold something else."""
        kernel = self.kernel.digest()
        if not kernel:
            return "none"
        pending = self.record.pending()
        if pending and self._state(pending) == "waiting":
            return "candidate"
        return self.record.tier(self.shelf.active_digest(), kernel) or "foreign"

    def status(self) -> dict[str, Any]:
        """What is in force, for people, the role and the evidence; docs/firewall.md explains every field."""
        pending = self.record.pending()
        hooked = nft.devices(self.kernel.listing("netdev"))
        return {
            "loaded": self.in_force(),
            "active": self.shelf.active_digest(),
            "kernel": self.kernel.digest(),
            "pending": {**asdict(pending), "state": self._state(pending)} if pending else None,
            "last": self.record.last(),
            "interfaces": hooked,
            "unguarded": [name for name in nft.present() if name not in hooked],
            "counters": {name: asdict(counter) for name, counter in self.kernel.counters().items()},
        }

    # -- how it is done -----------------------------------------------------------------------
    def _load(self, wait_s: float) -> None:
        digest = self.shelf.active_digest()
        try:
            rules = self.shelf.read(digest)
            self.kernel.load(rules.inet)
            missing = self._hook(rules.netdev, wait_s)
        except ApplianceError as error:
            self._close(digest)
            raise ApplianceError(
                f"the node is closed but for management, because its firewall rules cannot be loaded: {error}",
                where=str(self.shelf.active),
                remedy="Connect by SSH from a management network and run the firewall role again.",
            ) from error
        self._note("active", digest)
        self._settled()
        if missing:
            raise ApplianceError(
                f"the firewall is loaded, but the node has no interface {', '.join(sorted(missing))}",
                remedy="Bring the interface back or change appliance_firewall_interfaces, and run the role again.",
            )

    def _try(self, rules: Rules, confirm_within_s: int) -> None:
        listed = [nft.replacing(family, self.kernel.listing(family, stateless=False)) for family in nft.FAMILIES]
        restore = "".join(listed)
        self.kernel.check(restore, "the rules loaded now")  # a rollback that cannot load is none
        self.shelf.put(rules)
        pending = Pending(
            digest=rules.digest,
            unit=f"appliance-firewall-rollback-{time.monotonic_ns():x}",
            boot=self.record.mark_boot(),
            confirm_within_s=confirm_within_s,
            applied_at=now(),
            previous=self.kernel.digest(),
        )
        self.record.begin(pending, restore)
        self.timer.arm(pending.unit, [nft.program(), "-f", str(self.record.restore)], confirm_within_s)
        try:
            self.kernel.load(rules.inet + rules.netdev)
        except ProcessError as error:
            self.timer.disarm(pending.unit)
            self._end(pending, "refused by the kernel, nothing changed")
            raise ApplianceError(
                f"the kernel did not take the rules: {error}", remedy="What was loaded before still is."
            ) from error
        self.record.wait(replace(pending, kernel=self.kernel.digest()))

    def _roll_back(self, pending: Pending, reason: str) -> None:
        self.kernel.load(self.record.restore.read_text())
        self.timer.disarm(pending.unit)
        self._end(pending, f"rolled back: {reason}")

    def _settled(self) -> Pending | None:
        """The apply that still waits; the end of one that the timer or a restart ended is written down first."""
        if (pending := self.record.pending()) is None:
            return None
        state = self._state(pending)
        if state == "rolled back":
            self.timer.disarm(pending.unit)
            self._end(pending, f"rolled back: not confirmed within {pending.confirm_within_s} s")
        elif state == "restarted":
            self._end(pending, "rolled back: the node restarted before it was confirmed")
        else:
            return pending
        return None

    def _state(self, pending: Pending) -> str:
        if pending.boot != self.record.boot():
            return "restarted"
        kernel = self.kernel.digest()
        if pending.kernel and kernel == pending.kernel:
            return "waiting"
        return "rolled back" if kernel == pending.previous else "changed"

    def _hook(self, netdev: str, wait_s: float) -> set[str]:
        """Load the interface rules on every interface there is, and return the names of those that are missing."""
        deadline = time.monotonic() + wait_s
        while (missing := nft.absent(nft.devices(netdev))) and time.monotonic() < deadline:
            time.sleep(POLL_S)
        try:
            self.kernel.load(netdev)  # kernels from 6.16 on take a name before its interface comes
        except ProcessError:
            if not missing:
                raise
            self.kernel.load(nft.without_devices(netdev, missing))
        return missing

    def _close(self, digest: str) -> None:
        try:
            self.kernel.load(self.shelf.text(digest, "closed-inet"))
            self._hook(self.shelf.text(digest, "closed-netdev"), wait_s=0)
            self._note("closed", digest)
        except (ApplianceError, OSError, UnicodeDecodeError) as error:
            # What was loaded before stays: at boot that is the unit's own deny-all.
            sys.stderr.write(f"the closed rules cannot be loaded either: {error}\n")

    def _note(self, tier: str, digest: str) -> None:
        self.record.note_loaded(tier, digest, self.kernel.digest())

    def _end(self, pending: Pending, outcome: str) -> None:
        self.record.end(pending, outcome)
        self.shelf.prune()

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """One change at a time; a second one is refused, not queued."""
        with durable.disk_errors(self.places.run):
            self.places.run.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = (self.places.run / "lock").open("w")
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ResourceError(
                    "another firewall change is running on this node", remedy="Wait for it to end and run again."
                ) from None
            yield


if __name__ == "__main__":
    from engine.firewall_cli import main

    sys.exit(main())
