"""What a site says about itself: the variable ``appliance_site`` of its inventory, and what each key may be.

`appliance schema site` prints it; installer.site.inventory reads it and checks what concerns several nodes.
"""

from __future__ import annotations

import ipaddress
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from engine.addresses import fault
from installer.definition import Name
from installer.site.zones import Zone, ZoneName


def _network(value: str) -> str:
    ipaddress.ip_network(value, strict=False)
    return value


def _address(value: str) -> str:
    return str(ipaddress.ip_address(value))  # one spelling, for it is compared


def _url(value: str) -> str:
    if found := fault(value) if value else "":
        raise ValueError(found)
    return value


Network = Annotated[str, AfterValidator(_network), Field(description="CIDR or address, for example 192.0.2.0/24.")]
Address = Annotated[str, AfterValidator(_address), Field(description="IP address.")]
Port = Annotated[int, Field(ge=1, le=65535)]
# Of such a name Ansible knows that it is no list of hosts (installer.site.ansiblelist).
TENANTS_NAME = r"^([A-Za-z0-9][A-Za-z0-9_-]*[_-])?tenants\.ya?ml$"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Control(_Strict):
    """Where nodes find the depot while an install runs."""

    address: Address = Field(
        description="Address of the control host as the nodes see it; they fetch the release from it."
    )
    port: Port = Field(
        7443, description="Port of the control host; something listens there only while an install runs."
    )


class Gateway(_Strict):
    """Where clients come in, and with tenants who may ask for how much."""

    port: Port = Field(8443, description="Port that clients connect to.")
    tenants: Annotated[str, Field(pattern=TENANTS_NAME)] | None = Field(
        None,
        description="File beside the inventory with tenants, keys, limits and models (docs/gateway.md). Without it every client certificate "
        "may ask for every model.",
    )
    workers: Annotated[int, Field(ge=1, le=64)] = Field(
        2,
        description="Processes of the gateway that answer requests; about one for a thousand streams. Goes with tenants.",
    )
    client_certificates: Literal["required", "optional"] = Field(
        "required",
        description="With optional an API key or a token is enough, as far as the tenants file accepts it alone. Goes with tenants.",
    )

    @model_validator(mode="after")
    def _with_tenants(self) -> Self:
        if self.tenants is None and (said := sorted(self.model_fields_set & {"workers", "client_certificates"})):
            raise ValueError(f"{said[0]} goes with tenants, the file that names who may ask")
        return self

    @model_serializer(mode="wrap")
    def _as_ever_without_tenants(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """A site without tenants is written as it was before there were any."""
        told: dict[str, Any] = dump(self)
        return told if self.tenants is not None else {"port": told["port"]} if "port" in told else {}


class Relay(_Strict):
    """How nodes hand content on to each other while an install runs."""

    enabled: bool = Field(
        True, description="Whether nodes hand content on; without it each fetches all of it from the control host."
    )
    port: Port = Field(7444, description="Where a node serves its neighbours; nothing listens there at other times.")


class Flow(_Strict):
    """Something nodes may reach beyond the depot."""

    name: Name = Field(description="What it is for; names the rule of the firewall.")
    destinations: Annotated[tuple[Network, ...], Field(min_length=1, description="Addresses or networks it may go to.")]
    ports: Annotated[tuple[Port, ...], Field(min_length=1, description="Ports it may go to.")]
    protocol: Literal["tcp", "udp"] = Field("tcp", description="Transport protocol of these ports.")
    zone: str = Field("", description="Zone by whose interfaces it leaves; by any when left out.")


Share = Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=r"^[1-9][0-9]?%$|^100%$")]


class Rolling(_Strict):
    """How a change walks through the nodes."""

    batch: Share | Annotated[tuple[Share, ...], Field(min_length=1)] = Field(
        1,
        description="Nodes that change at once, a number or a share; a list is for one batch after the other, its last repeats.",
    )
    max_failed_percent: Annotated[int, Field(ge=0, le=100)] = Field(
        0, description="Share of all nodes that may fail before the rest is left alone."
    )
    max_unavailable: Share | None = Field(
        None,
        description="Nodes that may be out of service at once, whatever the reason; as many as the largest batch when left out.",
    )
    per_service: Annotated[int, Field(ge=1)] = Field(
        1, description="Nodes of one service that may be out of service at once."
    )
    pause_after: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="Numbers of batches after which the run stops until somebody says --continue."
    )


