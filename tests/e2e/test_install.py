"""The whole path on real nodes: from a bundle to an answer, and what happens when something breaks on the way."""

from __future__ import annotations

import base64
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from installer.lab.lab import Lab, down, up
from tests.demo import (
    TREE,
    Demo,
    ask,
    ask_again,
    client,
    install_argv,
    refused_outside,
    refused_without_certificate,
    site_environment,
)
from tests.e2e.onenode import UNITS, on_node, start_times, status_argv

pytestmark = pytest.mark.nodes


@pytest.fixture(scope="module")
def lab(demo: Demo) -> Iterator[Lab]:
    """A node that has nothing yet."""
    name = f"e2e-{os.getpid()}"
    made = up(name, owner_pid=os.getpid())
    site_environment(demo, made)
    try:
        yield made
    finally:
        down(name)


def files_of(lab: Lab) -> str:
    """Every file of the node that an install could touch, with size, mode, owner and time of change.

    Left out is what Ansible's own connection leaves (.ansible and the time of its parent), systemd's state, and the evidence and metrics
    that the node writes all the time.
    """
    return on_node(
        lab,
        "find /etc /opt /usr /var/lib /root -xdev -not -path '*/systemd/*' -not -path '/root' -not -path '/root/.ansible*'"
        " -not -path '/var/lib/appliance/egress*' -not -path '/var/lib/appliance/metrics*' -printf '%p %s %m %U %T@\\n' | sort",
    )


# The tests below follow one node through its life; pytest runs them in this order.


def test_a_dry_run_on_a_bare_node_predicts_changes_and_makes_none(demo: Demo, lab: Lab) -> None:
    before = files_of(lab)
    outcome = demo.appliance(*install_argv(demo), "--check", demo.bundle, json_output=True)
    assert outcome["good"]
    assert outcome["nodes"]["node-1"]["changed"] > 0
    assert outcome["nodes"]["node-1"]["nothing_yet"]
    assert files_of(lab) == before
    assert not (demo.work / "control" / "depot").exists()


def test_a_bundle_with_one_flipped_bit_is_refused_and_the_node_is_not_touched(
    demo: Demo, lab: Lab, tmp_path: Path
) -> None:
    bad = tmp_path / "demo-1.0.0"
    shutil.copytree(demo.bundle, bad)
    victim = bad / "content" / "models" / "tiny" / "model.safetensors"
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.chmod(0o644)
    victim.write_bytes(data)
    before = files_of(lab)
    outcome = demo.appliance(*install_argv(demo), bad, ok=(3,), json_output=True)
    assert outcome["error"]["where"] == "content/models/tiny/model.safetensors"
    assert files_of(lab) == before


def test_a_model_that_the_bundle_lacks_is_named_before_any_node_is_asked(demo: Demo, lab: Lab, tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(TREE / "inventories/demo", site)
    variables = site / "group_vars/all/site.yml"
    variables.write_text(variables.read_text().replace("model: tiny", "model: large"))
    told = demo.appliance(*install_argv(demo, site), "--check", demo.bundle, ok=(2,), json_output=True)
    assert "demo-1.0.0 holds no such model (it holds: tiny)" in told["error"]["what"]


def test_a_killed_install_is_completed_by_the_next_and_answers(demo: Demo, lab: Lab) -> None:
    """SIGKILL in the middle of the fetch; the next run keeps what arrived and finishes."""
    command = [sys.executable, "-m", "installer", *map(str, install_argv(demo)), str(demo.bundle)]
    first = subprocess.Popen(
        command,
        cwd=TREE,
        env=demo.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 900
    while on_node(lab, "ls /var/lib/appliance/blobs 2>/dev/null || true") == "":
        assert time.monotonic() < deadline, "the fetch never began"
        assert first.poll() is None, "the install ended before it could be killed"
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    outcome = demo.appliance(*install_argv(demo), demo.bundle, json_output=True)
    assert outcome["good"], outcome["failures"]
    assert outcome["proof"][0]["good"]
    assert outcome["proof"][0]["refused_without_certificate"]


def test_the_report_of_the_run_is_evidence(demo: Demo, lab: Lab, tmp_path: Path) -> None:
    control = demo.work / "control"
    report, site = sorted(control.glob("runs/*/report.dsse.json"))[-1], control / "site" / "site.pub.json"
    said = demo.appliance("report", report, "--site", site, json_output=True)
    assert said["good"]
    assert list(said["nodes"]) == ["node-1"]
    forged = tmp_path / "report.dsse.json"
    data = json.loads(report.read_text())
    data["payload"] = base64.b64encode(json.dumps({**said, "good": False}).encode()).decode()
    forged.write_text(json.dumps(data))
    refused = demo.appliance("report", forged, "--site", site, ok=(3,), json_output=True)
    assert "not signed by this site" in refused["error"]["what"]


def test_status_finds_nothing_wrong_and_gets_a_token(demo: Demo, lab: Lab) -> None:
    told = demo.appliance(*status_argv(demo), "-i", "inventories/demo", json_output=True)
    node = told["nodes"][0]
    assert told["good"] and told["control"]["proof"] == "signed by this site", told
    assert node["tokens"][0]["error"] == "" and node["tokens"][0]["seconds"] > 0
    assert {u["name"] for u in node["units"] if u["active"] == "active"} >= set(UNITS.split())
    assert node["services"] == [{"service": "tiny", "as_written": True, "compiles": False}]


def test_no_secret_of_the_control_host_is_in_a_log_or_on_the_node(demo: Demo, lab: Lab) -> None:
    """The passphrase and the private keys of the site, looked for in every log of the runs and all over the node."""
    control = demo.work / "control"
    secrets = [demo.passphrase.read_text()]
    for key in (*control.glob("ca/**/*.key"), *control.glob("ca/**/*.pem"), *control.glob("site/*.pem")):
        if "PRIVATE" in (text := key.read_text(errors="replace")):
            assert key.stat().st_mode & 0o077 == 0, key
            secrets.append(text.splitlines()[1])
    assert len(secrets) >= 3
    logs = [p for p in (control / "runs").rglob("*") if p.is_file()]
    assert any("node-1" in p.read_text(errors="replace") for p in logs)
    for secret in secrets:
        assert not [p for p in logs if secret in p.read_text(errors="replace")]
        places = "/etc /run /tmp /root /home /var/log /var/lib/appliance/trust /var/lib/appliance/views /opt/appliance/current/etc"
        quoted = shlex.quote(secret)
        assert on_node(lab, f"grep -rlsF -e {quoted} {places} | grep -v '^/run/log/journal' || true") == ""
        assert (
            on_node(lab, f"journalctl --no-pager -o cat | grep -v 'grep -' | grep -cF -e {quoted} || true").strip()
            == "0"
        )


def test_a_client_with_a_certificate_gets_an_answer_and_a_stream(demo: Demo, lab: Lab) -> None:
    assert ask(demo, lab)
    stream = client(demo, lab).chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "stream"}],
        max_tokens=8,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert sum(1 for c in chunks if c.choices) > 1
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens > 1


