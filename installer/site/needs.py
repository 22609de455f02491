"""What a release and a site need of a node: the question that is put to it, and the expectation it is judged by. Pure."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from datetime import date

from pydantic import ValidationError

from engine.errors import InputError, TrustError
from engine.fetch import STORE
from engine.preflight.expectation import Expectation, GpuNeed, PortNeed, SpaceNeed
from engine.preflight.facts import Facts, Question
from engine.preflight.judge_network import DHCP_PORT
from engine.rules.networks import with_port
from engine.trust import Target
from installer.compat import cuda, tables
from installer.compat.check import gather
from installer.definition import Definition
from installer.evidence.contents import Contents
from installer.runtime.recipe import WHEELS
from installer.site import chain, services
from installer.site.inventory import Host, Inventory
from installer.site.settings import Site
from installer.site.variables import runtime_image

RELEASES = "/opt/appliance/releases"
BLOBS = f"{STORE}/blobs"
STORE_MOUNT = f"{STORE}/store"  # where the role model_store mounts it
ASK_FROM = 1 << 20  # bytes; a node is asked only for larger blobs, the small ones of a release are a few MB together
# Measured: 198 wheels of 4.0 GB unpack to 7.8 GB (docs/compatibility.md); the engine's 12 MB to 60 MB.
UNPACKED = 2.2
ENGINE_BYTES = 256 << 20
INSTALLED_DEB = 3.5  # what the index of Debian 12 says of the packages that nodes get: Installed-Size over Size
UNITS = {
    "gateway": ("appliance-nginx.service",),
    "inference": ("appliance-nginx.service",),
    "gpu metrics": ("appliance-dcgm-front.service",),
    "relay": ("appliance-relay.service",),
}

# TCP to the root name servers a, b and k, which the whole world may ask (IANA, "Root Servers").
OUTSIDE = (("198.41.0.4", 53), ("170.247.170.2", 53), ("2001:7fd::1", 53))
ROUTERS = "appliance_firewall_router_advertisements"
OUTSIDE_NAMES = ("example.com", "iana.org")


@dataclass(frozen=True)
class Release:
    """What is to be installed; ``contents`` None asks for nothing of a release, only of the site."""

    contents: Contents | None
    definition: Definition | None

    @property
    def name(self) -> str:
        return self.contents.trusted.release if self.contents else ""

    def image(self, site: Site) -> Target | None:
        """The runtime image that GPU nodes mount; None when they install wheels."""
        return runtime_image(site, self.contents.trusted.targets) if self.contents else None

    def targets(self, host: Host, site: Site) -> list[Target]:
        """What the host's profiles bring."""
        more = {f"gpu{WHEELS}"} if "gpu" in host.groups and self.image(site) is None else set()
        return self.contents.trusted.for_profiles({*host.groups, *more}) if self.contents else []


def release(contents: Contents) -> Release:
    """The release of a bundle's account.

    Raises:
        TrustError: its definition is not one that this version understands.
    """
    return Release(contents, definition(contents))


def definition(contents: Contents) -> Definition:
    """The definition that a bundle was made from.

    Raises:
        TrustError: it is not one that this version understands.
    """
    try:
        return Definition.model_validate(contents.definition)
    except ValidationError as error:
        raise TrustError(
            f"the manifest's definition is not ours: {error.error_count()} mistakes", where=contents.trusted.release,
            remedy="It was made by another version of appliance; use that one.",
        ) from error  # fmt: skip


def question(
    host: Host,
    wanted: Release,
    inventory: Inventory,
    *,
    word: str,
    listening: bool,
    outside: tuple[tuple[str, int], ...],
) -> Question:
    """What to ask this host."""
    control = inventory.site.control
    stamp = _stamp(wanted, inventory)
    return Question(
        spaces=(RELEASES, BLOBS, "/usr", "/"),
        blobs={t.sha256: t.size for t in wanted.targets(host, inventory.site) if t.size >= ASK_FROM},
        blob_store=BLOBS,
        files=(stamp,) if stamp else (),
        control=(control.address, control.port) if listening else None,
        word=word,
        outside=outside,
        outside_names=OUTSIDE_NAMES,
        disk=BLOBS,
    )


def expectation(host: Host, wanted: Release, inventory: Inventory, facts: Facts, today: date) -> Expectation:
    """What this host should be; how much is still to come depends on what it has."""
    definition, site = wanted.definition, inventory.site
    target = definition.target if definition else None
    here = services.replicas(site, host)
    return Expectation(
        os=target.os if target else "",
        machine=target.arch if target else "",
        python=target.python if target else "",
        kernel=_kernel(wanted, site) if "gpu" in host.groups or site.gpu_driver is None else "",
        vector=any("nvidia" not in r.service.devices for r in here),
        gpu=_gpu(host, wanted, inventory, today),
        spaces=_spaces(host, wanted, inventory, facts) if wanted.contents else (),
        ports=_ports(host, inventory),
        asks=tuple(services.ask(r) for r in here),
        memory_bytes=sum(bytes_of(r.service.memory_max) for r in here),
        depot=with_port(site.control.address, site.control.port),
        dhcp=tuple(
            d for flow in site.egress if flow.protocol == "udp" and DHCP_PORT in flow.ports for d in flow.destinations
        ),
        router_advertisements=inventory.variables.get(host.name, {}).get(ROUTERS) is True,
    )


def _kernel(wanted: Release, site: Site) -> str:
    """The kernel that the site brings with its driver, else the one that the definition names."""
    if site.gpu_driver and wanted.contents:
        return site.gpu_driver.kernel
    return (wanted.definition.target.kernel or "") if wanted.definition else ""


