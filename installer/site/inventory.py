"""The inventory of a site, read with Ansible's own eyes and validated before anything runs."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from engine.errors import InputError
from installer import yamlfile
from installer.site import ansiblelist, zones
from installer.site.settings import Site

GROUPS = ("control", "gateway", "gpu", "monitoring")
SITE_FILE = Path("group_vars/all/site.yml")
HOSTS_FILE = "hosts.yml"


@dataclass(frozen=True)
class Host:
    """A node as the inventory describes it. ``rack`` is where it stands, its variable ``appliance_rack``."""

    name: str
    address: str
    groups: tuple[str, ...]
    rack: str = ""
    zone_addresses: Mapping[str, str] = field(default_factory=dict)

    @property
    def place(self) -> zones.Place:
        return zones.Place(self.name, self.address, self.groups, self.zone_addresses)


@dataclass(frozen=True)
class Connection:
    """How Ansible would log in to a node. ``arguments`` are the inventory's own, for ssh; ``unsupported`` names what else it asks for."""

    address: str
    port: int = 0
    user: str = ""
    key: str = ""
    arguments: tuple[str, ...] = ()
    python: str = "/usr/bin/python3"
    unsupported: str = ""


@dataclass(frozen=True)
class Inventory:
    """A validated inventory."""

    path: Path
    hosts: tuple[Host, ...]
    site: Site
    connections: Mapping[str, Connection] = field(default_factory=dict)
    variables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def nodes(self) -> tuple[Host, ...]:
        """Hosts that something is installed on."""
        return tuple(h for h in self.hosts if h.groups != ("control",))

    def in_group(self, group: str) -> tuple[Host, ...]:
        return tuple(h for h in self.hosts if group in h.groups)

    def address(self, host: Host, service: str) -> str:
        """Where ``host`` offers ``service``: in the zone it lives in, or at the node's one address."""
        return zones.address_for(self.site.zones, service, host.place)


def load(path: Path) -> Inventory:
    """Read and validate.

    Raises:
        InputError: names the file, the line and the key, or the host, of every fault.
    """
    data = ansiblelist.ask(path)
    hostvars: dict[str, dict[str, Any]] = data.get("_meta", {}).get("hostvars", {})
    hosts = _hosts(path, data, hostvars)
    site = _site(path, next(iter(hostvars.values())))
    _consistent(path, hosts, site)
    _zoned(path, hosts, site)
    connections = {h.name: _connection(path, h, hostvars.get(h.name, {})) for h in hosts}
    return Inventory(path, hosts, site, connections, hostvars)


def variables(path: Path) -> dict[str, dict[str, Any]]:
    """Every host's variables as Ansible merges them; templates in them are left as they are.

    Raises:
        InputError: Ansible cannot read the inventory.
    """
    found: dict[str, dict[str, Any]] = ansiblelist.ask(path).get("_meta", {}).get("hostvars", {})
    return found


def _hosts(path: Path, data: dict[str, Any], hostvars: dict[str, dict[str, Any]]) -> tuple[Host, ...]:
    members: dict[str, list[str]] = {}
    for group in GROUPS:
        for name in data.get(group, {}).get("hosts", []):
            members.setdefault(name, []).append(group)
    unknown = sorted(set(hostvars) - set(members))
    if unknown:
        raise InputError(
            f"{unknown[0]} is in none of the groups {', '.join(GROUPS)}",
            where=str(path),
            remedy="Put every host into at least one of them.",
        )
    if not members:
        raise InputError(
            "the inventory has no hosts", where=str(path), remedy=f"List hosts under the groups {', '.join(GROUPS)}."
        )
    hosts = []
    for name, groups in sorted(members.items()):
        address = _template(str(hostvars.get(name, {}).get("ansible_host", "")))
        if not address:
            raise InputError(f"{name} has no ansible_host", where=str(path), remedy="Give the address of the node.")
        named = hostvars.get(name, {}).get("appliance_zone_addresses", {})
        if not isinstance(named, dict):
            raise InputError(
                f"{name}: appliance_zone_addresses is no mapping",
                where=str(path),
                remedy="Write ZONE: ADDRESS below it.",
            )
        zone_addresses = {str(zone): _template(str(value)) for zone, value in named.items()}
        rack = _template(str(hostvars.get(name, {}).get("appliance_rack", "")))
        hosts.append(Host(name, address, tuple(groups), rack, zone_addresses))
    return tuple(hosts)


def _key_file(key: str) -> str:
    """``~`` as the user's home directory; where there is none, ssh says what it cannot find."""
    try:
        return str(Path(key).expanduser())
    except RuntimeError:
        return key


def _connection(path: Path, host: Host, variables: dict[str, Any]) -> Connection:
    """The variables of Ansible's ssh connection that a site has a use for, under both of their names."""

    def of(*names: str) -> str:
        return next((_template(str(variables[n])) for n in names if variables.get(n) not in (None, "")), "")

    plugin = of("ansible_connection") or "ssh"
    secret = next((n for n in ("ansible_password", "ansible_ssh_pass") if n in variables), "")
    key, port = of("ansible_ssh_private_key_file", "ansible_private_key_file"), of("ansible_port", "ansible_ssh_port")
    arguments = []
    for name in ("ansible_ssh_common_args", "ansible_ssh_extra_args"):
        try:
            arguments += shlex.split(of(name))
        except ValueError as error:
            raise InputError(
                f"{name} of {host.name}: {error}", where=str(path), remedy="Balance its quotes."
            ) from error
    if port and not (port.isdigit() and 0 < int(port) < 65536):
        raise InputError(f"{host.name} has the port {port}", where=str(path), remedy="Give a number below 65536.")
    return Connection(
        address=host.address,
        port=int(port or 0),
        user=of("ansible_user", "ansible_ssh_user"),
        key=_key_file(key) if key else "",
        arguments=tuple(arguments),
        python=of("ansible_python_interpreter") or "/usr/bin/python3",
        unsupported=secret or ("" if plugin in ("ssh", "smart") else f"ansible_connection: {plugin}"),
    )


