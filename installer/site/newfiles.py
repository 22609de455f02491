"""The files of a new inventory as text. Pure; what they say is explained where it stands, for a reader who will change it."""

from __future__ import annotations

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass

import yaml

from installer.site.fitting import Serving

# Stand where a value is not known; `site check` warns of them.
PLACEHOLDER, PLACEHOLDER_NODE = "192.0.2.5", "192.0.2.10"
CHANGE = "CHANGE"
EXAMPLE_CONTROL = "192.0.2.5"  # in inventories/example


@dataclass(frozen=True)
class Node:
    """A node to write down: its name and its address."""

    name: str
    address: str


@dataclass(frozen=True)
class Control:
    """The control host as nodes see it.

    Attributes:
        address: empty where it could not be found out.
        others: addresses from which this host reaches other nodes of the site.
    """

    address: str = ""
    others: tuple[str, ...] = ()

    @property
    def network(self) -> str:
        """Its address as a network of one."""
        return f"{self.address or PLACEHOLDER}/{ipaddress.ip_address(self.address or PLACEHOLDER).max_prefixlen}"


def hosts(nodes: Sequence[Node]) -> str:
    """hosts.yml: the first node is the gateway, and every one of them serves models."""
    first = nodes[0] if nodes else Node("node-1", PLACEHOLDER_NODE)
    todo = "" if nodes else f" {CHANGE}: name and address are examples."
    more = "".join(f"        {_scalar(n.name)}:\n          ansible_host: {_scalar(n.address)}\n" for n in nodes[1:])
    return f"""\
---
# The nodes of this site by group; a node may be in several. docs/inventory.md says what each group gets.
all:
  # How Ansible logs in. Left out, as `ssh ADDRESS` does: your own name, your own key, ~/.ssh/config. The user needs sudo without a password.
  # vars:
  #   ansible_user: deploy
  #   ansible_ssh_private_key_file: ~/.ssh/appliance
  children:
    # Clients come in here, over mutual TLS.
    gateway:
      hosts:
        {_scalar(first.name)}:
          # The node's own address, which must not change; a name is refused.{todo}
          ansible_host: {_scalar(first.address)}
          # More names by which clients reach this gateway; they go into its certificate.
          # appliance_names: [NAME]
    # Models are served here. A gateway may be among them.
    gpu:
      hosts:
        {_scalar(first.name)}:
{more}\
    # Hosts that may ask for metrics.
    # monitoring:
    #   hosts:
    #     NAME:
    #       ansible_host: ADDRESS
"""


def site(serving: Serving, nodes: Sequence[Node], control: Control, clients: Sequence[str] = ()) -> str:
    """group_vars/all/site.yml: how the nodes serve what the bundle holds, and to which networks beside the control host."""
    note = (
        "The control host proves the service from here."
        if clients
        else "Only the control host can, until you add their networks."
    )
    return f"""\
---
# What this site is, made for {serving.release} by `appliance site new`. `appliance explain site` lists every key,
# `appliance explain site.gateway.port` says what one means. After a change: `appliance site check -i DIRECTORY`.
appliance_site:
  control:
    # Address of the control host as the nodes see it; they fetch the release from it while an install runs.
{_about(nodes, control)}\
    address: {_scalar(control.address or PLACEHOLDER)}
    port: 7443
  # From where operators log in with SSH; nothing else may. The control host must be among them.
  management_sources: [{_flow(control.network)}]
  # From where clients may reach the gateway. {note}
  client_sources: [{", ".join(map(_flow, dict.fromkeys((control.network, *clients))))}]
  gateway:
    # Port that clients connect to.
    port: 8443
  # Port of nodes behind the gateway that it connects to.
  inference_port: 8444
  # Nodes hand content on to each other while an install runs; eight of them then cost little more than one.
  relay:
    enabled: true
    port: 7444
  # What nodes may reach beyond the control host. Nothing, until something is listed, for example a time server.
  # egress:
  #   - name: time
  #     destinations: [ADDRESS]
  #     ports: [123]
  #     protocol: udp
  rolling:
    # How many nodes change at once (a list is for one batch after the other), and how many may fail before the rest is left alone.
    batch: 1
    max_failed_percent: 0
  # Wheel set of the bundle with vLLM.
  runtime: {_scalar(serving.runtime)}
  # This bundle {_FORMS[serving.form]} `auto` takes the image where a release has one.
  runtime_form: {serving.form}
{_driver(serving)}\
  services:
{_others(serving)}\
    # Name of the service on nodes, the bundle's model, and the name that clients ask for.
    - name: {_scalar(serving.service)}
      model: {_scalar(serving.model.name)}
      served_name: {_scalar(serving.model.name)}
      # vLLM's flags without dashes.
      args:
{_args(serving)}\
{_device(serving)}\
      # Memory that the service may take; without it there is no limit.
      # memory_max: 64G
{_packages(serving)}"""


