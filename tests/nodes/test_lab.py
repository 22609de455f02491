"""Labs boot, keep to themselves, and leave nothing behind, however they end."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from engine.errors import InputError, NodeError
from engine.process import run
from installer.cli.lab import app
from installer.cli.screen import Screen
from installer.lab import rootfs
from installer.lab.lab import Lab, down, labs, sweep, up
from installer.lab.plan import names_of
from tests.nodes.traces import traces

pytestmark = pytest.mark.nodes
TREE = Path(__file__).resolve().parents[2]
HOST_LOADER = "/host/usr/lib64/ld-linux-x86-64.so.2 --library-path /host/usr/lib/x86_64-linux-gnu"


def on(lab: Lab, number: int, script: str, *, ok: tuple[int, ...] = (0,)) -> str:
    """What a bash script prints on a node."""
    command = shlex.join(["bash", "-c", script])
    return run([*lab.ssh(lab.nodes[number - 1].address), command], ok=ok, timeout_s=300).stdout.strip()


def reaches(lab: Lab, number: int, address: str, port: int) -> bool:
    """Whether a node gets a connection within two seconds."""
    return on(lab, number, f"timeout 2 bash -c '</dev/tcp/{address}/{port}' && echo yes", ok=(0, 1, 124)) == "yes"


def dropped(lab: Lab, chain: str) -> int:
    """Packets that the drop rules of a chain counted."""
    listing = json.loads(run(["nft", "--json", "list", "chain", "inet", names_of(lab.name).table, chain]).stdout)
    rules = [item["rule"]["expr"] for item in listing["nftables"] if "rule" in item]
    counted: list[int] = [e["counter"]["packets"] for expr in rules for e in expr if "counter" in e]
    return sum(counted)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """Two nodes with a path of this host bound into them."""
    shared = tmp_path_factory.mktemp("shared")
    (shared / "file").write_text("from the host\n")
    lab = up(
        f"test-{secrets.token_hex(3)}",
        nodes=2,
        bind_ro=[f"{shared}:/srv/shared", "/usr:/host/usr"],
        owner_pid=os.getpid(),
    )
    yield lab
    down(lab.name)


@pytest.fixture(scope="module")
def listener() -> Iterator[int]:
    """A port that accepts connections on every address of this host."""
    with socket.create_server(("0.0.0.0", 0)) as server:  # noqa: S104 - which address nodes reach is the question

        def serve() -> None:
            try:
                while True:
                    server.accept()[0].close()
            except OSError:
                return

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)


def test_nodes_are_whole_machines_with_their_own_identity(pair: Lab) -> None:
    said = [on(pair, n, "systemctl is-system-running; hostname; cat /etc/machine-id").split() for n in (1, 2)]
    assert [s[0] for s in said] == ["running", "running"]
    assert [s[1] for s in said] == [f"{pair.name}-1", f"{pair.name}-2"]
    assert said[0][2] != said[1][2]
    keys = {line.split()[2] for line in pair.known_hosts.read_text().splitlines()}
    assert len(keys) == 2
    assert pair.key.stat().st_mode & 0o777 == 0o600


def test_what_one_node_writes_no_other_sees(pair: Lab) -> None:
    on(pair, 1, "echo mine > /etc/mine")
    assert on(pair, 2, "test -e /etc/mine || echo absent") == "absent"


def test_services_of_the_same_name_do_not_share_control_groups(pair: Lab) -> None:
    on(pair, 1, "systemd-run --unit=same sleep 300")
    assert on(pair, 2, "systemctl is-active same.service", ok=(0, 3, 4)) == "inactive"
    on(pair, 2, "systemd-run --unit=same sleep 300 && systemctl stop same")
    assert on(pair, 1, "systemctl is-active same.service") == "active"


def test_a_node_may_reboot_and_may_be_shut_down(name: str) -> None:
    lab = up(name, owner_pid=os.getpid())
    on(lab, 1, "touch /etc/kept /run/lost")
    deadline = time.monotonic() + 300
    on(lab, 1, "systemctl reboot", ok=(0, 255))
    said = ""
    while said != "running kept" and time.monotonic() < deadline:
        question = "test -e /run/lost || echo $(systemctl is-system-running --wait) $(cd /etc; ls kept)"
        said = on(lab, 1, question, ok=(0, 1, 255))
    assert said == "running kept"
    assert (lab, True) in labs()

    on(lab, 1, "systemctl poweroff", ok=(0, 255))
    while (lab, True) in labs() and time.monotonic() < deadline:
        pass
    assert (lab, False) in labs()
    assert down(name)
    assert traces(name) == set()


def test_a_bound_path_is_visible_and_read_only(pair: Lab) -> None:
    assert on(pair, 2, "cat /srv/shared/file") == "from the host"
    assert "Read-only file system" in on(
        pair, 2, "echo x > /srv/shared/file 2>&1 || true; touch /srv/shared/y 2>&1 || true"
    )


def test_nodes_reach_each_other_and_one_address_of_this_host(pair: Lab, listener: int) -> None:
    assert reaches(pair, 1, pair.nodes[1].address, 22)
    assert reaches(pair, 1, pair.host_address, listener)
    assert reaches(pair, 2, pair.host_address, listener)


def test_nodes_reach_no_other_address_of_this_host_or_beyond(pair: Lab, name: str, listener: int) -> None:
    """The rules of each lab alone do it: without any, and with forwarding on, the same packets pass."""
    other = up(name, owner_pid=os.getpid())
    for lab in (pair, other):  # of these two bridges alone: nothing else on this host forwards because of this test
        Path(f"/proc/sys/net/ipv4/conf/{lab.bridge}/forwarding").write_text("1\n")

    assert not reaches(pair, 1, other.host_address, listener)
    assert dropped(pair, "input") > 0
    assert not reaches(pair, 1, other.nodes[0].address, 22)
    assert dropped(pair, "forward") + dropped(other, "forward") > 0

    run(["nft", "flush", "table", "inet", names_of(other.name).table])
    before = dropped(pair, "forward")
    assert not reaches(pair, 1, other.nodes[0].address, 22)
    assert not reaches(other, 1, pair.nodes[0].address, 22)
    assert dropped(pair, "forward") > before

    run(["nft", "flush", "table", "inet", names_of(pair.name).table])
    assert reaches(pair, 1, other.host_address, listener)
    assert reaches(pair, 1, other.nodes[0].address, 22)

    run(["nft", "delete", "table", "inet", names_of(other.name).table])
    assert down(other.name)  # also without its table
    assert traces(other.name) == set()


def test_both_firewall_hooks_work_inside_a_node(pair: Lab) -> None:
    rules = """