def bytes_of(text: str) -> int:
    """systemd's sizes: ``64G`` is 64 times 1024 to the third; 0 for none, a share or infinity (systemd.resource-control)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)", text.strip())
    return int(float(match[1]) * 1024 ** " KMGT".index(match[2] or " ")) if match else 0


def _gpu(host: Host, wanted: Release, inventory: Inventory, today: date) -> GpuNeed | None:
    """GPUs are needed where services open them, or where the definition names them for this kind of node."""
    definition = wanted.definition
    named = definition.target.gpu if definition else None
    if "gpu" not in host.groups or not (
        named or any("nvidia" in s.devices for s in services.services(inventory.site, host))
    ):
        return None
    cuda_version: tuple[int, ...] = ()
    if definition and wanted.contents:
        cuda_version = cuda.runtime(gather(definition, wanted.contents.lock, today), inventory.site.runtime)
    branch = tables.CUDA_NEEDS.get(cuda_version[0], 0) if cuda_version else 0
    driver, mig = inventory.site.gpu_driver, inventory.site.mig is not None
    brings = driver is not None and wanted.contents is not None
    if named is None:
        version = driver.version if driver and brings else ""
        return GpuNeed(driver=version, cuda=cuda_version, branch=branch, brings_driver=brings, brings_mig=mig)
    by_model = any(tables.GPUS[m].nvswitch for m in named.models if m in tables.GPUS)
    return GpuNeed(
        models=named.models, driver=driver.version if driver and brings else named.driver, branch=branch, cuda=cuda_version, modules=named.kernel_modules,
        secure_boot=named.secure_boot, mig=bool(named.mig), nvswitch=by_model if named.nvswitch is None else named.nvswitch,
        brings_driver=brings, brings_mig=mig,
    )  # fmt: skip


def _spaces(host: Host, wanted: Release, inventory: Inventory, facts: Facts) -> tuple[SpaceNeed, ...]:
    targets = wanted.targets(host, inventory.site)
    lacking = facts.storage.lacking_bytes if facts.storage else 0
    small = sum(t.size for t in targets if t.size < ASK_FROM)
    runtime = sum(t.size for t in targets if t.path.startswith(f"content/wheels/{inventory.site.runtime}/"))
    ready = _stamp(wanted, inventory) in (facts.storage.present if facts.storage else ())
    debs = sum(t.size for t in targets if t.path.endswith(".deb"))
    needs = []
    if not _store_is_to_come(host, inventory.site, facts):
        needs.append(SpaceNeed(BLOBS, min(lacking, sum(t.size for t in targets)) + small, "content"))
    if "gpu" in host.groups and inventory.site.services and not ready and wanted.image(inventory.site) is None:
        needs.append(SpaceNeed(RELEASES, int(runtime * UNPACKED), "runtime"))
    needs.append(SpaceNeed(RELEASES, ENGINE_BYTES, "engine"))
    needs.append(SpaceNeed("/usr", int(debs * INSTALLED_DEB), "packages"))
    return tuple(needs)


def _store_is_to_come(host: Host, site: Site, facts: Facts) -> bool:
    """Whether the install gives this node's content a file system of its own first: what is free elsewhere says nothing then."""
    store = site.model_store
    if not (store and store.device and set(store.groups) & set(host.groups)) or not facts.storage:
        return False
    return not any(s.path == BLOBS and s.mount == STORE_MOUNT for s in facts.storage.spaces)


def _stamp(wanted: Release, inventory: Inventory) -> str:
    """What the role vllm leaves beside a complete runtime (roles/vllm/vars/main.yml); empty when there is none to be."""
    runtime = inventory.site.runtime
    if wanted.contents is None or wanted.image(inventory.site):
        return ""
    pins = wanted.contents.trusted.targets.get(f"content/wheels/{runtime}/requirements.txt")
    return f"{RELEASES}/{wanted.name}/vllm/complete-{pins.sha256[:16]}" if pins else ""


def _ports(host: Host, inventory: Inventory) -> tuple[PortNeed, ...]:
    """As playbooks/group_vars/all.yml gives them to the roles: a gateway listens for clients, a GPU node for gateways."""
    needs = []
    if "gateway" in host.groups:
        needs.append(PortNeed(inventory.site.gateway.port, "gateway", UNITS["gateway"]))
    elif "gpu" in host.groups:
        needs.append(PortNeed(inventory.site.inference_port, "inference", UNITS["inference"]))
    if "gpu" in host.groups and inventory.site.gpu_metrics:
        needs.append(PortNeed(inventory.site.gpu_metrics.port, "gpu metrics", UNITS["gpu metrics"]))
    if host.name in chain.order(inventory):
        needs.append(PortNeed(inventory.site.relay.port, "relay", UNITS["relay"]))
    return tuple(needs)


def outside_of(asked: list[str]) -> tuple[tuple[str, int], ...]:
    """What ``--outside`` names; the defaults when it names nothing."""
    return tuple(map(_target, asked)) if asked else OUTSIDE


def _target(text: str) -> tuple[str, int]:
    address, _, port = text.rpartition(":")
    try:
        target = str(ipaddress.ip_address(address.strip("[]"))), int(port)
    except ValueError:
        target = "", 0
    if not 0 < target[1] < 65536:
        raise InputError(
            f"{text} is no address with a port",
            where="--outside",
            remedy="For example 192.0.2.1:443 or [2001:db8::1]:443.",
        )
    return target
