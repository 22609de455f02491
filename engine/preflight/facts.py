"""What was seen on a node. Data only: made on the node, checked and judged on the control host.

None stands for what could not be seen; empty for what is not there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from engine.nvml import Nvml


@dataclass(frozen=True)
class System:
    """Operating system and machine. ``vector`` is whether the processor has AVX2 or Advanced SIMD."""

    os_id: str
    os_version: str
    os_name: str
    machine: str
    kernel: str
    python: str
    systemd: bool
    container: str
    root: bool
    vector: bool
    cpus: int
    memory_bytes: int


@dataclass(frozen=True)
class Firmware:
    """UEFI and what it lets the kernel load. ``mok_subjects`` are the owners' keys that mokutil lists."""

    efi: bool
    secure_boot: bool | None
    setup_mode: bool | None
    mok_list: bool | None
    mokutil: bool
    mok_subjects: tuple[str, ...]
    lockdown: str


@dataclass(frozen=True)
class Clock:
    """The kernel's clock as adjtimex(2) describes it. ``state`` 5 is TIME_ERROR: nobody disciplines the clock.

    ``drift_ppm`` is the correction of the oscillator in parts per million; ``rtc_offset_s`` the clock chip's time less the
    system's.
    """

    time_s: float
    state: int | None
    synchronized: bool | None
    drift_ppm: float | None
    max_error_us: int | None
    rtc_offset_s: float | None


@dataclass(frozen=True)
class Space:
    """Room for one path, which need not exist yet. ``device`` tells file systems apart."""

    path: str
    mount: str
    filesystem: str
    device: str
    free_bytes: int
    free_inodes: int
    read_only: bool


@dataclass(frozen=True)
class Disk:
    """How fast the disk below ``directory`` is. ``note`` says why a value is missing, or what it means."""

    directory: str
    filesystem: str
    syncs: int
    fsync_p50_ms: float | None
    fsync_p99_ms: float | None
    read_bytes_per_s: float | None
    note: str


@dataclass(frozen=True)
class Storage:
    """``lacking_bytes`` is what of the asked blobs is not on the node yet, ``present`` which of the asked files are."""

    spaces: tuple[Space, ...]
    lacking_bytes: int
    present: tuple[str, ...]
    disk: Disk | None


@dataclass(frozen=True)
class Listener:
    """A bound port and who holds it; ``unit`` is the systemd unit."""

    protocol: str
    address: str
    port: int
    pid: int
    process: str
    unit: str


@dataclass(frozen=True)
class Reach:
    """One attempt to connect. ``outcome`` is connected, wrong (another host answered), refused, silent or unroutable."""

    target: str
    outcome: str
    detail: str


@dataclass(frozen=True)
class Lease:
    """An address with an end. ``seconds`` are those left; ``server`` gave it, empty where no client wrote that down."""

    interface: str
    address: str
    prefix: int
    seconds: int
    server: str


@dataclass(frozen=True)
class Network:
    """Ports, ways and names. ``resolved_outside`` are those of the asked names of the outside that got an answer."""

    listeners: tuple[Listener, ...]
    control: Reach | None
    outside: tuple[Reach, ...]
    default_route: bool
    nameservers: tuple[str, ...]
    asked_outside: tuple[str, ...]
    resolved_outside: tuple[str, ...]
    own_name: str
    own_addresses: tuple[str, ...]
    leases: tuple[Lease, ...] = ()


@dataclass(frozen=True)
class PciDevice:
    """An NVIDIA device on the PCI bus. Speeds as sysfs prints them, for example ``32.0 GT/s PCIe``."""

    address: str
    device: int
    kind: int  # class and subclass, for example 0x0302
    driver: str
    numa_node: int
    speed: str
    max_speed: str
    width: int
    max_width: int


@dataclass(frozen=True)
class Driver:
    """What of NVIDIA's driver is loaded. ``cuda`` is cuDriverGetVersion, 13000 for 13.0.

    ``module_flavour`` is open or proprietary, read from the module's own banner.
    """

    modules: tuple[str, ...]
    module_version: str
    module_flavour: str
    cuda: int | None
    cuda_error: str
    persistence_daemon: bool
    fabric_manager: str


@dataclass(frozen=True)
class Xid:
    """An error that the driver wrote into the kernel's log; ``seconds`` since boot."""

    code: int
    device: str
    seconds: float
    text: str


@dataclass(frozen=True)
class KernelLog:
    """``readable`` is false when nobody let us read it; ``wrapped`` when its beginning is lost."""

    readable: bool
    wrapped: bool
    xids: tuple[Xid, ...]


@dataclass(frozen=True)
class HugePages:
    """Pages of one size that are set aside."""

    size_bytes: int
    total: int
    free: int


@dataclass(frozen=True)
class Memory:
    """NUMA and huge pages."""

    numa_nodes: int
    huge_pages: tuple[HugePages, ...]
    transparent: str


@dataclass(frozen=True)
class Facts:
    """Everything of one node. A part that could not be looked at is None, and ``troubles`` says why, by its name."""

    system: System | None = None
    firmware: Firmware | None = None
    clock: Clock | None = None
    storage: Storage | None = None
    network: Network | None = None
    pci: tuple[PciDevice, ...] | None = None
    driver: Driver | None = None
    nvml: Nvml | None = None
    kernel_log: KernelLog | None = None
    memory: Memory | None = None
    troubles: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0


@dataclass(frozen=True)
class Question:
    """What the control host asks of a node.

    ``blobs`` are SHA-256 and length of contents it will need, ``files`` what may be there already; ``control`` is where the control host listens meanwhile and
    ``word`` what it says there; ``outside`` are address and port that must not answer; ``disk`` is measured when not empty.
    """

    spaces: tuple[str, ...] = ()
    blobs: dict[str, int] = field(default_factory=dict)
    blob_store: str = "/var/lib/appliance/blobs"
    files: tuple[str, ...] = ()
    control: tuple[str, int] | None = None
    word: str = ""
    outside: tuple[tuple[str, int], ...] = ()
    outside_names: tuple[str, ...] = ()
    disk: str = ""
