"""What a site that hardens its nodes breaks: admins, waivers, and flows that time and records need."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

from engine.baseline import policy
from engine.rules import baseline, networks
from engine.rules.fault import Fault, Key, Rule
from installer.site.rules.given import HOST, Given, controls, halves, of_role
from installer.site.settings import Baseline, Site

JOURNAL_UPLOAD_PORT = 19532
NTP_PORT = 123


def hardening(given: Given) -> Iterator[Fault]:
    settings = given.site.baseline
    if not settings:
        return
    said = settings.model_dump(mode="json")
    known = controls()
    for fault in baseline.baseline(said, known):
        yield Fault(fault.rule, ("baseline", *fault.key), fault.what, fault.remedy)
    yield from _flows(given.site, settings)
    for host in given.nodes:
        own = given.of(host, "os_baseline")
        if "waivers" in own:
            for what in policy.waiver_faults(own["waivers"], set(known), datetime.now(UTC).date()):
                key: Key = (HOST, host.name, "appliance_os_baseline_waivers")
                yield Fault(Rule.BASELINE_WAIVER, key, *halves(what))
        if own:
            merged = baseline.baseline({"root_login": said["root_login"], "admins": said["admins"], **own}, known)
            yield from of_role(host, "os_baseline", (f for f in merged if f.key[0] in own))
        user = given.users.get(host.name, "")
        admins, users = own.get("admins", said["admins"]), own.get("ssh_users", said["ssh_users"])
        if user:
            for fault in baseline.lets_in(user, admins, users, own.get("root_login", said["root_login"])):
                yield Fault(fault.rule, ("baseline", *fault.key), fault.what, fault.remedy)


def _flows(site: Site, settings: Baseline) -> Iterator[Fault]:
    """Time and records leave the node, so the firewall must let them."""
    for i, server in enumerate(settings.time_servers):
        if not _lets_out(site, server, NTP_PORT, "udp"):
            remedy = f"add an entry to egress with destinations: [{server}], ports: [{NTP_PORT}], protocol: udp"
            yield Fault(
                Rule.SITE_TIME,
                ("baseline", "time_servers", i),
                f"has {server}, which egress does not let out to",
                remedy,
            )
    if not settings.log_host or list(baseline.baseline({"log_host": settings.log_host}, ())):
        return
    url = urlsplit(settings.log_host)
    host, port = url.hostname or "", url.port or JOURNAL_UPLOAD_PORT
    if networks.is_address(host) and not _lets_out(site, host, port, "tcp"):
        remedy = f"add an entry to egress with destinations: [{host}], ports: [{port}]"
        yield Fault(
            Rule.SITE_LOG_HOST,
            ("baseline", "log_host"),
            f"is {host}, which egress does not let out to at port {port}",
            remedy,
        )


def _lets_out(site: Site, address: str, port: int, protocol: str) -> bool:
    ip = ipaddress.ip_address(address)
    return any(
        flow.protocol == protocol
        and port in flow.ports
        and any(ip in ipaddress.ip_network(d, strict=False) for d in flow.destinations)
        for flow in site.egress
    )