class Gate(_Strict):
    """What a node must show after an upgrade before it serves again."""

    throughput_share: Annotated[float, Field(gt=0, le=1)] = Field(
        0.8, description="Of the node's own throughput before."
    )
    max_gap: Annotated[float, Field(ge=0)] = Field(
        0.5,
        description="In nats: how much less likely than the new token the old one may have become where answers part.",
    )
    requests: Annotated[int, Field(ge=1, le=256)] = Field(4, description="At once, for the throughput.")
    tokens: Annotated[int, Field(ge=8, le=1024)] = Field(48, description="Length of each answer.")


Clock = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$", description="HH:MM in the node's local time.")]
Package = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9+.-]+$")]


class Window(_Strict):
    """When nodes may be rebooted."""

    model_config = ConfigDict(extra="forbid", frozen=True, serialize_by_alias=True)

    days: tuple[Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"], ...] = Field(
        (), description="Days on which it begins; empty is every day."
    )
    begin: Clock = Field(alias="from", description="When it begins, HH:MM in the node's local time.")
    end: Clock = Field(alias="to", description="When it ends, HH:MM; earlier than from means on the next day.")


class GpuDriver(_Strict):
    """NVIDIA's driver and its kernel on GPU nodes: one set, from the bundle, in exactly these versions."""

    version: Annotated[str, Field(pattern=r"^\d{3}\.\d{1,3}(\.\d{1,3})?$", description="For example 580.178.04.")]
    kernel: Annotated[str, Field(pattern=r"^\d[A-Za-z0-9.+~-]+$", description="As `uname -r` prints it.")]
    packages: tuple[Package, ...] = Field(
        ("libcuda1", "libnvidia-ml1", "nvidia-smi", "nvidia-persistenced"),
        description="Packages beside the kernel modules; the default is Debian's names.",
    )
    modules: Literal["auto", "open", "proprietary"] = Field("auto", description="auto decides by the GPUs of a node.")
    source: Literal["dkms", "prebuilt"] = Field(
        "dkms",
        description="Whether kernel modules are built on the node (dkms) or come built for the kernel (prebuilt).",
    )
    module_package: Package | Literal[""] = Field("", description="Empty takes Debian's name of the flavour.")
    module_signer: Annotated[str, Field(pattern=r"^[^\n]{0,200}$")] = Field(
        "", description="Name of the key that signed prebuilt modules; needed under Secure Boot."
    )
    fabric: tuple[Package, ...] = Field((), description="Fabric manager and its companions, for boards with NVSwitch.")
    maintenance: Window | None = Field(None, description="When nodes may be rebooted; without it never.")


class Cuda(_Strict):
    """CUDA beyond what the wheels bring."""

    toolkit: bool = Field(False, description="Compilers and libraries for development; serving needs none.")
    toolkit_packages: Annotated[tuple[Package, ...], Field(min_length=1)] = Field(
        ("nvidia-cuda-toolkit",), description="Packages of the toolkit; the default is Debian's name."
    )
    compat: Package | Literal[""] = Field(
        "",
        description="Package with a libcuda newer than the driver, for data center GPUs; for example cuda-compat-13-2.",
    )


class MigGroup(_Strict):
    """GPUs that are divided alike."""

    gpus: Literal["all"] | tuple[Annotated[int, Field(ge=0, le=63)], ...] = Field(
        "all", description="Numbers of the GPUs as `nvidia-smi -L` lists them, or all."
    )
    profiles: dict[
        Annotated[str, Field(pattern=r"^[1-9]g\.[0-9]{1,3}gb([+-](me|gfx|me\.all))?$")],
        Annotated[int, Field(ge=1, le=8)],
    ] = Field(default_factory=dict, description="Instances by profile; none switches MIG off.")