def example(text: str, control: Control) -> str:
    """The example's site.yml with the control host's own address, where that is known."""
    if not control.address:
        return text
    return text.replace(f"{EXAMPLE_CONTROL}/32", control.network).replace(
        f": {EXAMPLE_CONTROL}\n", f": {_scalar(control.address)}\n"
    ).replace(f"[{EXAMPLE_CONTROL}]", f"[{_flow(control.address)}]")  # fmt: skip


_FORMS = {
    "image": "has the runtime as an image, which nodes mount (docs/runtime.md).",
    "wheels": "has no image of the runtime, so nodes install its wheels (docs/runtime.md).",
}


def _about(nodes: Sequence[Node], control: Control) -> str:
    if not control.address:
        return f"    # {CHANGE}: it could not be found out, so this and the two networks below are examples.\n"
    lines = f"    # From here this host reaches {nodes[0].name}.\n"
    if control.others:
        lines += f"    # It reaches other nodes from {', '.join(control.others)}; all nodes must be able to reach the one below.\n"
    return lines


def _driver(serving: Serving) -> str:
    if not serving.driver:
        return ""
    return f"""\
  # The bundle brings packages of NVIDIA's driver. Nodes keep the driver they have until this is there (docs/gpu-driver.md; `packages` are
  # Debian's names unless they are listed, and nodes are rebooted inside of `maintenance` alone).
  # gpu_driver:
  #   version: {serving.driver}
  #   kernel: {serving.kernel or "KERNEL"}
  #   maintenance: {{days: [sat], from: "22:00", to: "04:00"}}
"""


def _others(serving: Serving) -> str:
    if not serving.others:
        return ""
    return f"    # One model at a time. The bundle has these, too: {', '.join(serving.others)}.\n"


def _args(serving: Serving) -> str:
    limit = (
        f"the model takes up to {serving.model.length}"
        if serving.model.length
        else "the model's files do not say its own limit"
    )
    lines = [f"# Tokens of question and answer together; {limit}.", f"max-model-len: {serving.max_model_len}"]
    if serving.gpu:
        lines += ["# Requests that are answered at once.", "max-num-seqs: 128"]
        if not serving.compiles:
            lines += [
                "# The bundle brings no C compiler for the nodes, so vLLM compiles nothing. It is faster without this line, once the wheels",
                "# have `compiler: true` in the definition, and g++ and python3-dev are under its `debs`.",
                "enforce-eager: true",
            ]  # fmt: skip
    else:
        lines += ["# No GPU here: one process, no compilation.", "dtype: bfloat16", "enforce-eager: true"]
    return "".join(f"        {line}\n" for line in lines)


def _device(serving: Serving) -> str:
    if serving.gpu:
        return "      # The service may open the node's GPUs.\n      devices: [nvidia]\n"
    return f"""\
      environment:
        # GiB of memory for what answers in progress keep.
        VLLM_CPU_KVCACHE_SPACE: "{serving.cache_gib}"
"""


def _packages(serving: Serving) -> str:
    if serving.packages == ("libnuma1",):
        return ""
    return f"# Packages of the bundle that the runtime wants on nodes.\nappliance_vllm_packages: [{', '.join(map(_flow, serving.packages))}]\n"


def _scalar(text: str) -> str:
    """Text that YAML reads as this text, in quotes where it would be a number, a switch or a mapping."""
    try:
        plain = yaml.safe_load(text) == text and ": " not in text and " #" not in text
    except yaml.YAMLError:
        plain = False
    return text if plain else json.dumps(text)


def _flow(text: str) -> str:
    """The same within brackets, where colons mean more."""
    return json.dumps(text) if ":" in text else _scalar(text)
