"""`appliance status`: ask every node at once how it is, and judge what they say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from engine.errors import ApplianceError
from engine.preflight.expectation import Finding
from engine.report import printable
from installer.site import errand, placed, records, services, skew
from installer.site.errand import Reply, Send
from installer.site.inventory import Host, Inventory
from installer.trust import envelope

TIMEOUT_S = 45.0
FREE_SHARE = 0.05  # of a disk; below it a model or a log fills it soon
CLOCK_S = 300.0  # what certificates of a new authority forgive is an hour
REPORT = "application/vnd.appliance.report+json"


@dataclass(frozen=True)
class NodeStatus:
    """One node. ``facts`` is None when it could not be asked; ``days`` are those left by file."""

    node: str
    address: str
    groups: tuple[str, ...]
    findings: tuple[Finding, ...]
    facts: Mapping[str, Any] | None
    days: Mapping[str, int]

    @property
    def good(self) -> bool:
        return all(f.severity != "fail" for f in self.findings)

    def data(self) -> dict[str, Any]:
        facts = {k: v for k, v in (self.facts or {}).items() if k != "certificates"}
        return {
            "node": self.node, "address": self.address, "groups": list(self.groups), "good": self.good,
            "findings": [asdict(f) for f in self.findings], "days_left": dict(self.days), **facts,
        }  # fmt: skip


@dataclass(frozen=True)
class Places:
    """Where the control host keeps its records."""

    depot: Path
    ca: Path
    runs: Path
    site_keys: Path


@dataclass(frozen=True)
class Status:
    """The whole site. ``proof`` says whether the newest report was signed by this site."""

    nodes: tuple[NodeStatus, ...]
    control: Mapping[str, Any]
    findings: tuple[Finding, ...]
    proof: str

    @property
    def good(self) -> bool:
        return all(n.good for n in self.nodes) and all(f.severity != "fail" for f in self.findings)


def status(
    inventory: Inventory,
    places: Places,
    *,
    limit: Sequence[str] = (),
    now: datetime | None = None,
    send: Send | None = None,
) -> Status:
    """Ask and judge. One round trip a node, all at once."""
    at, ask = now or datetime.now(UTC), send or _send

    def one(host: Host) -> Reply:
        question = services.question(inventory.site, host)
        return ask(host, errand.connection(inventory, host), "look", question)

    hosts = errand.nodes(inventory, limit)
    replies = errand.everywhere(hosts, one)
    nodes = tuple(judged(h, r, inventory, at) for h, r in zip(hosts, replies, strict=True))
    known = records.control(places.depot, places.ca, places.runs, at)
    found = [
        Finding("control", "fail" if s == "fail" else "warn", what, remedy)
        for s, what, remedy in records.findings(known)
    ]
    proof, wrong = _proof(known["run"], places.site_keys)
    found += (
        [Finding("proof", "fail", wrong, "Look at who changed the runs directory, and install again.")] if wrong else []
    )
    releases = {n.facts["release"]["current"] for n in nodes if n.facts and n.facts.get("release")}
    if len(releases) > 1:
        found.append(
            Finding("release", "warn", f"nodes run different releases: {', '.join(sorted(releases))}", "Install again.")
        )
    return Status(nodes, known, tuple(found), proof)


def judged(host: Host, reply: Reply, inventory: Inventory, now: datetime) -> NodeStatus:
    """What a node's answer means. Pure."""
    if reply.value is None:
        found = Finding("ssh", "fail", reply.what, reply.remedy)
        return NodeStatus(host.name, host.address, host.groups, (found,), None, {})
    facts = dict(reply.value)
    try:
        days, findings = _judge(host, facts, inventory, now)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        wrong = Finding(
            "answer", "fail", f"answered what cannot be understood: {error!r}"[:300], "Look at the node itself."
        )
        return NodeStatus(host.name, host.address, host.groups, (wrong,), None, {})
    clean = tuple(Finding(f.check, f.severity, printable(f.what, keep=""), f.remedy) for f in findings)
    return NodeStatus(host.name, host.address, host.groups, clean, facts, days)


