"""What the site says, in the words of the playbooks. Pure; playbooks/group_vars/all.yml hands it on to the roles."""

from __future__ import annotations

from typing import Any

from installer.site.inventory import Inventory

VIEWS = "/var/lib/appliance/views"  # where the engine shows a release's content; engine.fetch.STORE


def variables(inventory: Inventory, release: str) -> dict[str, Any]:
    """Variables that are made from the whole site: lists of dictionaries, which templates cannot make.

    Returns:
        appliance_batch, appliance_max_failed_percent: how the change walks through the nodes.
        appliance_services: for the role vllm, models as directories on the node.
        appliance_local_upstreams, appliance_remote_upstreams: for the role nginx, on GPU nodes and on gateways without GPUs.
    """
    site = inventory.site
    services = []
    for service in site.services:
        entry = service.model_dump(mode="json")
        entry["model"] = f"{VIEWS}/{release}/content/models/{service.model}"
        services.append(entry)
    peers = [{"host": h.address, "port": site.inference_port} for h in inventory.in_group("gpu")]
    return {
        "appliance_release": release,
        "appliance_site": site.model_dump(mode="json"),
        "appliance_batch": site.rolling.batch,
        "appliance_max_failed_percent": site.rolling.max_failed_percent,
        "appliance_services": services,
        "appliance_local_upstreams": [
            {"name": s.name, "sockets": [f"/run/appliance-vllm/{s.name}/api.sock"]} for s in site.services
        ],
        "appliance_remote_upstreams": [{"name": s.name, "peers": peers} for s in site.services],
    }
