"""A rule that is broken, and where."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

Key = tuple[str | int, ...]


class Rule(StrEnum):
    """Every rule. What stands before the dot is the role that applies it too; ``site`` is for rules that span several roles."""

    CONTAINER_NAME = "container_runtime.name"
    CONTAINER_IMAGE = "container_runtime.image"
    CONTAINER_USER = "container_runtime.user"
    CONTAINER_MEMORY = "container_runtime.memory"
    CONTAINER_DEVICE = "container_runtime.device"
    CONTAINER_ENVIRONMENT = "container_runtime.environment"
    CONTAINER_LINE_BREAK = "container_runtime.line_break"
    CONTAINER_TARGET = "container_runtime.volume_target"
    CONTAINER_SOURCE = "container_runtime.volume_source"
    CONTAINER_WRITABLE = "container_runtime.volume_writable"
    CONTAINER_DUPLICATE = "container_runtime.duplicate_name"
    CONTAINER_PORT_TWICE = "container_runtime.duplicate_port"
    CONTAINER_PORT = "container_runtime.port"
    CONTAINER_ADDRESS = "container_runtime.address"
    CUDA_DRIVER = "cuda.driver"
    DCGM_CLIENT = "dcgm_exporter.client"
    DCGM_ADDRESS = "dcgm_exporter.address"
    DCGM_PORT = "dcgm_exporter.port"
    FIREWALL_MANAGEMENT = "firewall.management"
    FIREWALL_NETWORK = "firewall.network"
    FIREWALL_EVERYWHERE = "firewall.everywhere"
    FIREWALL_NAME = "firewall.name"
    FIREWALL_DUPLICATE = "firewall.duplicate"
    FIREWALL_PROTOCOL = "firewall.protocol"
    FIREWALL_PORT = "firewall.port"
    FIREWALL_USER = "firewall.user"
    FIREWALL_NO_PORTS = "firewall.no_ports"
    FIREWALL_NO_NETWORKS = "firewall.no_networks"
    FIREWALL_INTERFACE = "firewall.interface"
    FIREWALL_SSH_PORT = "firewall.ssh_port"
    FIREWALL_LOG_RATE = "firewall.log_rate"
    FIREWALL_CONFIRM = "firewall.confirm_timeout_s"
    FIREWALL_PROOF_TARGET = "firewall.proof_target"
    FIREWALL_PROOF_OPEN = "firewall.proof_open"
    FIREWALL_PROOF_SETTING = "firewall.proof_setting"
    MIG_LAYOUT = "mig.layout"
    MIG_SLICE = "mig.slice"
    NGINX_PORT = "nginx.port"
    NGINX_NAME = "nginx.server_name"
    NGINX_CLIENT = "nginx.client"
    NGINX_SERVICE = "nginx.service"
    DRIVER_MODULES = "nvidia_driver.modules"
    BASELINE_CONTROL = "os_baseline.control"
    BASELINE_ADMIN = "os_baseline.admin_name"
    BASELINE_ADMIN_TWICE = "os_baseline.admin_twice"
    BASELINE_NO_KEYS = "os_baseline.no_keys"
    BASELINE_KEY = "os_baseline.key"
    BASELINE_PASSWORD = "os_baseline.password"  # noqa: S105  the name of a rule
    BASELINE_ROOT = "os_baseline.root_login"
    BASELINE_TIME_SERVER = "os_baseline.time_server"
    BASELINE_LOG_HOST = "os_baseline.log_host"
    BASELINE_SIZE = "os_baseline.journal_size"
    BASELINE_CONFIRM = "os_baseline.confirm_timeout_s"
    BASELINE_BANNER = "os_baseline.banner"
    BASELINE_LOGIN = "os_baseline.login"
    BASELINE_WAIVER = "os_baseline.waiver"
    PKI_NAME = "pki.name"
    PKI_COMMON_NAME = "pki.common_name"
    PKI_RENEWAL = "pki.renewal"
    STORE_DEVICE = "model_store.device"
    STORE_PCRS = "model_store.tpm2_pcrs"
    STORE_PASSPHRASE = "model_store.passphrase_file"  # noqa: S105  the name of a rule
    STORE_PIN = "model_store.tpm2_pin_file"
    STORE_RESERVE = "model_store.reserve"
    STORE_CALENDAR = "model_store.calendar"
    STORE_DELAY = "model_store.delay"
    SITE_PORTS = "site.ports"
    SITE_VARIABLE = "site.variable"  # of a host, for a role; the role's argument_specs refuse it
    SITE_TIME = "site.time_egress"
    SITE_LOG_HOST = "site.log_egress"
    SERVICE_DUPLICATE = "site.service_duplicate"
    SERVICE_NODES = "site.service_nodes"
    SERVICE_GPUS = "site.service_gpus"
    SERVICE_CPUS = "site.service_cpus"
    SERVICE_PARALLEL = "site.service_parallel"
    SERVICE_ARGS = "site.service_args"
    VLLM_NAME = "vllm.name"
    VLLM_SERVED_NAME = "vllm.served_name"
    VLLM_SPELLING = "vllm.args_spelling"
    VLLM_REFUSED = "vllm.args_refused"
    VLLM_ENVIRONMENT = "vllm.environment"
    VLLM_LINE_BREAK = "vllm.line_break"
    VLLM_MEMORY = "vllm.memory_max"

    @property
    def role(self) -> str:
        """The role that applies it; empty for rules of the site alone."""
        role = self.value.partition(".")[0]
        return "" if role == "site" else role


@dataclass(frozen=True)
class Fault:
    """One broken rule.

    Attributes:
        key: where, in the structure that was judged.
        subject: the same place in words, for a reader who sees variables and no file.
        what: what is wrong, to be read after the place.
        remedy: what to do.
    """

    rule: Rule
    key: Key
    what: str
    remedy: str
    subject: str = ""

    def sentence(self, prefix: str = "") -> str:
        """For a role: the variable and what is wrong with it."""
        return f"{prefix}{self.subject or '.'.join(map(str, self.key))} {self.what}: {self.remedy}."
