"""What a proof finds against a real kernel, what it mends, and what it tells Prometheus."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from engine.egress import FRAMES, SOCKETS, Attempt
from engine.egress_proof import Found, Settings, metrics, settings
from engine.egress_raw import Helper, gateway
from engine.errors import InputError, ResourceError
from engine.nft import Counter
from tests.unit.test_firewall_kernel import in_namespace

ALERTS = Path(__file__).resolve().parents[2] / "roles/firewall/files/alerts.yml"

# "wan" is guarded; its peer "far", the other end of the wire, is where what got out would arrive.
START = """
from engine.egress_proof import Settings, prove
quick = Settings(targets=("192.0.2.1", "2001:db8::1"), timeout_s=0.3)
inside = lambda name: name != "far"
firewall().apply(old, confirm_within_s=60); firewall().confirm()
def proved(wanted=quick, **other):
    return prove(firewall(), wanted, guarded=inside, **other)
"""


def test_a_node_with_its_rules_is_proved_shut(tmp_path: Path) -> None:
    in_namespace(
        START
        + """
found = proved()
assert found.good and not found.restored and found.loaded == "active", found
body = found.body()
assert set(body["attempts"]) == {"tcp", "udp", "icmp", "frame"} and body["wrong"] == []
frames = body["attempts"]["frame"]
assert frames["counted"] >= frames["sent"] == 4 and found.rules == old.digest, body
assert found.counters["netdev.frame_denied_other"] >= 2
""",
        tmp_path,
    )


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        ("flush ruleset", "the tables inet appliance and netdev appliance are not loaded"),
        ("delete table netdev appliance", "the table netdev appliance is not loaded"),
        ("delete table inet appliance", "the table inet appliance is not loaded"),
        ("insert rule inet appliance output accept", "not the ones that were loaded"),
        ("insert rule netdev appliance outward accept", "not the ones that were loaded"),
        ("flush chain inet appliance output", "not the ones that were loaded"),
    ],
)
def test_what_was_done_to_the_rules_is_told_and_undone(harm: str, words: str, tmp_path: Path) -> None:
    in_namespace(
        START
        + f"""
before = firewall().kernel.digest()
subprocess.run("nft {harm}", shell=True, check=True)
found = proved()
assert not found.good and found.restored and any({words!r} in f for f in found.faults), found.faults
assert all(a.denied for a in found.attempts) and found.attempts
assert firewall().kernel.digest() == before
assert proved().good
""",
        tmp_path,
    )


def test_without_that_policy_nothing_is_put_back_and_every_proof_fails(tmp_path: Path) -> None:
    in_namespace(
        START
        + """
from dataclasses import replace
subprocess.run("nft delete table netdev appliance", shell=True, check=True)
for _ in range(2):
    found = proved(replace(quick, restore=False))
    assert not found.good and not found.restored and not found.attempts, found
assert "hook egress" not in ruleset()
""",
        tmp_path,
    )


@pytest.mark.parametrize(
    ("inet", "netdev", "words"),
    [
        ("accept", "accept", "got out"),
        ("meta l4proto udp accept", "meta l4proto udp accept", "udp to 192.0.2.1 by wan got out"),
        ("tcp dport 1 accept", "accept", "frame to 192.0.2.1 by wan got out"),
        ("tcp dport 1 accept", "ether type 0x88b5 accept", "frame to 192.0.2.1 by wan got out"),
        ("meta l4proto icmp accept", "meta l4proto icmp accept", "icmp to 192.0.2.1 by wan got out"),
    ],
)
def test_a_confirmed_policy_that_lets_something_out_is_not_shut(
    inet: str, netdev: str, words: str, tmp_path: Path
) -> None:
    in_namespace(
        START
        + f"""
hole = Rules(inet({inet!r}), netdev({netdev!r}), old.closed_inet, old.closed_netdev)
firewall().apply(hole, confirm_within_s=60); firewall().confirm()
found = proved()
assert found.loaded == "active" and any({words!r} in f for f in found.faults), found.faults
""",
        tmp_path,
    )


def test_what_nothing_of_ours_refused_is_no_proof(tmp_path: Path) -> None:
    in_namespace(
        START
        + """
# Somebody else's table refuses first: denied, and yet our doors were not seen to hold.
theirs = "table inet theirs {\\nchain c {\\ntype filter hook output priority -100; policy accept;\\nmeta l4proto udp reject\\n}\\n}\\n"
subprocess.run(["nft", "-f", "-"], input=theirs, text=True, check=True)
# The kernel's own neighbour discovery would be counted by the doors in between.
open("/proc/sys/net/ipv6/conf/all/disable_ipv6", "w").write("1")
found = proved(Settings(targets=("192.0.2.1",), timeout_s=0.3))
assert "udp to 192.0.2.1 by wan was refused, but no door counted it" in found.faults, found.faults
""",
        tmp_path,
    )


def test_an_interface_that_nobody_guards_or_a_way_without_a_route_is_no_proof(tmp_path: Path) -> None:
    in_namespace(
        START
        + """
assert "far is up and frames leave it unguarded" in prove(firewall(), quick).faults
subprocess.run("ip link set wan down", shell=True, check=True)
found = proved()
assert not found.good and any("prove both doors" in f for f in found.faults), found.faults
""",
        tmp_path,
    )


def test_rules_that_wait_for_their_confirmation_are_left_alone(tmp_path: Path) -> None:
    in_namespace(
        START
        + """