def test_the_list_of_models_names_no_path_of_the_node(demo: Demo, lab: Lab) -> None:
    [model] = client(demo, lab).models.list()
    assert (model.id, model.model_dump()["root"]) == ("tiny", "tiny")


def test_without_a_certificate_nothing_is_answered(demo: Demo, lab: Lab) -> None:
    assert "Error" in refused_without_certificate(demo, lab)


def test_the_node_cannot_get_out_and_counts_every_attempt(lab: Lab) -> None:
    assert refused_outside(lab)
    tried = json.loads(on_node(lab, "/opt/appliance/current/engine/bin/appliance-engine egress"))
    assert tried


def test_a_second_install_finds_that_the_node_needs_nothing(demo: Demo, lab: Lab) -> None:
    files, units = files_of(lab), start_times(lab)
    outcome = demo.appliance(*install_argv(demo), demo.bundle, json_output=True)
    assert outcome["good"]
    assert outcome["idle"] == ["node-1"]
    assert outcome["nodes"]["node-1"]["ok"] == 0, "the roles ran on a node that needed nothing"
    assert [p["good"] for p in outcome["proof"]] == [True]
    assert start_times(lab) == units
    assert files_of(lab) == files


def test_the_roles_run_again_change_nothing_and_restart_nothing(demo: Demo, lab: Lab) -> None:
    files, units = files_of(lab), start_times(lab)
    outcome = demo.appliance(*install_argv(demo), "--full", demo.bundle, json_output=True)
    assert outcome["good"], outcome["failures"]
    assert outcome["idle"] == []
    assert outcome["nodes"]["node-1"]["ok"] > 100, "the roles did not run"
    assert {n: s["changes"] for n, s in outcome["nodes"].items()} == {"node-1": []}
    assert start_times(lab) == units
    changed = set(files.splitlines()) ^ set(files_of(lab).splitlines())
    # The node asked the depot again and wrote down what it then trusts.
    assert {name for name in (line.split()[0] for line in changed) if "/lib/appliance/trust" not in name} == set()


def test_preflight_finds_a_serving_node_ready_for_its_own_release(demo: Demo, lab: Lab) -> None:
    """Ports are held by our own unit, what is there is not counted again, and the firewall lets the node reach the depot alone."""
    depot = demo.work / "control" / "depot"
    said = demo.appliance(
        "preflight", "-i", "inventories/demo", "--depot", depot, "--outside", "192.0.2.1:53", json_output=True
    )["nodes"][0]
    found = {f["check"]: f for f in said["findings"]}
    assert [f for f in said["findings"] if f["severity"] == "fail"] == []
    assert any(
        x["port"] == 8443 and x["unit"] == "appliance-nginx.service" for x in said["facts"]["network"]["listeners"]
    )
    assert said["facts"]["storage"]["lacking_bytes"] == 0 and "runtime" not in found["space"]["what"]
    assert "the node reaches" in found["depot"]["what"]


def test_the_models_unit_is_sandboxed(lab: Lab) -> None:
    report = json.loads(on_node(lab, "systemd-analyze security --json=short appliance-vllm@tiny.service"))
    assert report
    line = on_node(lab, "systemd-analyze security --no-pager appliance-vllm@tiny.service").strip().splitlines()[-1]
    assert float(line.split(":")[1].split()[0]) <= 2.0, line


def test_the_service_comes_back_after_a_reboot_behind_its_firewall(demo: Demo, lab: Lab) -> None:
    subprocess.run([*lab.ssh(lab.nodes[0].address), "systemctl reboot"], check=False, timeout=300, capture_output=True)
    assert ask_again(demo, lab)
    assert refused_outside(lab)
    on_node(
        lab, "/opt/appliance/current/engine/bin/appliance-engine egress"
    )  # fails unless every attempt was denied and counted
