"""The firewall against a real kernel: each test body runs as root of a network namespace of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

RULES = '''
def inet(*accept):
    return """table inet appliance
delete table inet appliance
table inet appliance {
    counter egress_denied { }
    chain output {
        type filter hook output priority filter; policy drop;
        oifname "lo" accept
        %s
        counter name egress_denied reject with icmpx admin-prohibited
    }
}
""" % chr(10).join(accept)

def netdev(*accept, devices=("wan",)):
    hooks = chr(10).join(
        'chain egress_%d { type filter hook egress device "%s" priority filter; policy drop; jump outward; }' % (n, name)
        for n, name in enumerate(devices))
    return """table netdev appliance
delete table netdev appliance
table netdev appliance {
    counter frame_denied_other { }
    %s
    chain outward {
        %s
        counter name frame_denied_other drop
    }
}
""" % (hooks, chr(10).join(accept))

class Switch:
    """A timer whose moment the test chooses."""
    armed = None
    def arm(self, unit, argv, after_s): self.armed = (unit, argv)
    def disarm(self, unit): self.armed = None
    def fire(self):
        unit, argv = self.armed
        self.armed = None
        subprocess.run(argv, check=True)

def ruleset():
    return subprocess.run(["nft", "-s", "list", "ruleset"], check=True, capture_output=True, text=True).stdout
'''

PROLOGUE = """
import json, shutil, subprocess, sys
from pathlib import Path
from engine import egress, nft
from engine.errors import ApplianceError, InputError
from engine.firewall import Firewall
from engine.firewall_record import Places
from engine.firewall_rules import Rules
subprocess.run("ip link set lo up && ip link add wan type veth peer name far && ip addr add 10.9.0.2/24 dev wan"
               " && ip link set wan up && ip link set far up", shell=True, check=True)
home = Path(sys.argv[1])
switch = Switch()
def firewall():
    return Firewall(Places(home / "etc", home / "state", home / "run"), timer=switch)
old = Rules(inet("tcp dport 1 accept"), netdev("tcp dport 1 accept"), inet("tcp dport 22 accept"), netdev("tcp dport 22 accept"))
new = Rules(inet("tcp dport 2 accept"), netdev("tcp dport 2 accept"), old.closed_inet, old.closed_netdev)
"""


def in_namespace(body: str, tmp_path: Path) -> str:
    """Run Python source in a fresh network namespace and return what it printed."""
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-c", RULES + PROLOGUE + body, str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_unconfirmed_first_apply_leaves_no_table_behind(tmp_path: Path) -> None:
    in_namespace(
        """
assert firewall().apply(old, confirm_within_s=60).changed
assert "dport 1 accept" in ruleset() and firewall().status()["loaded"] == "candidate"
switch.fire()
assert ruleset() == "", ruleset()
assert firewall().status()["loaded"] == "none"
""",
        tmp_path,
    )


def test_the_timer_puts_back_exactly_the_rules_from_before_and_the_next_run_says_so(tmp_path: Path) -> None:
    in_namespace(
        """
firewall().apply(old, confirm_within_s=60); firewall().confirm()
before = firewall().kernel.digest()
firewall().apply(new, confirm_within_s=60)
assert firewall().kernel.digest() != before
switch.fire()
assert firewall().kernel.digest() == before
assert firewall().status()["loaded"] == "active"
try:
    firewall().confirm()
except ApplianceError as error:
    assert "not confirmed within 60 s" in str(error), error
else:
    raise SystemExit("confirmed after the rollback")
assert firewall().status()["active"] == old.digest
""",
        tmp_path,
    )


def test_confirmed_rules_survive_and_applying_them_again_changes_nothing(tmp_path: Path) -> None:
    in_namespace(
        """
firewall().apply(old, confirm_within_s=60)
assert firewall().confirm() == old.digest and switch.armed is None
seen = ruleset()
assert not firewall().apply(old, confirm_within_s=60).changed and switch.armed is None
assert ruleset() == seen
""",
        tmp_path,
    )


def test_a_rule_edited_by_hand_is_seen_and_put_right(tmp_path: Path) -> None:
    in_namespace(
        """