def _site(path: Path, variables: dict[str, Any]) -> Site:
    if "appliance_site" not in variables:
        raise InputError(
            "appliance_site is missing",
            where=str(path / SITE_FILE),
            remedy="Copy inventories/example/group_vars/all/site.yml and change it.",
        )
    resolved = _resolve(variables["appliance_site"])
    file = path / SITE_FILE
    if file.is_file():
        # The person's file names the line; the values are those that Ansible will use.
        document = yamlfile.load(file)
        lines = {key[1:]: line for key, line in document.lines.items() if key[:1] == ("appliance_site",)}
        return yamlfile.parse(yamlfile.Document(file, resolved, lines), Site)
    try:
        return Site.model_validate(resolved)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(map(str, fault["loc"]))
        raise InputError(
            f"appliance_site.{key}: {fault['msg']}",
            where=str(path),
            remedy="`appliance schema site` prints what is allowed.",
        ) from error


def _resolve(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _resolve(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_resolve(v) for v in value]
    return _template(value) if isinstance(value, str) else value


def _template(text: str) -> str:
    """Resolve what ``ansible-inventory`` leaves as a template, with Ansible's own engine (lookups included)."""
    if "{{" not in text:
        return text
    return str(_templar()(text))


@cache
def _templar() -> Callable[[str], Any]:
    """Ansible's template engine; imported on use because it is slow and rarely needed."""
    from ansible.parsing.dataloader import DataLoader  # noqa: PLC0415
    from ansible.plugins.loader import init_plugin_loader  # noqa: PLC0415
    from ansible.template import Templar, trust_as_template  # noqa: PLC0415

    init_plugin_loader([])
    templar = Templar(loader=DataLoader(), variables={})
    return lambda text: templar.template(trust_as_template(text))


def _consistent(path: Path, hosts: tuple[Host, ...], site: Site) -> None:
    gpu = [h for h in hosts if "gpu" in h.groups]
    gateways = [h for h in hosts if "gateway" in h.groups]
    twice = sorted({h.address for h in hosts if sum(o.address == h.address for o in hosts) > 1})
    if twice:
        raise InputError(
            f"two hosts have the address {twice[0]}",
            where=str(path),
            remedy="Give every node its own; one host may be in several groups.",
        )
    if site.services and not gpu:
        raise InputError(
            "services are to be served but no host is in the group gpu",
            where=str(path),
            remedy="Add a host to gpu, or remove the services.",
        )
    ports = [(g, p.port) for c in site.containers or () for g in c.groups for p in c.ports]
    again = sorted({port for group, port in ports if ports.count((group, port)) > 1})
    if again:
        raise InputError(
            f"two containers have the port {again[0]}",
            where=f"{path / SITE_FILE}: containers",
            remedy="Give every port of a node to one container.",
        )
    if site.cuda and site.cuda.compat and not site.gpu_driver:
        raise InputError(
            "cuda.compat is asked for, but gpu_driver does not say which driver it stands beside",
            where=str(path / SITE_FILE),
            remedy="Add gpu_driver, or remove cuda.compat.",
        )
    if sliced := next((s for s in site.services if s.mig and (not site.mig or "nvidia" not in s.devices)), None):
        raise InputError(
            f"the service {sliced.name} is to run on a MIG slice, but {'its devices do not name nvidia' if site.mig else 'mig.layout divides no GPU'}",
            where=str(path / SITE_FILE),
            remedy="Add mig.layout and devices: [nvidia], or remove mig from the service.",
        )
    if site.services and not gateways:
        raise InputError(
            "services are to be served but no host is in the group gateway",
            where=str(path),
            remedy="Add a host to gateway; a GPU node may be both.",
        )


def _zoned(path: Path, hosts: tuple[Host, ...], site: Site) -> None:
    """Refuse zones that contradict each other, the rest of the site or the hosts; every fault at once."""
    uses = [
        zones.Use(("management_sources",), site.management_sources, "ssh"),
        zones.Use(("client_sources",), site.client_sources, "gateway"),
        zones.Use(("control", "address"), (site.control.address,), "depot"),
        *(zones.Use(("egress", i), flow.destinations, zone=flow.zone) for i, flow in enumerate(site.egress)),
    ]
    file = path / SITE_FILE
    document = yamlfile.load(file) if file.is_file() else None
    told = []
    for fault in zones.faults(site.zones, uses, [h.place for h in hosts]):
        dotted = ".".join(map(str, fault.key))
        if fault.host:
            where = f"{path / HOSTS_FILE}: {fault.host}: {dotted}"
        elif document:
            where = f"{file}:{document.line(('appliance_site', *fault.key))}: {dotted}"
        else:
            where = f"{path}: appliance_site.{dotted}"
        told.append(f"{where}: {fault.what}. {fault.remedy}")
    if told:
        raise InputError("\n".join(told), remedy="docs/firewall.md says what zones are.")
