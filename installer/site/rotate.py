"""`appliance certs rotate`: new keys and certificates while the site serves; another authority, too, if asked for.

Nodes change one after the other, so that a mistake stops at the first. At every moment the old and the new certificate of every
node are accepted by all: they are of authorities that all nodes trust.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cryptography import x509

from engine.errors import InputError, NodeError
from engine.report import Report
from installer.pki import Authority
from installer.pki.succession import Stage, Succession
from installer.site import errand, status
from installer.site.errand import Reply, Send
from installer.site.inventory import Host, Inventory

DAYS = 365  # as appliance_pki_days of the role pki
SHARED = "inference.appliance.internal"  # as in playbooks/group_vars/all.yml
Clock = Callable[[], datetime]


@dataclass
class Outcome:
    """What was done. ``stage`` is where the authority's succession stands now.

    Attributes:
        nodes: by name: the days its certificate had left, and its new serial (empty in a dry run).
        waiting: clients that must get a new certificate before the rotation can go on.
        next: what to do now, for people.
    """

    stage: Stage
    check: bool
    nodes: dict[str, dict[str, Any]] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    did: list[str] = field(default_factory=list)
    next: str = ""


class Rotation:
    """One run of the command."""

    def __init__(
        self, inventory: Inventory, names: Mapping[str, Sequence[str]], succession: Succession, passphrase: str, report: Report,
        *, clock: Clock, check: bool = False, send: Send = errand.send,
    ) -> None:  # fmt: skip
        self.inventory, self.names, self.succession = inventory, names, succession
        self.passphrase, self.report, self.clock, self.check = passphrase, report, clock, check
        self._send = send

    # -- certificates of nodes --------------------------------------------------------------------
    def leaves(self, limit: Sequence[str] = (), *, revoke_old: bool = False) -> Outcome:
        """A new key and certificate for all nodes, or those named.

        Raises:
            InputError: a node is not in the inventory, or clients would be shut out (see ``authority``).
            NodeError: a node did not take its certificate; it serves the old one, and those after it were left alone.
        """
        hosts, stage = errand.nodes(self.inventory, limit), self.succession.stage
        if stage == "clients" and (waiting := self._waiting()):
            raise InputError(
                f"the authority is being replaced, and {', '.join(waiting)} would not know the new certificates",
                where=str(self.succession.directory),
                remedy="Give these clients new certificates first: appliance certs client NAME. Or revoke them.",
            )
        outcome = Outcome(stage, self.check)
        old: list[str] = []
        for host in hosts:
            outcome.nodes[host.name] = self._leaf(host, old)
        if not self.check:
            outcome.did = [f"{name}: new key and certificate" for name in outcome.nodes]
        if revoke_old and not self.check:
            authority = Authority(self.succession.directory)
            known = {e.serial for a in (authority, authority.previous()) if a for e in a.register()}
            for serial in sorted(known.intersection(old)):
                authority.revoke(serial, passphrase=self.passphrase, now=self.clock())
            self._distribute(*self.succession.trust(), outcome)
            outcome.did.append(f"revoked {len(known.intersection(old))} old certificates")
        return outcome

    def _leaf(self, host: Host, old: list[str]) -> dict[str, Any]:
        if self.check:
            files = self._ask(host, {"step": "look"})["files"]
            return {"days_left": status.days_left(files, self.clock()).get("node.crt"), "serial": ""}
        told = self._ask(host, {"step": "request", "name": host.name})
        present = str(told["files"].get("node.crt", ""))
        days = status.days_left({"node.crt": present}, self.clock()).get("node.crt")
        authority = Authority(self.succession.directory)
        certificate = authority.sign_request(
            str(told["csr"]).encode(), kind="node", name=host.name, names=self.names[host.name],
            passphrase=self.passphrase, days=DAYS, now=self.clock(),
        )  # fmt: skip
        self._ask(host, {"step": "place", "certificate": certificate.decode(), **self._edge(host)})
        serial = f"{x509.load_pem_x509_certificate(certificate).serial_number:x}"
        if present:
            old.append(f"{x509.load_pem_x509_certificate(present.encode()).serial_number:x}")
        self.report.say(f"{host.name}: new key and certificate")
        return {"days_left": days, "serial": serial}

    # -- the authority ------------------------------------------------------------------------------
    def authority(self, *, drop_old: bool = False) -> Outcome:
        """Go on from the stage the succession stands at, as far as it can go now. Safe to stop and to repeat.

        Raises:
            InputError: the old authority is to be dropped too early.
            NodeError: a node did not take what it was given; the stage stays as it was.
        """
        outcome = Outcome(self.succession.stage, self.check)
        if drop_old and outcome.stage != "leaves":
            raise InputError(
                f"it is too early to drop the old authority: the rotation is at the stage {outcome.stage!r}",
                where=str(self.succession.directory), remedy="Run it without --drop-old; it says what is missing.",
            )  # fmt: skip
        steps = {"none": self._begin, "trust": self._trust, "clients": self._clients, "leaves": self._drop}
        while True:
            stage = self.succession.stage
            if stage == "leaves" and not drop_old:
                outcome.next = (
                    "Every node has a certificate of the new authority. Run it with --drop-old to end the old one."
                )
                break
            if not steps[stage](outcome) or stage == "leaves" or self.check:
                break
        outcome.stage = self.succession.stage
        return outcome

    def _begin(self, outcome: Outcome) -> bool:
        if self.check:
            outcome.next = "A new authority would be made, and all nodes told to trust both."
            return False
        self.succession.begin(self.passphrase, self.clock())
        outcome.did.append(f"made {Authority(self.succession.next).itself().name}")
        return True

    def _trust(self, outcome: Outcome) -> bool:
        if self.check:
            outcome.next = "All nodes would be told to trust both authorities; then the new one would sign."
            return False
        self._distribute(*self.succession.trust(), outcome)
        outcome.did.append("every node trusts both authorities")
        self.succession.activate(self.clock())
        outcome.did.append("the new authority signs from now on")
        return True

    def _clients(self, outcome: Outcome) -> bool:
        outcome.waiting = self._waiting()
        if outcome.waiting:
            outcome.next = (
                "These clients know the old authority alone. Issue each a new certificate (appliance certs client NAME --out …), hand it "
                "over with its ca.crt, or revoke it; then run this again."
            )
            return False
        if self.check:
            outcome.next = "Every node would get a certificate of the new authority."
            return False
        self._distribute(*self.succession.trust(), outcome)  # a node that was reinstalled meanwhile, a new revocation
        old: list[str] = []
        for host in errand.nodes(self.inventory):
            outcome.nodes[host.name] = self._leaf(host, old)
        self.succession.advance(self.clock())
        outcome.did.append("every node has a certificate of the new authority")
        return True

    def _drop(self, outcome: Outcome) -> bool:
        outcome.waiting = self._waiting()
        if outcome.waiting:
            raise InputError(
                f"clients still have nothing but certificates of the old authority: {', '.join(outcome.waiting)}",
                where=str(self.succession.directory),
                remedy="Issue them new ones (appliance certs client NAME), or revoke them, or wait until they expire.",
            )
        if self.check:
            outcome.next = "All nodes would trust the new authority alone, and the old key would be destroyed."
            return False
        self._distribute(*self.succession.alone(), outcome)
        retired = self.succession.finish(self.clock())
        outcome.did += [
            "every node trusts the new authority alone",
            f"the old key is destroyed; its register is in {retired}",
        ]
        return True

    def _waiting(self) -> list[str]:
        return sorted({e.name for e in self.succession.hanging(self.clock())})

    def _distribute(self, ca: bytes, crl: bytes, outcome: Outcome) -> None:
        for host in errand.nodes(self.inventory):
            said = self._ask(host, {"step": "place", "ca": ca.decode(), "crl": crl.decode(), **self._edge(host)})
            if said["changed"]:
                self.report.say(f"{host.name}: {', '.join(said['changed'])}")
            outcome.nodes.setdefault(host.name, {})

    # -- asking -------------------------------------------------------------------------------------
    def _edge(self, host: Host) -> dict[str, Any]:
        site = self.inventory.site
        return {"address": host.address, "port": site.gateway.port if "gateway" in host.groups else site.inference_port}

    def _ask(self, host: Host, question: Mapping[str, Any]) -> Mapping[str, Any]:
        reply: Reply = self._send(host, errand.connection(self.inventory, host), "certify", question)
        try:
            return reply.must()
        except NodeError as error:
            raise NodeError(
                error.what, where=error.where,
                remedy=f"{error.remedy} What was done stays done; run the rotation again to go on.".strip(),
            ) from error  # fmt: skip


def names_of(inventory: Inventory, variables: Mapping[str, Mapping[str, Any]]) -> dict[str, list[str]]:
    """What each node's certificate carries: as appliance_pki_names in playbooks/group_vars/all.yml says it."""
    return {
        h.name: list(
            dict.fromkeys(
                [h.name, h.address, *map(str, variables.get(h.name, {}).get("appliance_names") or [])]
                + ([SHARED] if "gpu" in h.groups else [])
            )
        )
        for h in inventory.hosts
    }