class Mig(_Strict):
    """How the GPUs of a node are divided."""

    layout: Annotated[tuple[MigGroup, ...], Field(min_length=1, description="How which GPUs are divided.")]


class Slice(_Strict):
    """One instance of a divided GPU."""

    gpu: Annotated[int, Field(ge=0, le=63, description="Number of the GPU, as `nvidia-smi -L` lists them.")] = 0
    instance: Annotated[int, Field(ge=0, le=7, description="Counted on its GPU, as `nvidia-smi -L` lists them.")] = 0


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
    file_system: Literal["ext4", "xfs"] = Field(
        "ext4", description="File system that the device gets when it has none."
    )
    reserve: Annotated[str, Field(pattern=r"^[1-9][0-9]*[MGT]$")] = Field(
        "1G", description="Kept free by a file, for the day on which the store is full."
    )
    encryption: Encryption = Field(Encryption(), description="Whether the device is encrypted, and what opens it.")
    verification: Verification = Field(Verification(), description="When content is hashed again.")

    @model_validator(mode="after")
    def _has_a_device(self) -> Self:
        if self.encryption.opened_by != "none" and not self.device:
            raise ValueError("encryption needs a device of the store's own")
        return self


Index = Annotated[int, Field(ge=0, le=63)]
Parser = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,63}$")]