firewall().apply(old, confirm_within_s=60); firewall().confirm()
subprocess.run(["nft", "insert", "rule", "inet", "appliance", "output", "accept"], check=True)
assert firewall().status()["loaded"] == "foreign"
assert firewall().check(old)
assert firewall().apply(old, confirm_within_s=60).changed
firewall().confirm()
assert firewall().status()["loaded"] == "active" and "dport 1 accept" in ruleset()
""",
        tmp_path,
    )


def test_somebody_elses_table_is_never_touched(tmp_path: Path) -> None:
    in_namespace(
        """
theirs = "table ip theirs {\\nchain c {\\ntcp dport 7 accept\\n}\\n}\\n"
subprocess.run(["nft", "-f", "-"], input=theirs, text=True, check=True)
for step in (lambda: firewall().apply(old, confirm_within_s=60), lambda: firewall().confirm(),
             lambda: firewall().apply(new, confirm_within_s=60), lambda: switch.fire(), lambda: firewall().load()):
    step()
    assert "table ip theirs" in ruleset() and "dport 7" in ruleset()
for text in ("flush ruleset\\n", "table ip theirs { }\\n", "delete table ip theirs\\n"):
    bad = Rules(text + old.inet, old.netdev, old.closed_inet, old.closed_netdev)
    try:
        firewall().apply(bad, confirm_within_s=60)
    except InputError as error:
        assert "only the tables" in str(error), error
    else:
        raise SystemExit("accepted: " + text)
assert "table ip theirs" in ruleset()
""",
        tmp_path,
    )


def test_a_text_the_kernel_refuses_changes_nothing_and_arms_nothing(tmp_path: Path) -> None:
    in_namespace(
        """
firewall().apply(old, confirm_within_s=60); firewall().confirm()
seen = ruleset()
for bad in (Rules(inet("tcp dport banana accept"), old.netdev, old.closed_inet, old.closed_netdev),
            Rules(old.inet, old.netdev, old.closed_inet, netdev("ct state new accept; bogus")),
            Rules(old.inet, netdev(devices=("wan", "gone")), old.closed_inet, old.closed_netdev)):
    try:
        firewall().apply(bad, confirm_within_s=60)
    except InputError:
        pass
    else:
        raise SystemExit("accepted")
    assert ruleset() == seen and switch.armed is None and firewall().status()["loaded"] == "active"
""",
        tmp_path,
    )


def test_a_damaged_rule_file_closes_the_node_at_boot(tmp_path: Path) -> None:
    in_namespace(
        """
firewall().apply(old, confirm_within_s=60); firewall().confirm()
path = home / "etc" / "active" / "inet.nft"
for damage in (b"", path.read_bytes()[:-9], path.read_bytes().replace(b"dport 1 ", b"dport 3 "), b"\\xff\\xfe"):
    path.write_bytes(damage)
    try:
        firewall().load()
    except ApplianceError as error:
        assert "closed but for management" in str(error)
    else:
        raise SystemExit("loaded damaged rules")
    assert "dport 22 accept" in ruleset() and "dport 1 accept" not in ruleset() and "dport 3" not in ruleset()
    assert ruleset().count("policy drop") == 2
    assert firewall().status()["loaded"] == "closed"
# And the next apply of the same policy mends the file.
assert firewall().apply(old, confirm_within_s=60).changed
firewall().confirm(); firewall().load()
assert firewall().status()["loaded"] == "active"
""",
        tmp_path,
    )


def test_with_every_file_damaged_what_is_loaded_stays(tmp_path: Path) -> None:
    in_namespace(
        """
firewall().apply(old, confirm_within_s=60); firewall().confirm()
seen = ruleset()
for path in (home / "etc" / "active").iterdir():
    path.write_text("table inet appliance {")
try:
    firewall().load()
except ApplianceError:
    pass
else:
    raise SystemExit("loaded")
assert ruleset() == seen
""",
        tmp_path,
    )


def test_a_restart_before_the_confirmation_boots_the_previous_rules(tmp_path: Path) -> None:
    in_namespace(
        """
