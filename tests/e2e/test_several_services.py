"""Two services on one node without GPUs, with the real engine: own paths, own CPUs, and a change of one that leaves the other alone."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from openai import NotFoundError

from installer.lab.lab import Lab, down, up
from tests.demo import TREE, Demo, client, install_argv, site_environment
from tests.e2e.onenode import on_node, status_argv

pytestmark = [pytest.mark.nodes, pytest.mark.slow]
EXAMPLE = TREE / "inventories/two-services"


@pytest.fixture(scope="module")
def lab(demo: Demo) -> Iterator[Lab]:
    """A node that has nothing yet."""
    name = f"several-{os.getpid()}"
    made = up(name, owner_pid=os.getpid())
    site_environment(demo, made)
    try:
        yield made
    finally:
        down(name)


@pytest.fixture(scope="module")
def site(demo: Demo, lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with the lab's addresses and key written into it, as an operator would."""
    where = tmp_path_factory.mktemp("several") / "site"
    shutil.copytree(EXAMPLE, where)
    for file in (where / "hosts.yml", where / "group_vars/all/site.yml"):
        looked_up = r"\{\{ lookup\('ansible\.builtin\.env', '(\w+)'\) \}\}"
        file.write_text(re.sub(looked_up, lambda found: demo.environment[found[1]], file.read_text()))
    return where


def processes(lab: Lab) -> dict[str, tuple[str, str]]:
    """Main process and state of each service's unit."""
    found = {}
    for name in ("first", "second"):
        shown = on_node(lab, f"systemctl show -p MainPID,ActiveState --value appliance-vllm@{name}.service").split()
        found[name] = (shown[0], shown[1])
    return found


def ask(demo: Demo, lab: Lab, service: str, model: str) -> int:
    """Tokens that a model answered, asked below the path of its service; below /v1 where that is empty."""
    one = client(demo, lab)
    one.base_url = f"https://{lab.nodes[0].address}:8443{service}/v1"
    answer = one.chat.completions.create(model=model, messages=[{"role": "user", "content": "hello"}], max_tokens=4)
    assert answer.usage is not None
    return answer.usage.completion_tokens


# The tests below follow one node through its life; pytest runs them in this order.


def test_both_services_are_installed_and_proven_each_below_its_own_path(demo: Demo, lab: Lab, site: Path) -> None:
    outcome = demo.appliance(*install_argv(demo, site), demo.bundle, json_output=True)
    assert outcome["good"], outcome["failures"]
    assert [(p["service"], p["good"], p["refused_without_certificate"]) for p in outcome["proof"]] == [
        ("first", True, True), ("second", True, True),
    ]  # fmt: skip
    assert ask(demo, lab, "/first", "tiny") > 0 and ask(demo, lab, "/second", "tiny-too") > 0
    assert ask(demo, lab, "", "tiny") > 0
    with pytest.raises(NotFoundError):
        ask(demo, lab, "/second", "tiny")
    assert [m.id for m in client(demo, lab).models.list()] == ["tiny", "tiny-too"]


def test_each_has_cpus_of_its_own_and_status_says_which(demo: Demo, lab: Lab, site: Path) -> None:
    held = {}
    for name, (pid, state) in processes(lab).items():
        assert state == "active"
        held[name] = on_node(lab, f"taskset -cp {pid}").rpartition(":")[2].strip()
    assert len(set(held.values())) == 2 and all(cpus.isdigit() for cpus in held.values()), held
    told = demo.appliance(*status_argv(demo), "-i", site, json_output=True)
    assert told["good"], told
    placement = {p["name"]: p["cpus"] for p in told["nodes"][0]["placement"]}
    assert placement == {name: [int(cpus)] for name, cpus in held.items()}
    written = json.loads(on_node(lab, "cat /etc/appliance/vllm/placement.json"))
    assert {p["name"] for p in written["places"]} == {"first", "second"}


def test_a_second_install_changes_nothing(demo: Demo, lab: Lab, site: Path) -> None:
    before = processes(lab)
    outcome = demo.appliance(*install_argv(demo, site), demo.bundle, json_output=True)
    assert outcome["good"] and outcome["nodes"]["node-1"]["changed"] == 0, outcome["nodes"]
    assert processes(lab) == before


def test_a_change_of_one_service_does_not_restart_the_other(demo: Demo, lab: Lab, site: Path) -> None:
    before = processes(lab)
    file = site / "group_vars/all/site.yml"
    file.write_text(file.read_text().replace("max-model-len: 512", "max-model-len: 256"))
    outcome = demo.appliance(*install_argv(demo, site), demo.bundle, json_output=True)
    assert outcome["good"], outcome["failures"]
    after = processes(lab)
    assert after["first"] == before["first"] and after["second"][0] != before["second"][0]


def test_a_service_may_make_vectors_instead(demo: Demo, lab: Lab, site: Path) -> None:
    """The same model, asked for what it has before its last layer; the other service goes on as it was."""
    before = processes(lab)
    file = site / "group_vars/all/site.yml"
    text = file.read_text()
    file.write_text(text.replace("served_name: tiny-too\n", "served_name: tiny-too\n      task: embed\n"))
    outcome = demo.appliance(*install_argv(demo, site), demo.bundle, json_output=True)
    assert outcome["good"], outcome["failures"]
    assert {p["service"]: p["endpoint"] for p in outcome["proof"]}["second"] == "/v1/embeddings"
    one = client(demo, lab)
    one.base_url = f"https://{lab.nodes[0].address}:8443/second/v1"
    made = one.embeddings.create(model="tiny-too", input=["an air gap", "another"], encoding_format="float")
    assert len(made.data) == 2 and len(made.data[0].embedding) == len(made.data[1].embedding) > 1
    assert made.data[0].embedding != made.data[1].embedding
    told = demo.appliance(*status_argv(demo), "-i", site, json_output=True)
    assert told["good"], told
    assert {t["service"]: t["endpoint"] for t in told["nodes"][0]["tokens"]}["second"] == "/v1/embeddings"
    assert processes(lab)["first"] == before["first"]
    file.write_text(text)


def test_more_cpus_than_the_node_has_are_refused_and_nothing_is_touched(
    demo: Demo, lab: Lab, site: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "site"
    shutil.copytree(site, wrong)
    file = wrong / "group_vars/all/site.yml"
    file.write_text(file.read_text().replace("cpus: 1", "cpus: 4000", 1))
    before = processes(lab)
    outcome = demo.appliance(*install_argv(demo, wrong), demo.bundle, ok=(5,), json_output=True)
    assert "the service first asks for 4000 CPUs" in outcome["failures"][0]["reason"]
    assert processes(lab) == before


def test_a_service_that_is_removed_leaves_nothing_and_the_other_runs_on(demo: Demo, lab: Lab, site: Path) -> None:
    before = processes(lab)
    file = site / "group_vars/all/site.yml"
    text = file.read_text()
    file.write_text(text[: text.index("    - name: second")])
    outcome = demo.appliance(*install_argv(demo, site), demo.bundle, json_output=True)
    assert outcome["good"], outcome["failures"]
    after = processes(lab)
    assert after["first"] == before["first"] and after["second"] == ("0", "inactive")
    left = (
        "ls -d /etc/appliance/vllm/second* /etc/systemd/system/appliance-vllm@second* /var/cache/appliance-vllm/second"
    )
    assert on_node(lab, f"{left} 2>/dev/null || true") == ""
    with pytest.raises(NotFoundError):
        ask(demo, lab, "/second", "tiny-too")
    assert ask(demo, lab, "", "tiny") > 0