class Service(_Strict):
    """One served model."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$", description="Name of the unit.")]
    model: Name = Field(description="Model of the definition.")
    served_name: str = Field(description="Name that clients ask for.")
    default: bool = Field(
        False, description="Whether it answers below /v1; the first service does when none says so (docs/services.md)."
    )
    nodes: tuple[Annotated[str, Field(min_length=1, max_length=253)], ...] = Field(
        (), description="Nodes, or groups of the inventory, that run it; all of the group gpu when left out."
    )
    replicas: Annotated[int, Field(ge=1, le=64)] = Field(1, description="Copies of it on each of its nodes.")
    gpus: Annotated[int, Field(ge=1, le=64)] | Annotated[tuple[Index, ...], Field(min_length=1)] | None = Field(
        None,
        description="How many GPUs each replica has for itself, or a list of which, as `nvidia-smi -L` lists them. "
        "A service with devices: [nvidia] and without gpus has all of its node.",
    )
    cpus: Annotated[int, Field(ge=1, le=4096)] | None = Field(
        None, description="How many CPUs each replica has for itself; all of the node when left out."
    )
    tensor_parallel: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None, description="GPUs that share every layer; all of gpus when left out."
    )
    pipeline_parallel: Annotated[int, Field(ge=1, le=64)] | None = Field(
        None, description="Groups of GPUs that have some of the layers each; 1 when left out."
    )
    quantization: Parser | None = Field(
        None, description="How the weights are quantised, where the model's config.json does not say it."
    )
    task: Literal["embed", "rerank"] | None = Field(
        None,
        description="What a model does that does not generate: embed makes vectors of texts, rerank scores documents for a question.",
    )
    tool_call_parser: Parser | None = Field(
        None, description="vLLM's parser of the model's tool calls; without one the model calls no tools."
    )
    reasoning_parser: Parser | None = Field(None, description="vLLM's parser of the model's reasoning.")
    chat_template: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9._/-]{0,200}$")] | None = Field(
        None, description="File of the model's folder with a chat template to use instead of the model's own."
    )
    args: dict[str, Any] = Field(default_factory=dict, description="vLLM flags without dashes.")
    environment: dict[str, str] = Field(
        default_factory=dict,
        description="Environment variables of the service; values are text, so numbers need quotes.",
    )
    memory_max: str = Field("", description="systemd MemoryMax of each replica, for example 64G.")
    devices: tuple[Literal["nvidia"], ...] = Field(
        (), description="Device classes the service may open; gpus and mig need nvidia, which gpus adds."
    )
    mig: Slice | None = Field(None, description="The slice it runs on, where mig.layout divides GPUs.")
    start_timeout_s: Annotated[int, Field(ge=10)] = Field(
        900, description="Seconds that the model may take to load before its start counts as failed."
    )

    @model_validator(mode="before")
    @classmethod
    def _gpus_are_devices(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("gpus") and "devices" not in given:
            return {**given, "devices": ["nvidia"]}
        return given

    @property
    def n_gpus(self) -> int:
        """GPUs that each replica has for itself; 0 where it does not say."""
        return len(self.gpus) if isinstance(self.gpus, tuple) else self.gpus or 0

    @property
    def parallel(self) -> tuple[int, int]:
        """Tensor and pipeline parallel size, as its keys say or follow from ``gpus``; what ``args`` say is not looked at."""
        pipeline = self.pipeline_parallel or 1
        return self.tensor_parallel or max(1, self.n_gpus // pipeline), pipeline


class ContainerPort(_Strict):
    """A TCP port of a container."""

    port: Annotated[int, Field(ge=1024, le=65535, description="Port of the node.")]
    container_port: Port = Field(description="Port in the container.")
    sources: tuple[Network, ...] = Field((), description="From where it may be reached; empty: from the node alone.")


class ContainerVolume(_Strict):
    """A directory or file that a container sees."""

    source: str = Field(description="A name for a directory of the container's own, or an absolute path, read-only.")
    target: Annotated[str, Field(pattern=r"^/[A-Za-z0-9._/-]+$", description="Path in the container.")]
    writable: bool = Field(
        False, description="Whether the container may write there; only a directory of its own can be writable."
    )


class Container(_Strict):
    """A container of one of the bundle's images."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,30}$", description="Name of the container and its unit.")]
    image: Annotated[
        str,
        Field(pattern=r"^[a-z0-9][a-z0-9.-]{0,62}@sha256:[0-9a-f]{64}$", description="NAME@sha256:DIGEST as locked."),
    ]
    groups: Annotated[tuple[Literal["gateway", "gpu", "monitoring"], ...], Field(min_length=1)] = Field(
        ("gpu",), description="Nodes that run it, by group."
    )
    command: tuple[str, ...] = Field((), description="Replaces the image's own command.")
    ports: tuple[ContainerPort, ...] = Field(
        (), description="TCP ports that can be reached from outside the container."
    )
    volumes: tuple[ContainerVolume, ...] = Field((), description="Directories and files that it sees.")
    devices: tuple[Annotated[str, Field(pattern=r"^nvidia\.com/gpu=[A-Za-z0-9:._-]+$")], ...] = Field(
        (), description="GPUs by CDI name."
    )
    environment: dict[str, str] = Field(default_factory=dict, description="Environment variables of the container.")
    user: Annotated[str, Field(pattern=r"^[1-9][0-9]{0,8}:[1-9][0-9]{0,8}$", description="UID:GID, never 0.")] = (
        "65532:65532"
    )
    memory: Annotated[str, Field(pattern=r"^[1-9][0-9]*[KMGT]?$", description="Memory limit, for example 2G.")]
    tasks_max: Annotated[int, Field(ge=1)] = Field(512, description="Processes and threads it may have at once.")
    stop_timeout_s: Annotated[int, Field(ge=1)] = Field(
        20, description="Seconds it may take to stop before it is killed."
    )


class GpuMetrics(_Strict):
    """Metrics of GPUs for the monitoring hosts."""

    port: Annotated[int, Field(ge=1024, le=65535)] = Field(
        9400, description="Port of GPU nodes where metrics are asked for."
    )
    profiling: bool = Field(
        False, description="Activity of tensor cores and memory; costs the host engine CAP_SYS_ADMIN."
    )