firewall().apply(old, confirm_within_s=60); firewall().confirm()
firewall().apply(new, confirm_within_s=60)
subprocess.run(["nft", "flush", "ruleset"], check=True)  # what a restart does to the kernel, to /run and to timers
shutil.rmtree(home / "run")
firewall().load()
found = firewall().status()
assert found["loaded"] == "active" and found["active"] == old.digest and found["pending"] is None
assert "restarted before" in found["last"]["outcome"], found
""",
        tmp_path,
    )


def test_an_interface_that_is_missing_at_boot_leaves_the_others_shut(tmp_path: Path) -> None:
    in_namespace(
        """
subprocess.run("ip link add extra type veth peer name beyond", shell=True, check=True)
both = Rules(old.inet, netdev(devices=("wan", "extra")), old.closed_inet, old.closed_netdev)
firewall().apply(both, confirm_within_s=60); firewall().confirm()
subprocess.run("nft flush ruleset; ip link del extra", shell=True, check=True)
try:
    firewall().load()
except ApplianceError as error:
    assert "no interface extra" in str(error)
else:
    raise SystemExit("did not say that an interface is missing")
assert 'device "wan"' in ruleset() and "hook output" in ruleset()
assert nft.devices(nft.without_devices(both.netdev, {"extra"})) == ["wan"]
nft.Nft().check(nft.without_devices(both.netdev, {"extra"}))
""",
        tmp_path,
    )


def test_the_interface_that_is_up_and_unguarded_is_named(tmp_path: Path) -> None:
    in_namespace(
        """
firewall().apply(old, confirm_within_s=60); firewall().confirm()
assert firewall().status()["interfaces"] == ["wan"] and firewall().status()["unguarded"] == ["far"]
""",
        tmp_path,
    )


def test_the_probe_proves_both_doors_and_names_them(tmp_path: Path) -> None:
    out = in_namespace(
        """
firewall().apply(old, confirm_within_s=60); firewall().confirm()
assert egress.main([]) == 0
""",
        tmp_path,
    )
    found = json.loads(out)
    assert found["shut"] is True
    kinds = {(a["kind"], a["hook"]) for a in found["attempts"] if a["outcome"] == "refused"}
    assert kinds == {
        ("tcp", "inet output"),
        ("udp", "inet output"),
        ("icmp", "inet output"),
        ("frame", "netdev egress"),
    }
    assert all(a["denied"] for a in found["attempts"])
    assert all(a["counted"] >= 2 for a in found["attempts"] if a["kind"] == "frame")


@pytest.mark.parametrize(
    ("hole", "kind"),
    [
        ('Rules(inet("accept"), netdev("accept"), old.closed_inet, old.closed_netdev)', "udp"),
        ("Rules(old.inet, netdev('accept'), old.closed_inet, old.closed_netdev)", "frame"),
        ("Rules(old.inet, netdev('ether type 0x88b5 accept'), old.closed_inet, old.closed_netdev)", "frame"),
        (
            "Rules(inet('meta l4proto udp accept'), netdev('meta l4proto udp accept'), old.closed_inet, old.closed_netdev)",
            "udp",
        ),
    ],
)
def test_the_probe_finds_a_door_left_open(hole: str, kind: str, tmp_path: Path) -> None:
    out = in_namespace(
        f"""
firewall().apply({hole}, confirm_within_s=60); firewall().confirm()
assert egress.main(["192.0.2.1", "--timeout", "0.3"]) == 1
""",
        tmp_path,
    )
    found = json.loads(out)
    assert found["shut"] is False
    assert any(a["outcome"] == "sent" for a in found["attempts"] if a["kind"] == kind)


def test_the_probe_sends_nothing_while_no_rules_are_loaded(tmp_path: Path) -> None:
    in_namespace(
        """
# Without it the kernel itself sends a few frames for IPv6 on new interfaces, whenever it likes.
Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").write_text("1")
before = Path("/proc/net/dev").read_text()
assert egress.main([]) == 1
assert Path("/proc/net/dev").read_text() == before
""",
        tmp_path,
    )
