"""What the containers of the node are, may and may not; asked over SSH and over the network, as users and attackers would."""

from __future__ import annotations

import http.client
import json
import os
import shlex
import socket
import subprocess
import time
import urllib.error
import urllib.request

import pytest

from tests.integration.registry import Layout, serve

NODE = json.loads(os.environ["NODE"])


def on(script: str, *, ok: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*NODE["ssh"], shlex.join(["bash", "-c", script])], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0 or not ok, done.stderr
    return done


def get(port: int, path: str = "") -> str:
    """As on the node itself; a container that was just started may still be on its way."""
    return on(
        f"for n in $(seq 50); do python3 -c \"import urllib.request as r; print(r.urlopen('http://127.0.0.1:{port}/{path}', timeout=5).read().decode())\" 2>/dev/null && exit 0; sleep 0.1; done; exit 1"
    ).stdout.strip()


def inspect(name: str) -> dict:
    return json.loads(on(f"podman inspect appliance-{name}").stdout)[0]


def process(name: str) -> str:
    return str(inspect(name)["State"]["Pid"])


def test_a_container_answers_through_the_network_with_what_the_site_gave_it():
    for _ in range(50):
        try:
            with urllib.request.urlopen(f"http://{NODE['address']}:8085/", timeout=5) as answer:
                assert answer.read().decode().strip() == '50 % of $HOME is "mine"'
                return
        except (urllib.error.URLError, http.client.HTTPException, OSError):
            time.sleep(0.1)
    pytest.fail("no answer")


def test_a_port_without_an_address_is_for_the_node_alone():
    assert "NVIDIA_DOUBLE" in get(8086)
    with pytest.raises(OSError):
        socket.create_connection((NODE["address"], 8086), 5).close()


def test_every_container_runs_the_digest_that_was_locked():
    for name, image in (("web", "web"), ("gpu", "web"), ("gone", "other")):
        assert inspect(name)["ImageName"] == f"localhost/{image}@{NODE['digests'][image]}"
        assert inspect(name)["ImageDigest"] == NODE["digests"][image]


