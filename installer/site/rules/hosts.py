"""What the variables of single hosts break: names, addresses, and overridden variables of roles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from engine.rules import containers, firewall, names, networks, services, store
from engine.rules.fault import Fault, Key, Rule
from installer.site.rules.given import HOST, Given, of_role, role_defaults
from installer.site.settings import ModelStore

if TYPE_CHECKING:
    from installer.site.inventory import Host


def host(given: Given, host: Host) -> Iterator[Fault]:
    """What the variables of one host break."""
    yield from names.common_name(host.name, (HOST, host.name, ""))
    what, remedy = networks.unfit_for_a_node(host.address)
    if what:
        yield Fault(Rule.FIREWALL_NETWORK, (HOST, host.name, "ansible_host"), what, remedy)
    yield from given.mistyped(host)
    told = given.told[host.name].resolved if host.name in given.told else {}
    more = told.get("appliance_names", [])
    yield from names.certificate_names(more if isinstance(more, list) else [more], (HOST, host.name, "appliance_names"))
    yield from of_role(host, "firewall", firewall.policy(given.of(host, "firewall")))
    yield from _proof(given, host)
    pki = role_defaults("pki") | {f"appliance_pki_{k}": v for k, v in given.of(host, "pki").items()}
    yield from of_role(
        host, "pki", names.renewal(int(pki["appliance_pki_days"]), int(pki["appliance_pki_renew_before_days"]))
    )
    yield from _overridden(given, host)
    settings = given.site.model_store
    if settings and set(settings.groups) & set(host.groups):
        own = given.of(host, "model_store")
        yield from of_role(host, "model_store", store.store(own)) if own else ()
        yield from (f for f in _store(settings) if f.key[-1] not in own)


def _overridden(given: Given, host: Host) -> Iterator[Fault]:
    """Variables that the playbooks make from the site and a host has its own of."""
    vllm, runtime = given.of(host, "vllm"), given.of(host, "container_runtime")
    yield from of_role(host, "vllm", services.services(vllm.get("services", [])))
    yield from of_role(host, "container_runtime", containers.containers(runtime.get("containers", [])))
    nginx, dcgm, pki = given.of(host, "nginx"), given.of(host, "dcgm_exporter"), given.of(host, "pki")
    edge = names.edge(
        nginx.get("port", names.LOWEST_PORT), nginx.get("server_names", ()), nginx.get("allowed_clients", ())
    )
    yield from of_role(host, "nginx", edge)
    yield from of_role(host, "nginx", names.upstreams(nginx.get("upstreams", ())))
    metrics = names.metrics(
        dcgm.get("port", names.LOWEST_PORT), dcgm.get("address", host.address), dcgm.get("clients", ())
    )
    yield from of_role(host, "dcgm_exporter", (f for f in metrics if f.key[0] in dcgm))
    yield from of_role(host, "pki", names.certificate_names(pki.get("names", ())))


def _store(settings: ModelStore) -> Iterator[Fault]:
    given: dict[str, Any] = {
        "reserve": settings.reserve,
        "calendar": settings.verification.calendar,
        "delay": settings.verification.delay,
    }
    if settings.device:
        given["device"] = settings.device
    places = {"calendar": ("verification", "calendar"), "delay": ("verification", "delay")}
    for fault in store.store(given):
        yield Fault(fault.rule, ("model_store", *places.get(str(fault.key[0]), fault.key)), fault.what, fault.remedy)


def _proof(given: Given, host: Host) -> Iterator[Fault]:
    """The firewall's proof tries addresses that nothing lets out to; a flow that holds one of them would make it prove nothing."""
    site, own = given.site, given.of(host, "firewall")
    proof = {name.removeprefix("proof_"): value for name, value in own.items() if name.startswith("proof_")}
    flows: dict[Key, dict[str, Any]] = {
        ("control", "address"): {"name": "depot", "destinations": [site.control.address]},
        **{("egress", i, "destinations"): f.model_dump(mode="json") for i, f in enumerate(site.egress)},
    }
    if site.relay.enabled and len(given.nodes) > 1:
        for other in given.nodes:
            flows[(HOST, other.name, "ansible_host")] = {"name": "relay", "destinations": [other.address]}
    if "targets" in proof:
        yield from of_role(host, "firewall", firewall.proof(proof, flows.values()))
        return
    yield from of_role(host, "firewall", firewall.proof(proof, ()))
    targets = role_defaults("firewall")["appliance_firewall_proof_targets"]
    for key, flow in flows.items():
        for fault in firewall.proof({"targets": targets}, [flow]):
            what = f"holds {targets[int(fault.key[1])]}, which the firewall's proof tries to reach in vain"
            remedy = "use other addresses, or set appliance_firewall_proof_targets in group_vars/all to some outside every allow-list"
            yield Fault(fault.rule, key, what, remedy)
