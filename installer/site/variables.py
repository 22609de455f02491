"""What the site says, in the words of the playbooks. Pure; playbooks/group_vars/all.yml hands it on to the roles."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine.blobs import Blobs
from engine.errors import InputError
from engine.fetch import STORE
from engine.trust import Target
from installer.runtime.recipe import DIRECTORY, WHEELS
from installer.site import chain, services, zones
from installer.site.inventory import Host, Inventory
from installer.site.settings import Container, Site
from installer.site.tenants.render import Rendered, more_endpoints

# What vLLM would compile with FlashInfer at a first start, switched off (vllm/envs.py of 0.32). It then takes its own sampler, NCCL's
# all-reduce, and its own kernels for weights in FP8.
WITHOUT_FLASHINFER = {
    "VLLM_USE_FLASHINFER_SAMPLER": "0", "VLLM_ALLREDUCE_USE_FLASHINFER": "0", "VLLM_BLOCKSCALE_FP8_GEMM_FLASHINFER": "0",
}  # fmt: skip
VIEWS = STORE / "views"  # where the engine shows a release's content


def variables(inventory: Inventory, release: str, targets: Mapping[str, Target]) -> dict[str, Any]:
    """Variables that are made from the whole site: lists of dictionaries, which templates cannot make.

    Args:
        targets: what the release holds, by path; from metadata whose signatures were checked.

    Returns:
        appliance_runtime_image: for the role vllm, the image as a file of the node and its SHA-256; empty for wheels.
        appliance_runtime_profiles: profiles of content that GPU nodes fetch beside their own.
        appliance_relay_order: nodes along the chain of the relay; empty without one.
        appliance_services: by host, for the role vllm: the replicas that it runs, with models as directories on the node.
        appliance_containers, appliance_container_ingress: by host, for the roles container_runtime and firewall.
        appliance_zones, appliance_service_zones: for the role firewall, the zones and the zone of every service; empty without zones.
        appliance_zone_addresses_of: addresses by host and zone.
        appliance_service_addresses: where each host offers a service, by service and host.
        appliance_gateway_told: of a site with tenants, for the roles gateway, nginx and firewall; the configuration itself is a file.
        appliance_slices: by host, for the role mig, which service runs on which slice.
        appliance_upstreams: by host, for the role nginx: services behind its edge, on GPU nodes by socket and on gateways by node.
    """
    told = {} if inventory.tenants is None else {"appliance_gateway_told": gateway(inventory, inventory.tenants)}
    site = inventory.site
    image = runtime_image(site, targets)
    return told | {
        "appliance_runtime_image": {"path": str(Blobs(STORE / "blobs").path(image.sha256)), "sha256": image.sha256}
        if image
        else {},
        "appliance_runtime_profiles": [] if image else [f"gpu{WHEELS}"],
        "appliance_release": release,
        "appliance_site": inventory.handed(),
        "appliance_relay_order": list(chain.order(inventory)),
        "appliance_services": {
            h.name: served(h, site, release, without_kernels(site, targets)) for h in inventory.hosts
        },
        "appliance_containers": {h.name: containers(h, site) for h in inventory.hosts},
        "appliance_container_ingress": {h.name: container_ingress(h, site) for h in inventory.hosts},
        "appliance_zones": [
            {"name": n, **z.model_dump(mode="json", exclude={"services"})} for n, z in site.zones.items()
        ],
        "appliance_service_zones": zones.homes(site.zones),
        "appliance_zone_addresses_of": {
            h.name: {z: a for z in site.zones if (a := zones.address_in(site.zones, z, h.place))}
            for h in inventory.hosts
        },
        "appliance_service_addresses": {
            service: {h.name: inventory.address(h, service) for h in inventory.hosts} for service in zones.SERVICES
        },
        "appliance_slices": {
            h.name: [
                {"name": s.name, "gpu": s.mig.gpu, "instance": s.mig.instance}
                for s in services.services(site, h)
                if s.mig
            ]
            for h in inventory.hosts
        },
        "appliance_upstreams": {h.name: upstreams(h, inventory) for h in inventory.hosts},
    }


def gateway(inventory: Inventory, rendered: Rendered) -> dict[str, Any]:
    """What the playbooks know of the gateway; ``digest`` stands for its configuration."""
    return {
        "workers": inventory.site.gateway.workers,
        "peers": list(rendered.peers),
        "encrypted": rendered.encrypted,
        "endpoints": more_endpoints(rendered),
        "wait_s": rendered.wait_s,
        "digest": rendered.digest,
    }


def without_kernels(site: Site, targets: Mapping[str, Target]) -> Mapping[str, str]:
    """What services on GPUs are told where the release has FlashInfer and not its kernels, which nobody could fetch or compile inside."""
    wheels = [path.rpartition("/")[2] for path in targets if path.startswith(f"content/wheels/{site.runtime}/")]
    needed = ("flashinfer_cubin-", "flashinfer_jit_cache")
    whole = all(any(wheel.startswith(kind) for wheel in wheels) for kind in needed)
    return {} if whole or not any(w.startswith("flashinfer_python-") for w in wheels) else WITHOUT_FLASHINFER


def served(host: Host, site: Site, release: str, on_gpus: Mapping[str, str]) -> list[dict[str, Any]]:
    """The replicas of a host in the words of the role vllm: what is common to all nodes, or the role mig's business, is left out.

    Args:
        on_gpus: variables of services on GPUs, unless they say otherwise themselves.
    """
    entries = []
    for replica in services.replicas(site, host):
        service = replica.service
        folder = f"{VIEWS}/{release}/content/models/{service.model}"
        entries.append(
            {
                "name": replica.name,
                "service": service.name,
                "model": folder,
                "served_name": service.served_name,
                "args": services.flags(service, folder),
                "environment": {**(on_gpus if "nvidia" in service.devices else {}), **service.environment},
                "memory_max": service.memory_max,
                "devices": list(service.devices),
                "gpus": list(service.gpus) if isinstance(service.gpus, tuple) else service.gpus or 0,
                "cpus": service.cpus or 0,
                "start_timeout_s": service.start_timeout_s,
                **({"task": service.task} if service.task else {}),
            }
        )
    return entries


def upstreams(host: Host, inventory: Inventory) -> list[dict[str, Any]]:
    """The services behind a host's edge: on a GPU node its own replicas, on another gateway all services of the site."""
    site, first = inventory.site, services.default(inventory.site)
    found = []
    for service in site.services:
        entry: dict[str, Any] = {
            "name": service.name,
            "served_name": service.served_name,
            "default": service.name == first,
        }
        if "gpu" in host.groups:
            names = [r.name for r in services.replicas(site, host) if r.service is service]
            behind: dict[str, Any] = {"sockets": [f"/run/appliance-vllm/{n}/api.sock" for n in names]}
        else:
            nodes = services.hosts_of(service, inventory.in_group("gpu"))
            behind = {
                "peers": [{"host": inventory.address(h, "inference"), "port": site.inference_port} for h in nodes]
            }
        if any(behind.values()):
            found.append(entry | behind)
    return found


