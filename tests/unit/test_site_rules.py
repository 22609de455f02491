"""Every rule of engine.rules: a site that breaks it is refused with file, line and key, and the role's preflight refuses the same."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.errors import InputError
from engine.rules import containers, store
from engine.rules.fault import Rule
from installer import yamlfile
from installer.site import ansiblelist
from installer.site.ansiblelist import Listing, Told
from installer.site.inventory import load

TREE = Path(__file__).resolve().parents[2]
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA alice"
HASH = "$6$abcdefgh$" + "a" * 60
IMAGE = "web@sha256:" + "0" * 64
ADMIN = {"name": "alice", "keys": [KEY]}
CONTAINER = {"name": "web", "image": IMAGE, "memory": "1G"}
SERVICE = {"name": "chat", "model": "m", "served_name": "m"}
BASE: dict[str, Any] = {
    "control": {"address": "192.0.2.5"},
    "management_sources": ["192.0.2.5/32"],
    "client_sources": ["203.0.113.0/24"],
    "services": [SERVICE],
}


@dataclass(frozen=True)
class Case:
    """A broken rule.

    Attributes:
        site: keys of the site to replace.
        host: variables of the host.
        at: the key that the message names; the file is site.yml for keys of the site and hosts.yml for those of the host.
        role: the role's variables that say the same.
        name: of the host.
    """

    rule: Rule
    at: str
    site: Mapping[str, Any] = field(default_factory=dict)
    host: Mapping[str, Any] = field(default_factory=dict)
    role: Mapping[str, Any] = field(default_factory=dict)
    name: str = "node-1"


def service(rule: Rule, at: str, **change: Any) -> Case:
    wrong = {**SERVICE, **change}
    return Case(rule, f"services.0.{at}", {"services": [wrong]}, role={"appliance_vllm_services": [wrong]})


def container(rule: Rule, at: str, **change: Any) -> Case:
    wrong = {**CONTAINER, **change}
    return Case(
        rule, f"containers.0.{at}", {"containers": [wrong]}, role={"appliance_container_runtime_containers": [wrong]}
    )


def volume(rule: Rule, at: str, **change: Any) -> Case:
    return container(rule, f"volumes.0.{at}", volumes=[{"source": "data", "target": "/data", **change}])


def flow(rule: Rule, at: str, **change: Any) -> Case:
    wrong = {"name": "dns", "destinations": ["192.0.2.7"], "ports": [53], **change}
    return Case(rule, f"egress.0.{at}", {"egress": [wrong]}, role={"appliance_firewall_egress": [wrong]})


def variable(rule: Rule, name: str, value: Any, *, at: str = "", site: Mapping[str, Any] | None = None) -> Case:
    return Case(rule, at or name, site or {}, {name: value}, {name: value})


def hardened(rule: Rule, at: str, **change: Any) -> Case:
    wrong = {"admins": [ADMIN], **change}
    return Case(
        rule, f"baseline.{at}", {"baseline": wrong}, role={f"appliance_os_baseline_{k}": v for k, v in wrong.items()}
    )


def stored(rule: Rule, at: str, role: Mapping[str, Any], **change: Any) -> Case:
    settings = {"device": "/dev/disk/by-partlabel/store", **change}
    given = {"device": "/dev/disk/by-partlabel/store", **role}
    return Case(
        rule,
        f"model_store.{at}",
        {"model_store": settings},
        role={f"appliance_model_store_{k}": v for k, v in given.items()},
    )


def several(rule: Rule, at: str, *changes: Mapping[str, Any], **host: Any) -> Case:
    """Services with names of their own; what they break together only the site can tell."""
    made = [{**SERVICE, "name": f"s{i}", "served_name": f"s{i}", **change} for i, change in enumerate(changes)]
    return Case(rule, f"services.{at}", {"services": made}, host)


R = Rule
WAIVER = {
    "control": "no-such-control",
    "reason": "it is replaced by another thing",
    "expires": "2999-01-01",
    "reviewer": "bob",
}
CASES = [
    service(R.VLLM_NAME, "name", name="Chat"),
    service(R.VLLM_SERVED_NAME, "served_name", served_name="Llama 3.1 8B"),
    service(R.VLLM_SPELLING, "args.max_model_len", args={"max_model_len": 1}),
    service(R.VLLM_REFUSED, "args.trust-remote-code", args={"trust-remote-code": True}),
    service(R.VLLM_REFUSED, "args.api_key", args={"api_key": "x"}),
    service(R.VLLM_ENVIRONMENT, "environment.hf_home", environment={"hf_home": "/x"}),
    service(R.VLLM_LINE_BREAK, "environment.MOTTO", environment={"MOTTO": "a\nb"}),
    service(R.VLLM_MEMORY, "memory_max", memory_max="64 GB"),
    several(R.SERVICE_DUPLICATE, "1.name", {"gpus": 1}, {"name": "s0", "gpus": 1}),
    several(R.SERVICE_DUPLICATE, "1.served_name", {"gpus": 1}, {"served_name": "s0", "gpus": 1}),
    several(R.SERVICE_DUPLICATE, "1.default", {"gpus": 1, "default": True}, {"gpus": 1, "default": True}),
    several(R.SERVICE_DUPLICATE, "0.replicas", {"gpus": 1, "replicas": 2}, {"name": "s0-2", "gpus": 1}),
    several(R.SERVICE_DUPLICATE, "0.name", {"gpus": 1, "replicas": 2, "name": "a" * 30}),
    several(R.SERVICE_NODES, "0.nodes.0", {"nodes": ["node-9"]}),
    several(R.SERVICE_GPUS, "0.gpus", {"gpus": 1, "devices": []}),
    several(R.SERVICE_GPUS, "0.gpus", {"gpus": [1, 1]}),
    several(R.SERVICE_GPUS, "0.replicas", {"gpus": [1], "replicas": 2}),
    several(R.SERVICE_GPUS, "0.replicas", {"devices": ["nvidia"], "replicas": 2}),
    several(R.SERVICE_GPUS, "1.gpus", {"gpus": [0, 1]}, {"gpus": [1, 2]}),
    several(R.SERVICE_GPUS, "1.gpus", {"gpus": 1}, {"devices": ["nvidia"]}),
    several(R.SERVICE_GPUS, "0.gpus", {"gpus": 4}, appliance_gpus=2),
    several(R.SERVICE_GPUS, "1.gpus", {"gpus": 6}, {"gpus": 3}, appliance_gpus=8),
    several(R.SERVICE_GPUS, "0.gpus", {"gpus": [8]}, appliance_gpus=8),
    several(R.SERVICE_CPUS, "0.cpus", {"memory_max": "1G"}, {"gpus": 1}),
    several(R.SERVICE_CPUS, "1.memory_max", {"cpus": 1, "memory_max": "1G"}, {"cpus": 1}),
    several(R.SERVICE_CPUS, "1.environment", {"gpus": 1}, {"cpus": 1, "memory_max": "1G", "environment": {"A": "1"}}),
    several(R.SERVICE_PARALLEL, "0.tensor_parallel", {"tensor_parallel": 2}),
    several(R.SERVICE_PARALLEL, "0.tensor_parallel", {"gpus": 4, "tensor_parallel": 3}),
    several(R.SERVICE_PARALLEL, "0.pipeline_parallel", {"gpus": 4, "pipeline_parallel": 3}),
    several(R.SERVICE_ARGS, "0.args.tensor-parallel-size", {"gpus": 2, "args": {"tensor-parallel-size": 2}}),
    several(R.SERVICE_ARGS, "0.args.tool-call-parser", {"tool_call_parser": "hermes", "args": {"tool-call-parser": "hermes"}}),
    several(R.SERVICE_ARGS, "0.chat_template", {"chat_template": "a/../../b"}),
    container(R.CONTAINER_NAME, "name", name="Web"),
    container(R.CONTAINER_IMAGE, "image", image="web:latest"),
    container(R.CONTAINER_USER, "user", user="0:0"),
    container(R.CONTAINER_MEMORY, "memory", memory="lots"),
    container(R.CONTAINER_DEVICE, "devices.0", devices=["/dev/nvidia0"]),
    container(R.CONTAINER_ENVIRONMENT, "environment.A-B", environment={"A-B": "x"}),
    container(R.CONTAINER_LINE_BREAK, "command.0", command=["a\nb"]),
    volume(R.CONTAINER_TARGET, "target", target="/a/../etc"),
    volume(R.CONTAINER_SOURCE, "source", source="/etc/shadow"),
    volume(R.CONTAINER_WRITABLE, "writable", source="/srv/data", writable=True),
    Case(
        R.CONTAINER_DUPLICATE, "containers.1.name", {"containers": [CONTAINER, CONTAINER]},
        role={"appliance_container_runtime_containers": [CONTAINER, CONTAINER]},
    ),
    Case(
        R.CONTAINER_PORT_TWICE, "containers.1.ports.0.port",
        {"containers": [{**CONTAINER, "name": n, "ports": [{"port": 8085, "container_port": 80}]} for n in ("a", "b")]},
        role={"appliance_container_runtime_containers": [{**CONTAINER, "name": n, "ports": [{"port": 8085, "container_port": 80}]} for n in ("a", "b")]},
    ),
    container(R.CONTAINER_PORT, "ports.0.port", ports=[{"port": 80, "container_port": 80}]),
    Case(
        R.FIREWALL_MANAGEMENT, "management_sources", {"management_sources": []}, role={"appliance_firewall_management_sources": []}
    ),
    Case(
        R.FIREWALL_NETWORK, "management_sources.0", {"management_sources": ["192.0.2.5/24"]},
        role={"appliance_firewall_management_sources": ["192.0.2.5/24"]},
    ),
    Case(
        R.FIREWALL_NETWORK, "client_sources.0", {"client_sources": ["203.0.113.9/24"]},
        role={"appliance_firewall_ingress": [{"name": "gateway", "ports": [8443], "sources": ["203.0.113.9/24"]}]},
    ),
    Case(
        R.FIREWALL_NETWORK, "ansible_host", host={"ansible_host": "node-1.example.internal"},
        role={"appliance_firewall_egress": [{"name": "inference", "ports": [8444], "destinations": ["node-1.example.internal"]}]},
    ),
    *(
        Case(
            R.FIREWALL_NETWORK, "ansible_host", host={"ansible_host": address},
            role={"appliance_firewall_egress": [{"name": "inference", "ports": [8444], "destinations": [address]}]},
        )
        for address in ("0.0.0.0", "::", "::ffff:192.0.2.21")  # noqa: S104  not bound to
    ),
    Case(
        R.FIREWALL_NETWORK, "containers.0.ports.0.sources.0",
        {"containers": [{**CONTAINER, "ports": [{"port": 8085, "container_port": 80, "sources": ["203.0.113.9/24"]}]}]},
        role={"appliance_firewall_ingress": [{"name": "container web", "ports": [8085], "sources": ["203.0.113.9/24"]}]},
    ),
    Case(
        R.FIREWALL_EVERYWHERE, "management_sources.0", {"management_sources": ["0.0.0.0/0"]},
        role={"appliance_firewall_management_sources": ["0.0.0.0/0"]},
    ),
    flow(R.FIREWALL_NAME, "name", name="a" * 70),
    Case(R.FIREWALL_DUPLICATE, "egress.0.name", {"egress": [{"name": "depot", "destinations": ["192.0.2.7"], "ports": [53]}]}, role={"appliance_firewall_egress": [{"name": "depot", "destinations": ["192.0.2.7"], "ports": [53]}] * 2}),
    flow(R.FIREWALL_PROTOCOL, "protocol", protocol="sctp"),
    flow(R.FIREWALL_PORT, "ports.0", ports=[70000]),
    flow(R.FIREWALL_NO_PORTS, "ports", ports=[]),
    flow(R.FIREWALL_NO_NETWORKS, "destinations", destinations=[]),
    Case(R.FIREWALL_USER, "user", role={"appliance_firewall_egress": [{"name": "dns", "destinations": ["192.0.2.7"], "ports": [53], "user": "No Body"}]}),
    variable(R.FIREWALL_INTERFACE, "appliance_firewall_interfaces", ["lo"], at="appliance_firewall_interfaces.0"),
    variable(R.FIREWALL_SSH_PORT, "appliance_firewall_ssh_port", 0),
    variable(R.FIREWALL_LOG_RATE, "appliance_firewall_log_rate", "often"),
    variable(R.FIREWALL_CONFIRM, "appliance_firewall_confirm_timeout_s", 5),
    variable(R.FIREWALL_PROOF_TARGET, "appliance_firewall_proof_targets", []),
    variable(R.FIREWALL_PROOF_SETTING, "appliance_firewall_proof_interval_s", 5),
    Case(
        R.FIREWALL_PROOF_OPEN, "egress.0.destinations",
        {"egress": [{"name": "dns", "destinations": ["192.0.2.0/29"], "ports": [53]}]},
        role={"appliance_firewall_egress": [{"name": "dns", "destinations": ["192.0.2.0/29"], "ports": [53]}]},
    ),
    Case(R.NGINX_PORT, "gateway.port", {"gateway": {"port": 443}}, role={"appliance_nginx_port": 443}),
    Case(R.NGINX_SERVICE, "services.0.name", {"services": [{**SERVICE, "name": "a_b"}]}, role={"appliance_nginx_upstreams": [{"name": "a_b", "sockets": ["/x"]}]}),
    Case(R.NGINX_NAME, "appliance_names.0", host={"appliance_names": ["llm example"]}, role={"appliance_nginx_server_names": ["llm example"]}),
    Case(R.NGINX_CLIENT, "name", role={"appliance_nginx_allowed_clients": ["a b"]}, name="a b"),
    Case(R.DCGM_PORT, "gpu_metrics.port", {"gpu_metrics": {"port": 400}}, role={"appliance_dcgm_exporter_port": 400}),
    Case(R.DCGM_CLIENT, "name", role={"appliance_dcgm_exporter_clients": ["a b"]}, name="a b"),
    Case(R.DCGM_ADDRESS, "ansible_host", host={"ansible_host": "a b"}, role={"appliance_dcgm_exporter_address": "a b"}),
    Case(R.PKI_COMMON_NAME, "name", name="n" * 70),
    Case(R.PKI_NAME, "appliance_names.0", host={"appliance_names": ["*.example"]}, role={"appliance_pki_names": ["*.example"]}),
    variable(R.PKI_RENEWAL, "appliance_pki_renew_before_days", 400),
    stored(R.STORE_DEVICE, "device", {"device": "sda1"}, device="sda1"),
    stored(R.STORE_PCRS, "encryption.tpm2_pcrs.0", {"tpm2_pcrs": [24]}, encryption={"tpm2_pcrs": [24]}),
    stored(R.STORE_PASSPHRASE, "encryption", {"encryption": "passphrase"}, encryption={"opened_by": "passphrase"}),
    stored(R.STORE_PIN, "encryption", {"tpm2_pin_file": "/pin"}, encryption={"tpm2_pin_file": "/pin"}),
    stored(R.STORE_RESERVE, "reserve", {"reserve": "some"}, reserve="some"),
    stored(R.STORE_CALENDAR, "verification.calendar", {"calendar": "every Sunday"}, verification={"calendar": "every Sunday"}),
    stored(R.STORE_DELAY, "verification.delay", {"delay": "a while"}, verification={"delay": "a while"}),
    hardened(R.BASELINE_CONTROL, "enable.0", enable=["ssh-rot"]),
    hardened(R.BASELINE_ADMIN, "admins.0.name", admins=[{**ADMIN, "name": "root"}]),
    hardened(R.BASELINE_ADMIN_TWICE, "admins.1.name", admins=[ADMIN, ADMIN]),
    hardened(R.BASELINE_NO_KEYS, "admins.0.keys", admins=[{**ADMIN, "keys": []}]),
    hardened(R.BASELINE_KEY, "admins.0.keys.0", admins=[{**ADMIN, "keys": ["not a key"]}]),
    hardened(R.BASELINE_PASSWORD, "admins.0.password", admins=[{**ADMIN, "password": "secret"}]),
    Case(
        R.BASELINE_ROOT, "baseline", {"baseline": {"root_login": "no", "admins": [{**ADMIN, "sudo": "none"}]}},
        role={"appliance_os_baseline_root_login": "no", "appliance_os_baseline_admins": [{**ADMIN, "sudo": "none"}]},
    ),
    hardened(R.BASELINE_TIME_SERVER, "time_servers.0", time_servers=["a b"]),
    hardened(R.BASELINE_LOG_HOST, "log_host", log_host="https://user@log/x"),
    variable(R.BASELINE_SIZE, "appliance_os_baseline_journal_max", "lots", site={"baseline": {"admins": [ADMIN]}}),
    variable(R.BASELINE_CONFIRM, "appliance_os_baseline_confirm_timeout_s", 1, site={"baseline": {"admins": [ADMIN]}}),
    variable(R.BASELINE_BANNER, "appliance_os_baseline_banner", "Welcome to Debian", site={"baseline": {"admins": [ADMIN]}}),
    variable(R.BASELINE_WAIVER, "appliance_os_baseline_waivers", [WAIVER], site={"baseline": {"admins": [ADMIN]}}),
    Case(
        R.BASELINE_LOGIN, "baseline.admins", {"baseline": {"admins": [ADMIN]}}, {"ansible_user": "deploy"},
        {"appliance_os_baseline_admins": [ADMIN], "account": "deploy"},
    ),
    Case(R.DRIVER_MODULES, "gpu_driver.modules", {"gpu_driver": {"version": "620.10", "kernel": "6.12.1-amd64", "modules": "proprietary"}}),
    Case(R.CUDA_DRIVER, "cuda.compat", {"cuda": {"compat": "cuda-compat-13-2"}}),
    Case(R.MIG_LAYOUT, "mig.layout", {"mig": {"layout": [{"gpus": [0, 0], "profiles": {"3g.40gb": 2}}]}}),
    Case(
        R.MIG_SLICE, "mig.layout",
        {"mig": {"layout": [{"profiles": {"3g.40gb": 2}}]}, "services": [{**SERVICE, "devices": ["nvidia"], "mig": {"instance": 3}}]},
    ),
    Case(R.SITE_PORTS, "gpu_metrics.port", {"gateway": {"port": 9400}, "gpu_metrics": {"port": 9400}}),
    Case(R.SITE_TIME, "baseline.time_servers.0", {"baseline": {"admins": [ADMIN], "time_servers": ["192.0.2.5"]}}),
    Case(R.SITE_LOG_HOST, "baseline.log_host", {"baseline": {"admins": [ADMIN], "log_host": "https://192.0.2.7:19532"}}),
    Case(R.SITE_VARIABLE, "appliance_firewall_egress", host={"appliance_firewall_egress": "all"}),
    Case(R.SITE_VARIABLE, "appliance_pki_days", host={"appliance_pki_days": "a year"}),
    Case(R.SITE_VARIABLE, "appliance_os_baseline_admins", {"baseline": {"admins": [ADMIN]}}, {"appliance_os_baseline_admins": ["alice"]}),
    # Only a role can meet this: the site gives addresses to containers by itself.
    Case(R.CONTAINER_ADDRESS, "", role={"appliance_container_runtime_containers": [{**CONTAINER, "ports": [{"port": 8085, "container_port": 80, "address": "::1"}]}]}),
]  # fmt: skip
SEEN_AT_THE_ROLE_ONLY = {R.CONTAINER_ADDRESS, R.FIREWALL_USER}
# Judged by a table of GPUs (installer.compat.choice), which the roles ask with the node's own devices.
BY_DEVICE = {R.DRIVER_MODULES, R.CUDA_DRIVER, R.MIG_LAYOUT, R.MIG_SLICE}


def write(path: Path, case: Case) -> Path:
    """An inventory with one node, in which everything but the case is sound."""
    (path / "group_vars/all").mkdir(parents=True)
    host = {"ansible_host": "192.0.2.21", **case.host}
    hosts = {
        "all": {
            "children": {
                g: {"hosts": {case.name: host if g == "gpu" else None}} for g in ("gateway", "gpu", "monitoring")
            }
        }
    }
    (path / "hosts.yml").write_text(yaml.safe_dump(hosts, sort_keys=False))
    site = {"appliance_site": {**copy.deepcopy(BASE), **copy.deepcopy(dict(case.site))}}
    (path / "group_vars/all/site.yml").write_text(yaml.safe_dump(json.loads(json.dumps(site)), sort_keys=False))
    return path


def listing(path: Path) -> Listing:
    """The inventory as Ansible would tell of it; asking Ansible for every case would take minutes."""
    document = yamlfile.positions(path / "hosts.yml")
    site = yaml.safe_load((path / "group_vars/all/site.yml").read_text())
    hosts: dict[str, Told] = {}
    groups: dict[str, tuple[str, ...]] = {}
    for group, members in yaml.safe_load((path / "hosts.yml").read_text())["all"]["children"].items():
        groups[group] = tuple(members["hosts"])
        for name, variables in members["hosts"].items():
            if variables:
                place = ("all", "children", group, "hosts", name)
                lines = {v: f"{path / 'hosts.yml'}:{document.line((*place, v))}" for v in variables}
                hosts[name] = Told(
                    variables, {**variables, **site}, lines, f"{path / 'hosts.yml'}:{document.line(place)}"
                )
    return Listing(groups, hosts)


def test_every_rule_has_a_site_that_breaks_it() -> None:
    assert {case.rule for case in CASES} == set(Rule)


def test_the_site_that_the_cases_change_is_sound(tmp_path: Path) -> None:
    load(write(tmp_path / "site", Case(R.VLLM_NAME, "")))
    sound = {
        "baseline": {
            "admins": [{**ADMIN, "password": HASH}],
            "time_servers": ["192.0.2.5"],
            "log_host": "https://192.0.2.7",
        },
        "egress": [
            {"name": "time", "destinations": ["192.0.2.5"], "ports": [123], "protocol": "udp"},
            {"name": "log", "destinations": ["192.0.2.7"], "ports": [19532]},
        ],
        "containers": [{**CONTAINER, "volumes": [{"source": "data", "target": "/data", "writable": True}]}],
        "services": [{**SERVICE, "args": {"max-model-len": 1}, "environment": {"A_B": "1"}, "memory_max": "64G"}],
    }
    load(write(tmp_path / "more", Case(R.VLLM_NAME, "", sound, {"ansible_user": "alice"})))


@pytest.mark.parametrize(
    "case", [c for c in CASES if c.rule not in SEEN_AT_THE_ROLE_ONLY], ids=lambda c: f"{c.rule} {c.at}"
)
def test_a_site_that_breaks_a_rule_is_refused_with_file_line_and_key(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ansiblelist, "ask", listing)
    path = write(tmp_path / "site", case)
    with pytest.raises(InputError) as refused:
        load(path)
    key = case.at
    found = re.search(rf"(\S+):(\d+): (?:{re.escape(case.name)}: )?{re.escape(key)}: \S", str(refused.value))
    assert found, str(refused.value)
    of_host = (case.host and case.at.split(".")[0] in case.host) or case.at == "name"
    assert Path(found[1]) == path / ("hosts.yml" if of_host else "group_vars/all/site.yml")
    words = [w for w in case.at.split(".") if not w.isdigit()]
    there = Path(found[1]).read_text().splitlines()[int(found[2]) - 1]
    assert words[-1] in there or case.name in there or "- " in there, there


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1", "every machine itself"), ("::1", "every machine itself"), ("224.0.0.1", "multicast"), ("ff02::1", "multicast"),
        ("169.254.3.4", "link-local"), ("fe80::1", "link-local"), ("fe80::1%eth0", "not an address"), ("0.0.0.0", "unspecified"),  # noqa: S104
        ("::ffff:192.0.2.21", "write 192.0.2.21"),
    ],
)  # fmt: skip
def test_an_address_at_which_nobody_reaches_a_node_is_refused(
    address: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A firewall may name some of these (a group's packets, this machine), so its role takes them; no node has one."""
    monkeypatch.setattr(ansiblelist, "ask", listing)
    with pytest.raises(InputError, match=rf"hosts\.yml:\d+: node-1: ansible_host: is .*{re.escape(said)}"):
        load(write(tmp_path / "site", Case(R.FIREWALL_NETWORK, "", host={"ansible_host": address})))


