"""Several services of a site: which replica runs where, what each role is told of it, and what a release's models allow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from engine.errors import InputError
from engine.placement import record
from engine.placement.model import Gpu, Place
from installer.site import placed, prove, rollout, services, sharing, status
from installer.site.inventory import Host, Inventory
from installer.site.plan import NodePlan, Plan
from installer.site.rules.given import Given
from installer.site.rules.serving import serving
from installer.site.settings import Service, Site
from installer.site.variables import variables

GATEWAY = Host("gw-1", "192.0.2.10", ("gateway",), member_of=("all", "gateway"))
BIG = Host("gpu-1", "192.0.2.21", ("gpu",), member_of=("all", "gpu", "large"), gpus=8)
SMALL = Host("gpu-2", "192.0.2.22", ("gpu",), member_of=("all", "gpu"))
HOSTS = (GATEWAY, BIG, SMALL)
CHAT: dict[str, Any] = {"name": "chat", "model": "llama", "served_name": "llama"}


def service(**more: Any) -> dict[str, Any]:
    return {**CHAT, **more}


def inventory(*listed: dict[str, Any], hosts: tuple[Host, ...] = HOSTS) -> Inventory:
    site = {"control": {"address": "192.0.2.5"}, "management_sources": ["192.0.2.0/24"], "services": list(listed)}
    return Inventory(Path("site"), hosts, Site.model_validate(site))


def faults(of: Inventory) -> list[str]:
    given = Given(of.path, of.hosts, of.site, {}, {})
    return [".".join(map(str, f.key)) + ": " + f.what for f in serving(given)]


EMBED = service(name="embed", model="bge", served_name="bge", gpus=1, replicas=2, nodes=["large"])


def test_a_service_runs_on_the_nodes_and_groups_that_it_names_and_on_all_gpu_nodes_otherwise() -> None:
    site = inventory(service(gpus=2), EMBED).site
    assert [r.name for r in services.replicas(site, BIG)] == ["chat", "embed", "embed-2"]
    assert [r.name for r in services.replicas(site, SMALL)] == ["chat"]
    assert services.replicas(site, GATEWAY) == ()


def test_more_replicas_do_not_rename_the_first() -> None:
    before = inventory(service(gpus=1)).site
    after = inventory(service(gpus=1, replicas=3)).site
    assert [r.name for r in services.replicas(before, BIG)] == ["chat"]
    assert [r.name for r in services.replicas(after, BIG)] == ["chat", "chat-2", "chat-3"]


def test_the_first_service_answers_below_v1_unless_another_says_so() -> None:
    assert services.default(inventory(service(), EMBED).site) == "chat"
    assert services.default(inventory(service(), {**EMBED, "default": True}).site) == "embed"
    assert services.default(inventory().site) == ""


def test_keys_become_flags_of_vllm() -> None:
    one = Service.model_validate(
        service(
            gpus=4, pipeline_parallel=2, quantization="fp8", tool_call_parser="hermes", reasoning_parser="qwen3",
            chat_template="tools.jinja", args={"max-model-len": 1024},
        )
    )  # fmt: skip
    assert services.flags(one, "/models/llama") == {
        "max-model-len": 1024, "tensor-parallel-size": 2, "pipeline-parallel-size": 2, "quantization": "fp8",
        "tool-call-parser": "hermes", "enable-auto-tool-choice": True, "reasoning-parser": "qwen3",
        "chat-template": "/models/llama/tools.jinja",
    }  # fmt: skip
    assert one.devices == ("nvidia",)


def test_a_service_of_before_has_the_flags_it_wrote_and_no_other() -> None:
    old = Service.model_validate(service(devices=["nvidia"], args={"tensor-parallel-size": 8}))
    assert services.flags(old, "/m") == {"tensor-parallel-size": 8}
    assert services.ask(services.Replica("chat", 1, old)).gpus == 0


def test_a_site_of_one_service_keeps_its_unit_socket_and_path() -> None:
    made = variables(inventory(service(devices=["nvidia"])), "r-1", {})
    assert [s["name"] for s in made["appliance_services"]["gpu-1"]] == ["chat"]
    assert made["appliance_services"]["gw-1"] == []
    assert made["appliance_services"]["gpu-1"][0]["model"].endswith("/views/r-1/content/models/llama")
    common = {"name": "chat", "served_name": "llama", "default": True}
    assert made["appliance_upstreams"] == {
        "gw-1": [{**common, "peers": [{"host": "192.0.2.21", "port": 8444}, {"host": "192.0.2.22", "port": 8444}]}],
        "gpu-1": [{**common, "sockets": ["/run/appliance-vllm/chat/api.sock"]}],
        "gpu-2": [{**common, "sockets": ["/run/appliance-vllm/chat/api.sock"]}],
    }


def test_every_edge_is_told_of_the_services_behind_it() -> None:
    made = variables(inventory(service(gpus=2), EMBED), "r-1", {})["appliance_upstreams"]
    peers = {u["name"]: [p["host"] for p in u["peers"]] for u in made["gw-1"]}
    assert peers == {"chat": ["192.0.2.21", "192.0.2.22"], "embed": ["192.0.2.21"]}
    sockets = {u["name"]: u["sockets"] for u in made["gpu-1"]}
    assert sockets["embed"] == ["/run/appliance-vllm/embed/api.sock", "/run/appliance-vllm/embed-2/api.sock"]
    assert [u["name"] for u in made["gpu-2"]] == ["chat"]


def test_slices_go_to_the_nodes_that_have_the_service() -> None:
    sliced = service(mig={"gpu": 1, "instance": 0}, devices=["nvidia"], nodes=["gpu-1"])
    made = variables(inventory(sliced), "r-1", {})
    assert made["appliance_slices"] == {"gw-1": [], "gpu-1": [{"name": "chat", "gpu": 1, "instance": 0}], "gpu-2": []}


def test_sites_that_fit_have_no_fault() -> None:
    assert faults(inventory(service(devices=["nvidia"]))) == []
    assert faults(inventory(service())) == []
    assert faults(inventory(service(gpus=4, nodes=["gpu-1"]), EMBED)) == []
    cpu = {"cpus": 1, "memory_max": "4G", "environment": {"VLLM_CPU_KVCACHE_SPACE": "1"}}
    assert faults(inventory(service(**cpu), {**EMBED, "gpus": None, "nodes": [], **cpu})) == []


@pytest.mark.parametrize(
    ("listed", "said"),
    [
        ([service(gpus=7, nodes=["gpu-1"]), EMBED], "services.1.gpus: asks for 1 GPU, and of the node's 8 are 0 free (gpu-1)"),
        ([service(nodes=["gw-1"])], "services.0.nodes.0: is 'gw-1', and no node of it is in the group gpu"),
        (
            [service(cpus=1, memory_max="1G"), {**EMBED, "nodes": []}],
            "services.0.environment: has no VLLM_CPU_KVCACHE_SPACE, and vLLM takes most of a node's memory without it",
        ),
        ([service(gpus=1, mig={})], "services.0.gpus: stands beside mig"),
        ([service(nodes=["gpu-3"])], "services.0.nodes.0: is 'gpu-3', which is neither a node nor a group with nodes"),
        ([service(gpus=[8], nodes=["gpu-1"])], "services.0.gpus: names GPU 8, and the node has 8 GPUs (gpu-1)"),
        ([service(gpus=[3]), {**EMBED, "gpus": [3], "replicas": 1, "nodes": []}], "services.1.gpus: names GPU 3, which chat has (gpu-2)"),
    ],
)  # fmt: skip
def test_what_does_not_fit_names_key_and_node(listed: list[dict[str, Any]], said: str) -> None:
    assert said in faults(inventory(*listed))


def test_a_gateway_that_serves_must_serve_every_service() -> None:
    both = Host("node-1", "192.0.2.31", ("gateway", "gpu"), member_of=("all",))
    of = inventory(service(gpus=1, nodes=["gpu-1"]), {**EMBED, "nodes": []}, hosts=(both, BIG))
    assert faults(of) == ["services.0.nodes: leaves out node-1, a gateway that serves and so reaches no other node"]


def test_divided_gpus_are_not_given_out_whole() -> None:
    of = inventory(service(gpus=7, nodes=["gpu-1"]))
    layout = {"layout": [{"gpus": [0, 1], "profiles": {"3g.40gb": 2}}]}
    site = Site.model_validate({**of.site.model_dump(mode="json"), "mig": layout})
    assert faults(Inventory(of.path, of.hosts, site)) == [
        "services.0.gpus: asks for 7 GPUs, and of the node's 6 are 6 free (gpu-1)"
    ]


def view(where: Path, config: Any) -> Path:
    folder = where / "content/models/llama"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    return where


LLAMA = {"num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 32}


@pytest.mark.parametrize(
    ("more", "config"),
    [
        ({"gpus": 8}, LLAMA), ({"gpus": 16}, LLAMA), ({"gpus": 3, "pipeline_parallel": 3}, LLAMA), ({"gpus": 4}, {}),
        ({"gpus": 4}, {"text_config": LLAMA}), ({}, {"num_attention_heads": 7}), ({"args": {"tensor-parallel-size": 4}}, LLAMA),
        ({"gpus": 2}, [1]), ({"gpus": 2}, {"num_attention_heads": True}),
    ],
)  # fmt: skip
def test_what_divides_a_model_is_taken(more: dict[str, Any], config: Any, tmp_path: Path) -> None:
    sharing.demand(inventory(service(**more)), view(tmp_path, config))


@pytest.mark.parametrize(
    ("more", "config", "said"),
    [
        ({"gpus": 3}, LLAMA, "the service chat: tensor_parallel 3 does not divide its 32 attention heads"),
        ({"gpus": 3}, {"text_config": LLAMA}, "tensor_parallel 3 does not divide"),
        ({"args": {"tensor-parallel-size": 5}}, LLAMA, "tensor_parallel 5 does not divide"),
        ({"gpus": 4}, {"num_attention_heads": 24, "num_key_value_heads": 6}, "its 6 key-value heads do not divide"),
        ({"gpus": 40, "pipeline_parallel": 40}, LLAMA, "pipeline_parallel 40 is more than its 32 layers"),
    ],
)  # fmt: skip
def test_what_does_not_divide_a_model_is_refused(more: dict[str, Any], config: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said) as refused:
        sharing.demand(inventory(service(**more)), view(tmp_path, config))
    assert refused.value.where == "site: appliance_site.services" and "tensor_parallel" in refused.value.remedy


def test_a_models_configuration_that_cannot_be_read_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="configuration cannot be read"):
        sharing.demand(inventory(service(gpus=2)), tmp_path)


def test_where_replicas_run_is_said_in_words() -> None:
    site = inventory(service(gpus=[0, 1], cpus=2), EMBED, service(name="all", devices=["nvidia"])).site
    asked = {p.replica: p.has for p in placed.of_node(site, BIG, "")}
    assert asked == {"chat": "GPU 0, 1, 2 CPUs", "embed": "1 GPU", "embed-2": "1 GPU", "all": "all GPUs"}
    gpus = (Gpu("GPU-b", 3, 3), Gpu("GPU-c", 4, 4))
    written = json.dumps(record.document([Place("chat", "chat", gpus, (0, 1, 2, 6))]))
    decided = {p.replica: p.has for p in placed.of_node(site, BIG, written)}
    assert decided["chat"] == "GPU 3 (GPU-b), GPU 4 (GPU-c), 4 CPUs (0-2,6)" and decided["embed"] == "1 GPU"


def test_a_plan_with_services_on_other_gpus_is_another_plan() -> None:
    one = NodePlan("gpu-1", "d-1", services=(placed.Placed("chat", "chat", "GPU 0 (GPU-a)"),))
    other = NodePlan("gpu-1", "d-1", services=(placed.Placed("chat", "chat", "GPU 1 (GPU-b)"),))
    assert Plan("d-1", "0", (one,), ()).digest != Plan("d-1", "0", (other,), ()).digest


def test_each_service_is_asked_for_its_proof_below_its_own_name_and_a_single_one_below_v1() -> None:
    one, two = inventory(service()), inventory(service(gpus=1), EMBED)
    assert [prove.below(one, s) for s in one.site.services] == [""]
    assert [prove.below(two, s) for s in two.site.services] == ["/chat", "/embed"]


def test_a_node_takes_out_of_service_what_it_runs_and_expects_its_own_units() -> None:
    of = inventory(service(gpus=1), EMBED)
    assert rollout.services(of, "gpu-1") == {"chat", "embed"} and rollout.services(of, "gpu-2") == {"chat"}
    assert rollout.services(of, "gw-1") == {"gateway"}
    assert status.expected_units(SMALL, of) == [
        "appliance-firewall.service", "appliance-vllm@chat.service", "appliance-nginx.service",
    ]  # fmt: skip
    assert "appliance-vllm@embed-2.service" in status.expected_units(BIG, of)