class Admin(_Strict):
    """Somebody who administers nodes."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,30}$", description="Login name.")]
    keys: Annotated[tuple[str, ...], Field(min_length=1, description="Public SSH keys.")]
    sudo: Literal["password", "nopasswd", "none"] = Field("password", description="How they act as root.")
    password: str = Field("", description="crypt(3) hash of the password for sudo; keep it in a vault.")


class Baseline(_Strict):
    """How far nodes' operating systems are hardened (docs/baseline.md)."""

    level: Literal[0, 1, 2] = Field(
        1, description="Controls of this level and below apply. 0 leaves those that `enable` names."
    )
    enable: tuple[Name, ...] = Field((), description="Controls beyond those, by id.")
    admins: tuple[Admin, ...] = Field(
        (), description="Accounts of the people who administer nodes; made where they are missing."
    )
    root_login: Literal["prohibit-password", "no"] = Field(
        "prohibit-password",
        description="Whether root comes in over SSH with a key; `no` once an admin can act as root.",
    )
    ssh_users: tuple[Name, ...] = Field((), description="Accounts beside the admins that SSH lets in.")
    time_servers: tuple[Address, ...] = Field((), description="They also need an entry in egress, port 123, udp.")
    log_host: Annotated[str, AfterValidator(_url)] = Field(
        "", pattern=r"^(https://\S+)?$", description="URL of a systemd-journal-remote; needs an entry in egress."
    )
    journal_keys: str = Field("", description="Directory of the control host for the keys of sealed journals.")
    unattended: bool = Field(False, description="Keep the operator's unattended upgrades, but for pinned packages.")
    pinned: tuple[str, ...] = Field((), description="Packages that those leave alone.")
    reverse_path: Literal[1, 2] = Field(1, description="Reverse path filtering: 1 strict, 2 loose.")

    @model_validator(mode="after")
    def _somebody_is_root(self) -> Baseline:
        if self.root_login == "no" and not any(a.sudo != "none" for a in self.admins):
            raise ValueError("root_login is no, and no admin may act as root")
        return self


class Site(_Strict):
    """What a site is; the variable ``appliance_site`` of the inventory."""

    control: Control = Field(description="Where nodes find the depot while an install runs.")
    management_sources: Annotated[tuple[Network, ...], Field(min_length=1, description="From where operators log in.")]
    client_sources: tuple[Network, ...] = Field((), description="From where clients may reach the gateway.")
    gateway: Gateway = Field(Gateway(), description="Where clients come in.")
    inference_port: Port = Field(8444, description="Port of GPU nodes that gateways connect to.")
    relay: Relay = Field(Relay(), description="How nodes hand content on to each other while an install runs.")
    egress: tuple[Flow, ...] = Field(
        (), description="What nodes may reach beyond the depot, for example a time server."
    )
    zones: dict[ZoneName, Zone] = Field(
        default_factory=dict, description="Networks that are kept apart. Without zones every service lives everywhere."
    )
    rolling: Rolling = Field(Rolling(), description="How a change walks through the nodes.")
    gate: Gate = Field(Gate(), description="What a node must show after an upgrade before it serves again.")
    keep_generations: Annotated[int, Field(ge=2, le=20)] = Field(
        3, description="States of a node that are kept to go back to."
    )
    runtime: Name = Field("vllm", description="Wheel set of the definition that serves models.")
    runtime_form: Literal["auto", "image", "wheels"] = Field(
        "auto",
        description="Whether nodes mount the runtime's image or install its wheels; auto takes the image where the release has one.",
    )
    containers: tuple[Container, ...] | None = Field(
        None,
        description="Containers beside the models; an empty list removes those there were, no list leaves podman alone.",
    )
    gpu_metrics: GpuMetrics | None = Field(None, description="Metrics of GPUs through DCGM; none when left out.")
    gpu_driver: GpuDriver | None = Field(None, description="Without it the driver is left as it is.")
    cuda: Cuda | None = Field(None, description="CUDA beyond what the wheels bring; nothing when left out.")
    mig: Mig | None = Field(None, description="How GPUs are divided; left as they are when left out.")
    baseline: Baseline | None = Field(None, description="Harden the operating system; left alone when not given.")
    model_store: ModelStore | None = Field(
        None, description="Place and health of the content; left out, neither is managed."
    )
    services: Annotated[tuple[Service, ...], Field(max_length=64)] = Field((), description="Served models.")