def test_a_mistake_in_a_site_leads_to_the_schema_of_sites(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ansiblelist, "ask", listing)
    with pytest.raises(InputError, match=r"site\.yml:\d+: services: ") as refused:
        load(write(tmp_path / "site", Case(R.VLLM_NAME, "", {"services": [SERVICE] * 65})))
    assert "at most 64 entries are allowed here, 65 are given" in refused.value.what
    assert refused.value.remedy == "`appliance schema site` prints what is allowed."


@pytest.mark.parametrize("number", [-1, 65, True, "eight", [8]])
def test_a_host_whose_number_of_gpus_is_not_one_is_refused(
    number: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ansiblelist, "ask", listing)
    with pytest.raises(InputError, match="node-1: appliance_gpus is ") as refused:
        load(write(tmp_path / "site", Case(R.VLLM_NAME, "", host={"appliance_gpus": number})))
    assert re.search(r"hosts\.yml:\d+$", refused.value.where)


def test_what_ansible_says_of_lines_reaches_the_message(tmp_path: Path) -> None:
    """The same without the double: two faults of one real inventory, each with its own file."""
    wrong = {**SERVICE, "args": {"host": "192.0.2.9", "max_model_len": 1}}
    path = write(
        tmp_path / "site", Case(R.VLLM_REFUSED, "", {"services": [wrong]}, {"appliance_firewall_log_rate": "often"})
    )
    with pytest.raises(InputError) as refused:
        load(path)
    said = str(refused.value).splitlines()
    assert [re.sub(r"^.*/([a-z]+\.yml):\d+: ", r"\1 ", line).split(":")[0] for line in said] == [
        "site.yml services.0.args.host", "site.yml services.0.args.max_model_len", "hosts.yml node-1",
    ]  # fmt: skip
    assert re.search(r"hosts\.yml:\d+: node-1: appliance_firewall_log_rate: is 'often'", said[2])
    number = int(re.search(r"hosts\.yml:(\d+)", said[2])[1])  # type: ignore[index]
    assert "log_rate" in (path / "hosts.yml").read_text().splitlines()[number - 1]