def _judge(
    host: Host, facts: Mapping[str, Any], inventory: Inventory, now: datetime
) -> tuple[dict[str, int], list[Finding]]:
    found = [
        Finding(part, "fail", f"{part} cannot be looked at: {why}", "Look at the node itself.")
        for part, why in dict(facts["troubles"]).items()
    ]
    if not (facts["release"] or {}).get("current"):
        return {}, [Finding("release", "fail", "nothing is installed", "Run `appliance install`.")]
    if skewed := skew.difference(str(facts["release"].get("engine", ""))):
        found.append(
            Finding("engine", "warn", skewed, "It serves all the same; see docs/operations.md, *A newer installer*.")
        )
    for place in facts.get("placement") or []:  # engines of before say none; what cannot be shown is no answer
        placed.line(place)
    units = {u["name"]: u for u in facts["units"] or []}
    for name in expected_units(host, inventory):
        state = units.get(name, {}).get("active", "not there")
        if state != "active":
            found.append(Finding("units", "fail", f"{name} is {state}", f"On the node: journalctl -u '{name}' -n 50."))
    found += [
        Finding("units", "fail", f"{name} has failed ({unit['result']})", f"On the node: journalctl -u '{name}' -n 50.")
        for name, unit in units.items()
        if unit["active"] == "failed" and name not in expected_units(host, inventory)
    ]
    found += [
        Finding(
            "services",
            "fail",
            f"{s['service']} runs with another configuration than is written",
            "Run `appliance install`.",
        )
        for s in facts.get("services") or []
        if s["as_written"] is False
    ]
    found += [
        Finding(
            "tokens",
            "fail",
            f"{t['service']} gives no token: {t['error']}",
            "On the node: journalctl -u 'appliance-vllm@*'.",
        )
        for t in facts["tokens"] or []
        if t["error"]
    ]
    days = days_left(facts["certificates"] or {}, now)
    for name, left in days.items():
        if word := records.ended(name, left):
            found.append(
                Finding(
                    "certificates",
                    "fail" if word[0] == "fail" else "warn",
                    word[1],
                    "Run: appliance certs rotate -i SITE.",
                )
            )
    found += [Finding("certificates", "fail", f"{n} is missing or cannot be read", "Run `appliance install`.") for n in ("node.crt", "ca.crt", "crl.pem") if n not in days]  # fmt: skip
    return days, [*found, *_doors(facts), *_machine(facts, now)]


def _doors(facts: Mapping[str, Any]) -> list[Finding]:
    wall = facts["firewall"]
    if wall is None:
        return []  # said among the troubles
    found = []
    if wall["loaded"] != "active":
        found.append(
            Finding("firewall", "fail", f"the rules in force are {wall['loaded']}", "Run `appliance install`.")
        )
    if wall["pending"]:
        found.append(
            Finding("firewall", "warn", "a change of the rules waits to be confirmed", "Wait, and look again.")
        )
    if wall["unguarded"]:
        names = ", ".join(map(str, wall["unguarded"]))
        found.append(
            Finding("firewall", "warn", f"interfaces without rules for raw frames: {names}", "See docs/firewall.md.")
        )
    return found


def _machine(facts: Mapping[str, Any], now: datetime) -> list[Finding]:
    found = []
    for disk in facts["disks"] or []:
        if disk["free"] < FREE_SHARE * disk["size"]:
            share = f"{100 * disk['free'] / max(1, disk['size']):.1f} % of {disk['path']} are free"
            found.append(Finding("disks", "fail", share, "Free space, or remove old releases."))
    if system := facts["system"]:
        for reason in system["reboot"]:
            found.append(Finding("reboot", "warn", f"a restart is due: {reason}", "Restart the node when it suits."))
        if abs(system["time"] - now.timestamp()) > CLOCK_S:
            off = system["time"] - now.timestamp()
            found.append(
                Finding("clock", "warn", f"its clock is off by {off:.0f} s", "Set it: certificates depend on it.")
            )
    checked = facts["verification"] or {}
    if checked and checked.get("good") is False:
        what = checked.get("trouble") or f"its verification found {checked.get('bad')} bad files"
        found.append(Finding("verification", "fail", str(what), "Run `appliance install`; it brings good ones."))
    return found


def expected_units(host: Host, inventory: Inventory) -> list[str]:
    """Units that the site's roles start on this node."""
    names = ["appliance-firewall.service"]
    names += [f"appliance-vllm@{r.name}.service" for r in services.replicas(inventory.site, host)]
    names += ["appliance-nginx.service"] if inventory.site.services and {"gpu", "gateway"} & set(host.groups) else []
    return names


def days_left(files: Mapping[str, str], now: datetime) -> dict[str, int]:
    """Whole days until each file ends; of several certificates or lists in one file the first to end. Unreadable ones are left out."""
    ends: dict[str, list[datetime]] = {}
    for name, text in files.items():
        try:
            if name.endswith(".pem"):
                blocks = [b + "-----END X509 CRL-----\n" for b in text.split("-----END X509 CRL-----")[:-1]]
                lists = [x509.load_pem_x509_crl(b.encode()) for b in blocks]
                ends[name] = [c.next_update_utc for c in lists if c.next_update_utc]
            else:
                ends[name] = [c.not_valid_after_utc for c in x509.load_pem_x509_certificates(text.encode())]
        except ValueError:
            continue
    return {name: (min(times) - now).days for name, times in ends.items() if times}


def _proof(run: Mapping[str, Any], site_keys: Path) -> tuple[str, str]:
    """Whether the newest report is the site's own: for people, and what is wrong with it."""
    if not run or not run["signed"]:
        return ("not signed" if run else "none"), ""
    try:
        envelope.unseal(Path(run["signed"]), REPORT, site_keys / f"{envelope.KEY}.pub.json")
    except ApplianceError as error:
        return "NOT THIS SITE'S", f"the newest report is not to be trusted: {error.what}"
    return "signed by this site", ""


def _send(host: Host, connection: Any, verb: str, question: Mapping[str, Any]) -> Reply:
    return errand.send(host, connection, verb, question, timeout_s=TIMEOUT_S)