def containers(host: Host, site: Site) -> list[dict[str, Any]]:
    """The containers of a host; a port that others may reach listens on the host's address, any other on loopback."""
    entries = []
    for container in _of(host, site):
        entry = container.model_dump(mode="json", exclude={"groups"})
        address = f"[{host.address}]" if ":" in host.address else host.address
        entry["ports"] = [
            {"address": address if p.sources else "127.0.0.1", "port": p.port, "container_port": p.container_port}
            for p in container.ports
        ]
        entries.append(entry)
    return entries


def container_ingress(host: Host, site: Site) -> list[dict[str, Any]]:
    """What the firewall of a host lets in to its containers."""
    return [
        {"name": f"container {c.name}", "ports": [p.port], "protocol": "tcp", "sources": list(p.sources)}
        for c in _of(host, site)
        for p in c.ports
        if p.sources
    ]


def _of(host: Host, site: Site) -> list[Container]:
    return [c for c in site.containers or () if set(c.groups) & set(host.groups)]


def runtime_image(site: Site, targets: Mapping[str, Target]) -> Target | None:
    """The image that GPU nodes mount; None when they install wheels.

    Raises:
        InputError: the site wants an image and the release has none.
    """
    image = targets.get(f"content/{DIRECTORY}/{site.runtime}.squashfs")
    if site.runtime_form == "image" and image is None:
        raise InputError(
            f"the release has no image of the runtime {site.runtime}",
            where="appliance_site.runtime_form",
            remedy=f"Set `runtime: debs` on the wheel set {site.runtime} of the definition and build again, or use runtime_form: wheels.",
        )
    return image if site.runtime_form != "wheels" else None
