"""The inventory of a site, read with Ansible's own eyes and validated before anything runs."""

from __future__ import annotations

import ipaddress
import json
import shlex
import sysconfig
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from engine.errors import InputError
from engine.process import ProcessError, run
from installer import yamlfile
from installer.definition import Name

GROUPS = ("control", "gateway", "gpu", "monitoring")
SITE_FILE = Path("group_vars/all/site.yml")


def _network(value: str) -> str:
    ipaddress.ip_network(value, strict=False)
    return value


def _address(value: str) -> str:
    ipaddress.ip_address(value)
    return value


Network = Annotated[str, AfterValidator(_network), Field(description="CIDR or address, for example 192.0.2.0/24.")]
Address = Annotated[str, AfterValidator(_address), Field(description="IP address.")]
Port = Annotated[int, Field(ge=1, le=65535)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Control(_Strict):
    """Where nodes find the depot while an install runs."""

    address: Address
    port: Port = 7443


class Gateway(_Strict):
    """Where clients come in."""

    port: Port = 8443


class Flow(_Strict):
    """Something nodes may reach beyond the depot."""

    name: Name
    destinations: Annotated[tuple[Network, ...], Field(min_length=1)]
    ports: Annotated[tuple[Port, ...], Field(min_length=1)]
    protocol: Literal["tcp", "udp"] = "tcp"


class Rolling(_Strict):
    """How a change walks through the nodes."""

    batch: int | Annotated[str, Field(pattern=r"^[1-9][0-9]?%$|^100%$")] = Field(
        1, description="Nodes that change at once, a number or a share."
    )
    max_failed_percent: Annotated[int, Field(ge=0, le=100)] = Field(
        0, description="Share of a batch that may fail before the rest is left alone."
    )


Device = Annotated[
    str,
    Field(
        pattern=r"^(/dev/disk/by-(id|partlabel|partuuid|path)/[A-Za-z0-9._:+-]+)?$",
        description="/dev/disk/by-id/… or by-partlabel/…; a host's own appliance_model_store_device goes before it. "
        "Empty leaves content on the root file system and only verifies it.",
    ),
]


class Verification(_Strict):
    """When a node's content is hashed again, and how fast."""

    calendar: str = Field("Sun *-*-* 02:00:00", description="As systemd.time describes it; empty for never.")
    delay: str = Field("4h", description="Nodes begin at a random moment within this time.")
    rate: Annotated[int, Field(ge=0)] = Field(200_000_000, description="Bytes a second at most; 0 for no limit.")


class Encryption(_Strict):
    """How the device of the store is encrypted (LUKS2), and who opens it after a boot."""

    opened_by: Literal["none", "tpm2", "passphrase"] = Field("none", description="Nothing is encrypted with none.")
    tpm2_pcrs: Annotated[tuple[Annotated[int, Field(ge=0, le=23)], ...], Field(min_length=1)] = Field(
        (7,), description="Registers that must be as they were when the key was bound."
    )
    tpm2_pin_file: str = Field("", description="File on the control host with a PIN to be asked for as well.")
    passphrase_file: str = Field("", description="File on the control host; needed with passphrase.")
    keys: str = Field("/var/lib/appliance/store-keys", description="Directory on the control host for recovery keys.")

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if (self.opened_by == "passphrase") != bool(self.passphrase_file):
            raise ValueError("passphrase_file goes with opened_by: passphrase, and with it alone")
        if self.tpm2_pin_file and self.opened_by != "tpm2":
            raise ValueError("tpm2_pin_file goes with opened_by: tpm2 alone")
        return self


class ModelStore(_Strict):
    """Where nodes keep their content, and how it is looked after."""

    groups: tuple[Literal["gateway", "gpu", "monitoring"], ...] = Field(("gpu",), description="Nodes that get one.")
    device: Device = ""
    file_system: Literal["ext4", "xfs"] = "ext4"
    reserve: Annotated[str, Field(pattern=r"^[1-9][0-9]*[MGT]$")] = Field(
        "1G", description="Kept free by a file, for the day on which the store is full."
    )
    encryption: Encryption = Encryption()
    verification: Verification = Verification()

    @model_validator(mode="after")
    def _has_a_device(self) -> Self:
        if self.encryption.opened_by != "none" and not self.device:
            raise ValueError("encryption needs a device of the store's own")
        return self


class Service(_Strict):
    """One served model."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$", description="Name of the unit.")]
    model: Name = Field(description="Model of the definition.")
    served_name: str = Field(description="Name that clients ask for.")
    args: dict[str, Any] = Field(default_factory=dict, description="vLLM flags without dashes.")
    environment: dict[str, str] = Field(default_factory=dict)
    memory_max: str = Field("", description="systemd MemoryMax, for example 64G.")
    devices: tuple[Literal["nvidia"], ...] = Field((), description="Device classes the service may open.")
    start_timeout_s: Annotated[int, Field(ge=10)] = 900


class Site(_Strict):
    """What a site is; the variable ``appliance_site`` of the inventory."""

    control: Control
    management_sources: Annotated[tuple[Network, ...], Field(min_length=1, description="From where operators log in.")]
    client_sources: tuple[Network, ...] = Field((), description="From where clients may reach the gateway.")
    gateway: Gateway = Gateway()
    inference_port: Port = Field(8444, description="Port of GPU nodes that gateways connect to.")
    egress: tuple[Flow, ...] = ()
    rolling: Rolling = Rolling()
    runtime: Name = Field("vllm", description="Wheel set of the definition that serves models.")
    runtime_form: Literal["auto", "image", "wheels"] = Field(
        "auto",
        description="Whether nodes mount the runtime's image or install its wheels; auto takes the image where the release has one.",
    )
    model_store: ModelStore | None = Field(
        None, description="Place and health of the content; left out, neither is managed."
    )
    services: Annotated[tuple[Service, ...], Field(max_length=1)] = Field(
        (), description="Served models; one until the policy gateway can route by model."
    )


@dataclass(frozen=True)
class Host:
    """A node as the inventory describes it."""

    name: str
    address: str
    groups: tuple[str, ...]


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

    def in_group(self, group: str) -> tuple[Host, ...]:
        return tuple(h for h in self.hosts if group in h.groups)


def load(path: Path) -> Inventory:
    """Read and validate.

    Raises:
        InputError: names the file, the line and the key, or the host, of every fault.
    """
    if not path.exists():
        raise InputError(
            "there is no such inventory",
            where=str(path),
            remedy="Give the directory, for example -i inventories/example.",
        )
    data = _ask_ansible(path)
    hostvars: dict[str, dict[str, Any]] = data.get("_meta", {}).get("hostvars", {})
    hosts = _hosts(path, data, hostvars)
    site = _site(path, next(iter(hostvars.values())))
    _consistent(path, hosts, site)
    return Inventory(path, hosts, site, {h.name: _connection(path, h, hostvars.get(h.name, {})) for h in hosts})


def ansible_inventory() -> str:
    """The program that belongs to this Python; the one on the path otherwise."""
    binary = Path(sysconfig.get_path("scripts")) / "ansible-inventory"
    return str(binary) if binary.exists() else binary.name


def variables(path: Path) -> dict[str, dict[str, Any]]:
    """Every host's variables as Ansible merges them; templates in them are left as they are.

    Raises:
        InputError: Ansible cannot read the inventory.
    """
    found: dict[str, dict[str, Any]] = _ask_ansible(path).get("_meta", {}).get("hostvars", {})
    return found


def _ask_ansible(path: Path) -> dict[str, Any]:
    """The merged inventory with its variables resolved, as Ansible itself sees it."""
    try:
        done = run(
            [ansible_inventory(), "-i", path, "--list"],
            env={"ANSIBLE_INVENTORY_UNPARSED_FAILED": "true"},
        )
    except ProcessError as error:
        raise InputError(
            f"Ansible cannot read the inventory: {error.stderr.strip()[-600:]}",
            where=str(path),
            remedy="Mend the file it names.",
        ) from error
    data: dict[str, Any] = json.loads(done.stdout)
    return data


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
        hosts.append(Host(name, address, tuple(groups)))
    return tuple(hosts)


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
        key=str(Path(key).expanduser()) if key else "",
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
    if site.services and not gateways:
        raise InputError(
            "services are to be served but no host is in the group gateway",
            where=str(path),
            remedy="Add a host to gateway; a GPU node may be both.",
        )