# --- the other side: the roles themselves


def asserting(role: str) -> Iterator[dict[str, Any]]:
    """The tasks of a role's preflight that judge variables alone."""
    for task in yaml.safe_load((TREE / "roles" / role / "tasks/preflight.yml").read_text()):
        judged = str(task.get("vars", {}).get("faults", ""))
        if (
            "ansible.builtin.assert" in task
            and "_faults" in judged
            and "firewall_zone" not in judged
            and "looked" not in judged
        ):
            yield task


def test_the_roles_refuse_the_same_values(tmp_path: Path) -> None:
    """One run of Ansible: a host a case, each with the variables of its case, goes through the judging tasks of its role."""
    cases = [c for c in CASES if c.rule.role and c.rule not in BY_DEVICE]
    roles = sorted({c.rule.role for c in cases})
    for role in roles:
        here = tmp_path / "roles" / role
        shutil.copytree(TREE / "roles" / role, here, ignore=shutil.ignore_patterns("molecule", "meta", "handlers"))
        tasks = list(asserting(role))
        assert tasks, role
        (here / "tasks/judge.yml").write_text(yaml.safe_dump(tasks, sort_keys=False, width=10_000))
    hosts = {
        f"case-{i}" if c.rule != R.PKI_COMMON_NAME else c.name: {
            "judged": c.rule.role,
            "os_baseline_session_before": {"ansible_facts": {"ansible_user_id": c.role.get("account", "root")}},
            "appliance_firewall_management_sources": ["192.0.2.5"],
            "appliance_firewall_interfaces": ["eth0"],
            "appliance_pki_names": ["node-1"],
            "appliance_nginx_upstreams": [{"name": "chat", "sockets": ["/x"]}],
            "appliance_nginx_server_names": ["node-1"],
            "appliance_model_store_device": "/dev/vdb",
            **c.role,
        }
        for i, c in enumerate(cases)
    }
    (tmp_path / "hosts.json").write_text(json.dumps({"all": {"vars": {"ansible_connection": "local"}, "hosts": hosts}}))
    (tmp_path / "judge.yml").write_text(f"""
- hosts: all
  gather_facts: false
  tasks:
    - block:
        - ansible.builtin.include_role: {{name: "{{{{ judged }}}}", tasks_from: judge}}
      rescue:
        - ansible.builtin.set_fact: {{refused: "{{{{ ansible_failed_result.msg }}}}"}}
    - ansible.builtin.copy:
        content: "{{{{ dict(ansible_play_hosts_all | zip(ansible_play_hosts_all | map('extract', hostvars, 'refused') | map('default', ''))) | to_json }}}}"
        dest: {tmp_path}/said.json
        mode: "0600"
      run_once: true
""")
    done = subprocess.run(
        [Path(sysconfig.get_path("scripts")) / "ansible-playbook", "-i", tmp_path / "hosts.json", tmp_path / "judge.yml", "-e", f"ansible_python_interpreter={sys.executable}"],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "LC_ALL": "C.UTF-8", "PYTHONPATH": str(TREE), "ANSIBLE_ROLES_PATH": str(tmp_path / "roles"), "ANSIBLE_FORKS": "8"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (tmp_path / "said.json").exists(), done.stdout[-3000:] + done.stderr[-3000:]
    said = json.loads((tmp_path / "said.json").read_text())
    for name, case in zip(hosts, cases, strict=True):
        assert SAYS[case.rule] in said[name], (case.rule, said[name])


SAYS: Mapping[Rule, str] = {
    R.VLLM_NAME: "has the name 'Chat'", R.VLLM_SERVED_NAME: "has the served_name", R.VLLM_SPELLING: "such as max-model-len",
    R.VLLM_REFUSED: "which the role sets itself or refuses", R.VLLM_ENVIRONMENT: "has the variable 'hf_home'",
    R.VLLM_LINE_BREAK: "a line break in the variable MOTTO", R.VLLM_MEMORY: "memory_max '64 GB'",
    R.CONTAINER_NAME: "has the name 'Web'", R.CONTAINER_IMAGE: "NAME@sha256:DIGEST", R.CONTAINER_USER: "root is not taken",
    R.CONTAINER_MEMORY: "has the memory 'lots'", R.CONTAINER_DEVICE: "has the device", R.CONTAINER_ENVIRONMENT: "has the variable 'A-B'",
    R.CONTAINER_LINE_BREAK: "has a line break in its command", R.CONTAINER_TARGET: "may not have a volume at",
    R.CONTAINER_SOURCE: "may not have '/etc/shadow'", R.CONTAINER_WRITABLE: "may not write to /srv/data",
    R.CONTAINER_DUPLICATE: "has the name of another", R.CONTAINER_PORT_TWICE: "has the port 8085 of the container a",
    R.CONTAINER_PORT: "has the port 80", R.CONTAINER_ADDRESS: "listens on '::1'",
    R.DCGM_CLIENT: "give names of hosts", R.DCGM_ADDRESS: "give an address", R.DCGM_PORT: "port is 400",
    R.FIREWALL_MANAGEMENT: "would lock you out", R.FIREWALL_NETWORK: "is not a network", R.FIREWALL_EVERYWHERE: "which is everywhere",
    R.FIREWALL_NAME: "give it a name of up to 63", R.FIREWALL_PROTOCOL: "use tcp or udp", R.FIREWALL_DUPLICATE: "is there twice",
    R.FIREWALL_PORT: "has port 70000", R.FIREWALL_NO_PORTS: "has no ports", R.FIREWALL_USER: "has the user 'No Body'", R.FIREWALL_NO_NETWORKS: "has no destinations",
    R.FIREWALL_INTERFACE: "other than loopback", R.FIREWALL_SSH_PORT: "ssh_port is 0", R.FIREWALL_LOG_RATE: "log_rate is 'often'",
    R.FIREWALL_CONFIRM: "too short to connect again", R.FIREWALL_PROOF_TARGET: "proof_targets is empty",
    R.FIREWALL_PROOF_OPEN: "entry 'dns' lets out", R.FIREWALL_PROOF_SETTING: "proof_interval_s is 5",
    R.NGINX_PORT: "port is 443", R.NGINX_NAME: "has 'llm example'", R.NGINX_CLIENT: "has 'a b'", R.NGINX_SERVICE: "is 'a_b'",
    R.BASELINE_CONTROL: "names ssh-rot, which is not a control", R.BASELINE_ADMIN: "and not root", R.BASELINE_ADMIN_TWICE: "names alice twice",
    R.BASELINE_NO_KEYS: "has no keys", R.BASELINE_KEY: "give a public key", R.BASELINE_PASSWORD: "not a strong crypt hash",
    R.BASELINE_ROOT: "no admin may act as root", R.BASELINE_TIME_SERVER: "has 'a b'", R.BASELINE_LOG_HOST: "log_host is",
    R.BASELINE_SIZE: "journal_max is 'lots'", R.BASELINE_CONFIRM: "too short to connect again", R.BASELINE_BANNER: "who is authorised",
    R.BASELINE_LOGIN: "do not name deploy", R.BASELINE_WAIVER: "no-such-control",
    R.PKI_NAME: "has '*.example'", R.PKI_COMMON_NAME: "which no certificate can hold", R.PKI_RENEWAL: "so that every install would issue",
    R.STORE_DEVICE: "device is 'sda1'", R.STORE_PCRS: "tpm2_pcrs is [24]", R.STORE_PASSPHRASE: "needs appliance_model_store_passphrase_file",
    R.STORE_PIN: "goes with tpm2 alone", R.STORE_RESERVE: "reserve is 'some'", R.STORE_CALENDAR: "calendar is 'every Sunday'",
    R.STORE_DELAY: "delay is 'a while'",
}  # fmt: skip


@pytest.mark.parametrize(
    "source",
    ["/etc/shadow", "/etc/shadow-", "/etc/appliance", "/etc/appliance/", "//etc/ssh", "/./etc/ssh/x", "/opt/appliance", "/", "//", "/root/x",
     "/run", "/var/lib/appliance", "/var/lib/appliance/trust/x", "/var/lib/containers/storage", "/srv/../etc", "/etc"],
)  # fmt: skip
def test_no_spelling_shows_a_container_the_secrets_of_its_host(source: str) -> None:
    wrong = {**CONTAINER, "volumes": [{"source": source, "target": "/x"}]}
    assert [f.rule for f in containers.containers([wrong])] == [R.CONTAINER_SOURCE]


@pytest.mark.parametrize(
    "source", ["data", "/srv/data", "/etc/ssl/certs", "/var/lib/appliance/views/x", "/home/alice/web", "/rooted"]
)
def test_other_places_are_taken(source: str) -> None:
    assert not list(containers.containers([{**CONTAINER, "volumes": [{"source": source, "target": "/x"}]}]))


# --- what systemd says of times


@pytest.mark.parametrize(
    "text",
    [
        "Sun *-*-* 02:00:00", "daily", "02:00", "Mon..Fri 22:30", "*-*-1,15 4:5", "Sunday", "2026-1-1", "*-*~3", "*:0/15", "Mon-Fri *-02~01 UTC",
        "*-*-* 25:00", "Funday", "every week", "*-13-1", "1..5:0", "5..1:0", "Mon,Tue 1:2:3.5", "Sat,*-*-* 1:00", "weekly Europe/Berlin",
        "* 10:00", "10", "*-*-*", "Mon*-*-* 1:00", "*-*-*/2 00:00", "*-*-1/2 00:00", "Mon Tue 10:00", "00:00:60", "99-1-1 1:00", "1969-1-1", "Mon *", "",
    ],
)  # fmt: skip
def test_calendars_are_those_that_systemd_takes(text: str) -> None:
    real = subprocess.run(["systemd-analyze", "calendar", "--", text], capture_output=True, check=False).returncode == 0
    assert store.is_calendar(text) is real


@pytest.mark.parametrize(
    "text",
    [
        "4h",
        "1h 30min",
        "0",
        "5",
        "1.5h",
        "often",
        "4 hours",
        "",
        "4x",
        "h",
        "2h30m",
        "-1h",
        "1h,",
        "4H",
        "1M",
        "3 weeks 2d",
    ],
)
def test_times_are_those_that_systemd_takes(text: str) -> None:
    real = subprocess.run(["systemd-analyze", "timespan", "--", text], capture_output=True, check=False).returncode == 0
    assert bool(store.SPAN.fullmatch(text)) is real
