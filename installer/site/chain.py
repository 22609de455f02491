"""In which order nodes hand content on. Pure; who can be reached is known only while the play runs, and left out there."""

from __future__ import annotations

from collections.abc import Sequence

from installer.site import zones
from installer.site.inventory import Inventory


def order(inventory: Inventory) -> Sequence[str]:
    """Names of the nodes along the chain; empty where the site does not relay, has nobody to relay to, or no zone for it.

    Nodes of a rack stand together, so that the bytes enter every rack once; nodes without one come first.
    """
    nodes = [h for h in inventory.hosts if h.groups != ("control",)]
    zoned = inventory.site.zones
    if not inventory.site.relay.enabled or len(nodes) < 2 or (zoned and "relay" not in zones.homes(zoned)):
        return ()
    return tuple(h.name for h in sorted(nodes, key=lambda h: (h.rack, h.name)))
