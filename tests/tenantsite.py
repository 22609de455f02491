"""A site with tenants, as an inventory on disk, for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

SITE: dict[str, Any] = {
    "control": {"address": "10.1.0.5"},
    "management_sources": ["10.1.0.5/32"],
    "client_sources": ["198.51.100.0/24"],
    "gateway": {"tenants": "tenants.yml"},
    "services": [
        {"name": "chat", "model": "m", "served_name": "tiny", "args": {"max-model-len": 1024, "max-num-seqs": 32}}
    ],
}
HOSTS: dict[str, Any] = {
    "all": {
        "children": {
            "gateway": {"hosts": {"gw-1": {"ansible_host": "10.1.0.10"}}},
            "gpu": {"hosts": {"gpu-1": {"ansible_host": "10.1.0.21"}, "gpu-2": {"ansible_host": "2001:db8::22"}}},
        }
    }
}
TENANTS = """\
# Who may ask.
schema: 1
site: lab
cache_salt_seed: 0123456789abcdef
tenants:
  - name: team-a
    cost_centre: "4711"
    models: [tiny]
    keys: []   # none yet
    certificates:
      - {id: a-cert, san: "URI:appliance:client/team-a"}
    limits: {tokens_per_day: 1000000}

  # The other team.
  - name: team-b
    cost_centre: "4712"
    models: [tiny]
"""


def write(where: Path, tenants: str = TENANTS, hosts: dict[str, Any] | None = None, **changes: Any) -> Path:
    """The inventory; ``changes`` replace keys of the site."""
    (where / "group_vars/all").mkdir(parents=True, exist_ok=True)
    site = {**SITE, **changes}
    (where / "group_vars/all/site.yml").write_text(yaml.safe_dump({"appliance_site": site}, sort_keys=False))
    (where / "hosts.yml").write_text(yaml.safe_dump(hosts or HOSTS, sort_keys=False))
    (where / "tenants.yml").write_text(tenants)
    return where