@pytest.mark.parametrize("name", ["web", "gpu", "gone"])
def test_a_container_has_no_rights(name):
    status = dict(
        line.split(":\t", 1) for line in on(f"cat /proc/{process(name)}/status").stdout.splitlines() if ":\t" in line
    )
    assert {int(status[c], 16) for c in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2", "podman's own profile filters system calls"
    wanted = "4242" if name == "gone" else "65532"
    assert status["Uid"].split() == [wanted] * 4 and status["Gid"].split() == [wanted] * 4
    config = inspect(name)["HostConfig"]
    assert config["ReadonlyRootfs"] is True and config["Privileged"] is False
    assert config["LogConfig"]["Type"] == "journald"


def test_nothing_can_be_written_but_its_own_directory_and_tmp():
    inside = (
        "/bin/busybox sh -c 'for d in / /bin /papers /data /tmp; do echo x > $d/probe && echo $d; done' 2>/dev/null"
    )
    assert on(f"podman exec appliance-web {inside}").stdout.split() == ["/data", "/tmp"]
    assert (
        on("cat /var/lib/appliance-containers/web-data/probe; rm /var/lib/appliance-containers/web-data/probe").stdout
        == "x\n"
    )
    assert on("podman exec appliance-web /bin/busybox cat /papers/paper").stdout == "a paper\n"
    assert on("stat -c '%u:%g %a' /var/lib/appliance-containers/web-data").stdout == "65532:65532 700\n"


def test_a_container_has_a_loopback_and_no_other_way_out():
    links = on(f"nsenter --net --target {process('web')} ip -json link").stdout
    assert [link["ifname"] for link in json.loads(links)] == ["lo"]
    out = on(
        f"nsenter --net --target {process('web')} python3 -c \"import socket; socket.create_connection(('{NODE['control']}', 22), 5)\"",
        ok=False,
    )
    assert "Network is unreachable" in out.stderr


def test_limits_are_those_of_the_unit_that_holds_every_process():
    shown = on(
        "systemctl show -p MemoryMax -p MemorySwapMax -p TasksMax -p DevicePolicy -p LogRateLimitBurst appliance-container-gone"
    ).stdout
    assert set(shown.split()) == {
        "MemoryMax=33554432",
        "MemorySwapMax=0",
        "TasksMax=16",
        "DevicePolicy=closed",
        "LogRateLimitBurst=2000",
    }
    assert "appliance-container-gone.service" in on(f"cat /proc/{process('gone')}/cgroup").stdout


def test_only_the_container_that_asked_has_the_gpu():
    assert f"NVIDIA_DOUBLE=0 GPU-{'0' * 8}" in on(f"tr '\\0' '\\n' < /proc/{process('gpu')}/environ").stdout
    assert "NVIDIA_DOUBLE" not in on(f"tr '\\0' '\\n' < /proc/{process('web')}/environ").stdout
    for unit in ("path", "service"):
        assert on(f"systemctl is-enabled nvidia-cdi-refresh.{unit}", ok=False).stdout.strip() == "masked"


def test_a_registry_that_would_serve_is_refused(tmp_path):
    """A real registry, reachable, with an image that podman understands."""
    layout = Layout(tmp_path / "layout")
    layout.image("strange", ["strange"])
    with serve(tmp_path / "registry", address=NODE["control"]) as registry:
        registry.push(layout, "strange", "strange:1")
        pulled = on(f"podman pull --tls-verify=false {registry.host}/strange:1", ok=False)
        assert pulled.returncode != 0 and "rejected by policy" in pulled.stderr
        ran = on(f"podman run --rm --network=none --cgroups=disabled {registry.host}/strange:1", ok=False)
        assert ran.returncode != 0
    assert "strange" not in on("podman images --all --format '{{.Repository}}'").stdout


def test_a_name_without_a_registry_means_nothing():
    said = on("podman pull alpine", ok=False)
    assert said.returncode != 0 and "short-name" in said.stderr


def test_what_a_container_says_is_in_the_journal():
    on("podman exec appliance-web /bin/busybox sh -c 'echo spoken > /proc/1/fd/1'")
    assert (
        "spoken"
        in on(
            "for n in $(seq 30); do journalctl --sync; journalctl CONTAINER_NAME=appliance-web -o cat | grep spoken && break; sleep 0.1; done"
        ).stdout
    )


def test_a_container_that_ends_is_started_again():
    before = process("gone")
    on(f"kill -9 {before}")
    on(
        f'for n in $(seq 100); do p=$(podman inspect -f \'{{{{.State.Pid}}}}\' appliance-gone 2>/dev/null); [ -n "$p" ] && [ "$p" != {before} ] && [ "$p" != 0 ] && exit 0; sleep 0.1; done; exit 1'
    )
    assert get(8088, "hello") == "this is other"
    assert process("gone") != before


def test_after_the_change_each_container_has_what_it_should():
    assert get(8085) == '50 % of $HOME is "mine"'
    said = get(8086)
    assert "NVIDIA_DOUBLE=0:0 MIG-11111111" in said and "GREETING=new" in said


def test_after_the_change_nothing_is_left_of_what_is_no_longer_listed():
    assert on("podman ps --all --format '{{.Names}}'").stdout.split().count("appliance-gone") == 0
    assert "appliance-gone" not in on("ip netns").stdout
    assert (
        on(
            "systemctl list-units --all --plain --no-legend 'appliance-container-gone*' 'appliance-port-8088*' 'appliance-container-network@gone*'"
        ).stdout.strip()
        == ""
    )
    with pytest.raises(AssertionError):
        on(
            "ls /etc/systemd/system/appliance-*gone* /etc/containers/systemd/appliance-*gone* /etc/systemd/system/appliance-port-8088.* /etc/appliance/containers/gone.env 2>/dev/null | grep ."
        )