table netdev shut {
  chain out {
    type filter hook egress device "host0" priority 0; policy accept;
    ip daddr 10.87.255.1 counter drop
  }
}
table inet shut {
  chain out {
    type filter hook output priority 0; policy accept;
    ip daddr 10.87.255.2 counter drop
  }
}
"""
    nft = f"{HOST_LOADER} /host/usr/sbin/nft"  # this host's program with the node's rights
    on(pair, 2, f"{nft} -f - <<'RULES'\n{rules}RULES")
    for address in ("10.87.255.1", "10.87.255.2"):
        assert not reaches(pair, 2, address, 9)
    listing = json.loads(on(pair, 2, f"{nft} --json list ruleset"))["nftables"]
    tables = {
        i["rule"]["family"]: e["counter"] for i in listing if "rule" in i for e in i["rule"]["expr"] if "counter" in e
    }
    assert set(tables) == {"netdev", "inet"}
    assert all(counter["packets"] > 0 for counter in tables.values())


def test_sandboxed_units_start_inside_a_node_and_are_held(pair: Lab) -> None:
    sandbox = (
        "ProtectSystem=strict ProtectHome=yes PrivateTmp=yes PrivateDevices=yes ProtectKernelTunables=yes "
        "ProtectControlGroups=yes RestrictNamespaces=yes MemoryDenyWriteExecute=yes SystemCallFilter=@system-service "
        "NoNewPrivileges=yes CapabilityBoundingSet= RestrictAddressFamilies=AF_UNIX User=nobody MemoryMax=100M"
    )
    options = " ".join(f"-p {shlex.quote(o)}" for o in sandbox.split())
    unit = f"systemd-run --quiet --wait --pipe {options} "
    assert on(pair, 1, unit + "id -un") == "nobody"
    assert "Read-only file system" in on(pair, 1, unit + "touch /etc/x 2>&1 || true")
    held = "systemd-run --quiet --wait --pipe -p RestrictNamespaces=yes -p MemoryDenyWriteExecute=yes "
    assert "Operation not permitted" in on(pair, 1, held + "unshare --user true 2>&1 || true")
    executable = "import mmap; mmap.mmap(-1, 4096, prot=7)"
    assert on(pair, 1, f"python3 -c '{executable}' && echo allowed") == "allowed"
    assert "PermissionError" in on(pair, 1, held + f"python3 -c '{executable}' 2>&1 || true")


def test_a_name_that_is_up_is_refused_and_the_lab_stays(pair: Lab) -> None:
    with pytest.raises(InputError, match="already up") as refused:
        up(pair.name)
    assert f"lab down {pair.name}" in refused.value.remedy
    assert on(pair, 1, "echo still here") == "still here"


def test_a_missing_bind_or_dead_owner_is_refused_before_anything_is_made(name: str) -> None:
    with pytest.raises(InputError, match="does not exist"):
        up(name, bind_ro=["/no/such/path:/x"])
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with pytest.raises(InputError, match="does not run"):
        up(name, owner_pid=ended.pid)
    assert traces(name) == set()


def test_a_node_that_cannot_boot_is_named_and_nothing_stays(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for directory in ("etc/ssh", "etc/systemd/network", "root"):
        (tmp_path / directory).mkdir(parents=True)
    monkeypatch.setattr(rootfs, "ensure", lambda _release, _report: tmp_path)  # a root without an init
    with pytest.raises(NodeError, match="ended while it booted") as failed:
        up(name, owner_pid=os.getpid())
    assert failed.value.where == f"{name}-1"
    assert traces(name) == set()


def test_sweep_spares_a_lab_whose_owner_lives(pair: Lab) -> None:
    assert pair.name not in sweep()
    assert on(pair, 1, "echo still here") == "still here"


def test_two_callers_of_one_name_get_one_lab(name: str) -> None:
    results: list[object] = []

    def call() -> None:
        try:
            results.append(up(name, owner_pid=os.getpid()))
        except InputError as error:
            results.append(error)

    threads = [threading.Thread(target=call) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(type(r).__name__ for r in results) == ["InputError", "Lab"]
    assert down(name)
    assert traces(name) == set()


def test_the_command_makes_shows_uses_and_removes_a_lab(name: str) -> None:
    def lab(*arguments: str) -> str:
        done = CliRunner().invoke(app, list(arguments), obj=Screen(json_output=True), catch_exceptions=False)
        assert done.exit_code == 0
        return done.stdout

    made = json.loads(lab("up", name, "--nodes", "1", "--bind-ro", f"{TREE}/engine:/srv/engine"))
    assert set(made) == {"name", "bridge", "host_address", "prefix", "key", "known_hosts", "nodes"}
    assert made["nodes"] == [{"name": f"{name}-1", "address": made["prefix"].replace(".0/24", ".11")}]
    assert made in [{k: v for k, v in one.items() if k != "up"} for one in json.loads(lab("list"))["labs"]]
    code = "from installer.cli.lab import app; app()"
    script = ["bash", "-c", 'echo "$1"; test -d /srv/engine && exit 7', "-", "a b  c"]
    ran = subprocess.run(
        [sys.executable, "-c", code, "exec", f"{name}-1", "--", *script],
        cwd=TREE, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (ran.stdout, ran.returncode) == ("a b  c\n", 7)
    assert name not in json.loads(lab("sweep"))["down"]  # a command's lab has no owner: it stays
    assert json.loads(lab("down", name)) == {"down": [name]}
    assert json.loads(lab("down", name)) == {"down": []}
