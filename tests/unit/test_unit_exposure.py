"""No unit of ours is more exposed than systemd's own judgement of 2.0, in any form a site can have it."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path, PurePath
from typing import Any

import pytest
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from engine.process import run

ROLES = Path(__file__).parents[2] / "roles"
MOST = 2.0
VALUES: dict[str, Any] = {
    "ansible_managed": "Managed by a test.",
    "ansible_facts": {"systemd": {"version": "252"}},
    "appliance_firewall_interface_wait_s": 20,
    "appliance_firewall_python": "/opt/appliance/current/engine/bin/python",
    "appliance_nginx_body_memory": "64m",
    "appliance_nginx_key_group": "appliance-pki",
    "appliance_container_runtime_config": "",
    "appliance_gateway_checkpoint_key": "/etc/appliance/gateway/checkpoint.pem",
    "appliance_gateway_configuration": "/etc/appliance/gateway/gateway.yml",
    "appliance_gateway_environment": "/opt/appliance/releases/demo/gateway",
    "appliance_firewall_proof_metrics": "/var/lib/appliance/metrics/egress.prom",
    "appliance_vllm_cache": "0123456789abcdef",
    "appliance_vllm_command": "pass",
    "appliance_vllm_compilers": [],
    "appliance_vllm_places": {},
    "appliance_mig_services": [{"name": "chat"}],
    "mig_config": "/etc/appliance/mig.yaml",
    "appliance_model_store_device": "/dev/disk/by-partlabel/models",
    "appliance_model_store_mount": "/var/lib/appliance/store",
    "appliance_vllm_drain_s": 30,
    # Of a container of a site.
    "item": {
        "name": "web",
        "image": "web@sha256:00",
        "memory": "512M",
        0: [{"name": "web"}, {"port": 8085, "container_port": 8080}],
    },
    "appliance_vllm_engine_python": "/opt/appliance/current/engine/bin/python",
    "appliance_vllm_runtime": "/opt/appliance/releases/demo/vllm",
}
FILTERS: dict[str, Any] = {
    "dirname": lambda path: str(PurePath(path).parent),
    "hash": lambda text, _kind: hashlib.sha256(str(text).encode()).hexdigest(),
    "regex_replace": lambda text, pattern, by: re.sub(pattern, by, text),
    "to_json": json.dumps,
    "split": lambda text, by: text.split(by),
}
# Units that cannot be below, each with the reason and its own bound.
EXCUSED: dict[str, tuple[float, str]] = {
    "appliance-cdi.service": (2.3, "lists the GPUs' devices, and may have to make their nodes"),
    "appliance-container-network@chat.service": (
        6.5,
        "makes a network that others must see: no mount namespace of its own",
    ),
    "appliance-gpu-devices.service": (4.5, "loads the driver's modules and makes device files"),
    "appliance-mig.service": (6.0, "divides GPUs: their devices, and the driver's own checks for an administrator"),
    "container.service": (
        9.6,
        "podman sets up mounts and namespaces; the sandbox is the container's own (read-only, no capabilities)",
    ),
}
TEMPLATES = sorted(ROLES.glob("*/templates/*.service.j2"))
FORMS = [(t, ()) for t in TEMPLATES] + [(t, ("nvidia",)) for t in TEMPLATES if t.name.startswith("appliance-vllm@")]


def render(template: Path, **more: Any) -> str:
    loader = FileSystemLoader(template.parent)
    jinja = Environment(loader=loader, undefined=StrictUndefined, autoescape=False)  # noqa: S701  # units, not pages
    jinja.filters |= FILTERS
    defaults = yaml.safe_load((template.parent.parent / "defaults/main.yml").read_text()) or {}
    fixed = template.parent.parent / "vars/main.yml"
    fixed_values = (yaml.safe_load(fixed.read_text()) or {}) if fixed.exists() else {}
    return jinja.from_string(template.read_text()).render({**defaults, **fixed_values, **VALUES, **more})


def exposure(root: Path, unit: str) -> float:
    said = run(
        ["systemd-analyze", "security", "--offline=true", f"--root={root}", "--no-pager", unit], package="systemd"
    )
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", said.stdout)
    assert found, said.stdout
    return float(found[1])


def place(root: Path, template: Path, devices: tuple[str, ...]) -> str:
    units = root / "etc/systemd/system"
    units.mkdir(parents=True)
    name = template.name.removesuffix(".j2").replace("@.", "@chat.")
    (units / name).write_text(render(template))
    instance = template.parent / "instance.conf.j2"
    if "@" in name and instance.exists():
        (units / f"{name}.d").mkdir()
        item = {"name": "chat", "served_name": "chat", "model": "/srv/models/m", "devices": list(devices)}
        (units / f"{name}.d/instance.conf").write_text(render(instance, item=item))
    return name


@pytest.mark.parametrize(
    ("template", "devices"), FORMS, ids=lambda v: v.name if isinstance(v, Path) else "-".join(v) or "-"
)
def test_a_unit_of_ours_is_hardly_exposed(template: Path, devices: tuple[str, ...], tmp_path: Path) -> None:
    name = place(tmp_path, template, devices)
    bound, _why = EXCUSED.get(name, (MOST, ""))
    assert exposure(tmp_path, name) <= bound


def test_the_judgement_sees_a_missing_sandbox(tmp_path: Path) -> None:
    template = ROLES / "nginx/templates/appliance-nginx.service.j2"
    name = place(tmp_path, template, ())
    unit = tmp_path / "etc/systemd/system" / name
    unit.write_text(
        re.sub(r"^(CapabilityBoundingSet|SystemCallFilter|User|Group)=.*\n", "", unit.read_text(), flags=re.MULTILINE)
    )
    assert exposure(tmp_path, name) > MOST


def test_every_unit_is_looked_at() -> None:
    assert {t.name for t in TEMPLATES} >= {
        "appliance-firewall.service.j2",
        "appliance-nginx.service.j2",
        "appliance-vllm@.service.j2",
    }
    assert all(why for _, why in EXCUSED.values())