firewall().apply(new, confirm_within_s=60)
found = proved()
assert found.good and found.loaded == "candidate" and not found.restored, found
subprocess.run("nft delete table netdev appliance", shell=True, check=True)
assert not proved().restored
""",
        tmp_path,
    )


def test_a_helper_that_does_not_answer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="does not answer"):
        Helper(tmp_path / "none.sock").send("frame", "192.0.2.1", "eth0")


@pytest.mark.parametrize(
    "question",
    [
        '{"kind": "frame", "target": "192.0.2.1", "interface": "a b"}',
        '{"kind": "tcp", "target": "192.0.2.1", "interface": "lo"}',
        '{"kind": "icmp", "target": "example.org", "interface": "lo"}',
        '["frame"]',
        "",
        "x" * 5000,
    ],
)
def test_the_helper_sends_nothing_for_a_question_that_is_none(question: str) -> None:
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "engine.egress_raw"], input=question, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "Traceback" not in done.stderr


def test_the_gateway_s_hardware_address_is_read_from_the_kernel(tmp_path: Path) -> None:
    (tmp_path / "route").write_text(
        "Iface\tDestination\tGateway\tFlags\neth0\t00000000\t0105A8C0\t0003\neth0\t0005A8C0\t00000000\t0001\n"
    )
    (tmp_path / "arp").write_text(
        "IP address HW type Flags HW address Mask Device\n192.168.5.9 0x1 0x2 02:00:00:00:00:09 * eth0\n"
        "192.168.5.1 0x1 0x2 02:00:00:00:00:aa * eth0\n"
    )
    assert gateway("eth0", tmp_path) == bytes.fromhex("0200000000aa")
    assert gateway("eth1", tmp_path) == b""
    assert gateway("eth0", tmp_path / "none") == b""


# -- what Prometheus gets ---------------------------------------------------------------------------

GOOD = Found(
    loaded="active",
    interfaces=["eth0"],
    attempts=[
        Attempt("udp", "192.0.2.1", "eth0", "refused", SOCKETS, 1),
        Attempt("frame", "192.0.2.1", "eth0", "refused", FRAMES, 2, "", 2),
    ],
    counters={"inet.egress_denied": Counter(7, 420).packets},
)


def test_the_metrics_are_ones_that_prometheus_takes() -> None:
    text = metrics(GOOD, records=9, written=True, now=1700000000.5)
    done = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr + done.stdout
    assert "appliance_egress_denied 1\n" in text
    assert "appliance_egress_last_proof_timestamp_seconds 1700000000.5\n" in text
    assert 'appliance_egress_attempts_counted{kind="frame"} 2\n' in text
    assert 'appliance_egress_door_packets{door="inet.egress_denied"} 7\n' in text
    bad = metrics(replace(GOOD, faults=["x"], restored=True, loaded="none"), records=9, written=False, now=1)
    for line in ("denied 0", "rules_as_recorded 0", "rules_restored 1", "evidence_written 0"):
        assert f"appliance_egress_{line}\n" in bad


def test_the_alarms_ring_when_they_should(tmp_path: Path) -> None:
    names = ("denied", "rules_as_recorded", "evidence_written")
    quiet = [{"series": f'appliance_egress_{n}{{instance="n"}}', "values": "1x60"} for n in names]
    quiet.append({"series": 'appliance_egress_evidence_records{instance="n"}', "values": "1+1x60"})
    stamps = {"series": 'appliance_egress_last_proof_timestamp_seconds{instance="n"}', "values": "0+60x60"}
    cases = [
        ({}, []),
        ({"denied": "1x4 0x60"}, ["ApplianceEgressNotDenied"]),
        ({"rules_as_recorded": "1 0 1x60"}, ["ApplianceEgressRulesChanged"]),
        ({"evidence_written": "0x60"}, ["ApplianceEgressEvidenceNotWritten"]),
        ({"evidence_records": "9 10 7 8x60"}, ["ApplianceEgressEvidenceShrank"]),
        ({"last_proof_timestamp_seconds": "0x60"}, ["ApplianceEgressProofLate"]),
    ]
    known = [rule["alert"] for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    tests = []
    for changed, ringing in cases:
        series = {s["series"].split("{")[0].removeprefix("appliance_egress_"): dict(s) for s in (*quiet, stamps)}
        for name, values in changed.items():
            series[name]["values"] = values
        tests.append({
            "interval": "1m", "input_series": list(series.values()),
            "alert_rule_test": [
                {"eval_time": "20m", "alertname": alert, "exp_alerts": _expected(alert) if alert in ringing else []}
                for alert in known
            ],
        })  # fmt: skip
    (tmp_path / "tests.yml").write_text(json.dumps({"rule_files": [str(ALERTS)], "tests": tests}))
    done = subprocess.run(["promtool", "test", "rules", str(tmp_path / "tests.yml")], capture_output=True, text=True, check=False)  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def _expected(alert: str) -> list[dict[str, object]]:
    rule = next(
        rule
        for group in yaml.safe_load(ALERTS.read_text())["groups"]
        for rule in group["rules"]
        if rule["alert"] == alert
    )
    texts = {k: v.replace("{{ $labels.instance }}", "n") for k, v in rule["annotations"].items()}
    return [{"exp_labels": {"instance": "n", **rule["labels"]}, "exp_annotations": texts}]


# -- its settings -----------------------------------------------------------------------------------


def test_settings_are_the_role_s_and_nothing_else(tmp_path: Path) -> None:
    file = tmp_path / "egress.json"
    assert settings(file) == Settings()
    file.write_text('{"targets": ["192.0.2.9"], "restore": false}')
    assert settings(file) == Settings(targets=("192.0.2.9",), restore=False)
    for text in ('{"target": 1}', "[]", "{"):
        file.write_text(text)
        with pytest.raises(InputError):
            settings(file)
