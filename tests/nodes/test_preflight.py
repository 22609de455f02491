"""`appliance preflight` on real nodes: the facts are right, faults are named, and nothing changes."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine.process import run
from installer.lab.disk import root_of
from installer.lab.lab import Lab, down, up
from installer.lockfile import Lock
from tests import bundles

pytestmark = pytest.mark.nodes
TREE = Path(__file__).resolve().parents[2]
PORT = 7462
SUDOERS = "/etc/sudoers.d/deploy"
# What a login writes, whoever logs in and for whatever: accounting, the journal, and systemd's own files of the session.
LOGIN_FILES = ("/var/log/wtmp", "/var/log/lastlog", "/var/log/btmp", "/var/log/journal/")
LOGIN_RUNTIME = (
    r"^/(run/(systemd/(sessions|users|transient|units|inhibit|journal|propagate)|user|utmp|log|sudo)|dev/pts)(/|$)"
)


@dataclass
class Site:
    """A lab as a site, and a signed release for its nodes."""

    lab: Lab
    work: Path
    bundle: Path
    root: Path

    def on(self, number: int, script: str) -> str:
        command = shlex.join(["bash", "-c", script])
        return run([*self.lab.ssh(self.lab.nodes[number - 1].address), command], timeout_s=300).stdout.strip()

    def inventory(
        self, name: str, hosts: dict[str, str], *, users: dict[str, str] | None = None, **variables: str
    ) -> Path:
        """An inventory of these addresses, all of them gateway and gpu; ``users`` log in to some under another name."""
        where = self.work / name
        (where / "group_vars/all").mkdir(parents=True)
        known = {n: {"ansible_host": a} for n, a in hosts.items()}
        for host, user in (users or {}).items():
            known[host]["ansible_user"] = user
        login = {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.lab.key),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={self.lab.known_hosts}",
            **variables,
        }
        groups = {"vars": login, "children": {"gateway": {"hosts": known}, "gpu": {"hosts": known}}}
        (where / "hosts.yml").write_text(yaml.safe_dump({"all": groups}))
        site = yaml.safe_load((TREE / "inventories/demo/group_vars/all/site.yml").read_text())["appliance_site"]
        site["control"] = {"address": self.lab.host_address, "port": PORT}
        site["management_sources"] = [f"{self.lab.host_address}/32"]
        site["client_sources"] = [f"{self.lab.host_address}/32"]
        (where / "group_vars/all/site.yml").write_text(yaml.safe_dump({"appliance_site": site}))
        return where

    def preflight(self, inventory: Path) -> tuple[int, dict[str, Any]]:
        """Exit code, and the report by node. What must not be reachable are documentation addresses: nobody is there."""
        words = ["preflight", "-i", inventory, self.bundle, "--root", self.root, "--depot", self.work / "none"]
        outside = ["--outside", "192.0.2.1:53", "--outside", "[2001:db8::1]:53"]
        done = subprocess.run(
            [sys.executable, "-m", "installer", *map(str, words), *outside, "--json"],
            cwd=TREE, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        document = json.loads(done.stdout)
        assert "nodes" in document, document
        return done.returncode, {n["node"]: n for n in document["nodes"]}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    work = tmp_path_factory.mktemp("preflight")
    target = {"os": "debian-12", "python": "3.11"}
    definition = {"schema": 1, "name": "demo", "version": "1.0.0", "target": target}
    lock = Lock(name="demo", version="1.0.0", definition_sha256="0" * 64, artifacts=()).model_dump(by_alias=True)
    manifest = json.dumps({"definition": definition, "lock": lock})
    files = {
        "manifest.json": manifest.encode(),
        "models/tiny/config.json": b"{}",
        "models/tiny/model.safetensors": bytes(3 << 20),
    }
    bundle = bundles.make(work, files)
    (work / "root.json").write_bytes(bundle.root)
    lab = up(f"test-{secrets.token_hex(3)}", nodes=2, owner_pid=os.getpid())
    made = Site(lab, work, bundle.path, work / "root.json")
    made.on(2, "useradd --create-home deploy && cp -r /root/.ssh /home/deploy/ && chown -R deploy: /home/deploy/.ssh")
    made.on(2, f"echo 'deploy ALL=(root) NOPASSWD: /usr/bin/python3' > {SUDOERS} && chmod 440 {SUDOERS}")
    yield made
    down(lab.name)


def disk(site: Site, number: int) -> dict[str, str]:
    """Everything on a node's own disk as this host sees it, without logging in: kind, owner, mode, size, times, links."""
    upper = root_of(site.lab.name, site.lab.nodes[number - 1].name).parent / "upper"
    found = {}
    for path in upper.rglob("*"):
        name, stat = "/" + str(path.relative_to(upper)), path.lstat()
        if not name.startswith(LOGIN_FILES) and name != "/var/log":
            found[name] = (
                f"{stat.st_mode:o} {stat.st_uid}:{stat.st_gid} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns}"
            )
    return found


def running(site: Site, number: int) -> set[str]:
    """Files in memory, units, modules, sockets and processes, without those of the login that asks."""
    files = f"find /run /tmp /dev /var/tmp -printf '%p %y %m\\n' 2>/dev/null | grep -vE '{LOGIN_RUNTIME}'"
    units = "systemctl list-units --all --no-legend --plain | grep -vE '^(session-|user[@-]|run-user)' | awk '{print \"unit\", $1, $2, $3, $4}'"
    states = "systemctl list-unit-files --no-legend | grep -vE '^session-' | awk '{print \"file\", $1, $2}'"
    others = "cat /proc/modules | awk '{print \"module\", $1}'; ss -Hlntu | awk '{print \"socket\", $1, $5}'"
    processes = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline 2>/dev/null | grep -E 'python' ; done"
    return set(
        site.on(number, f"{{ {files}; {units}; {states}; {others}; {processes}; }} | sort -u; true").splitlines()
    )


def test_real_nodes_are_ready_with_the_right_facts_and_nothing_about_them_changes(site: Site) -> None:
    """The invariant: before and after, all files (with their times), units, modules, sockets and programs are the same."""
    one, two = (n.address for n in site.lab.nodes)
    hosts = {"alive": one, "sudoer": two, "dead": one.rsplit(".", 1)[0] + ".99"}
    inventory = site.inventory("good", hosts, users={"sudoer": "deploy"})
    running(site, 1), running(site, 2)  # the first login after boot starts what later ones find
    before = [(disk(site, n), running(site, n)) for n in (1, 2)]
    code, reports = site.preflight(inventory)
    assert [(disk(site, n), running(site, n)) for n in (1, 2)] == before

    site.on(1, "touch /usr/local/trace; touch /run/trace")
    assert "/usr/local/trace" in disk(site, 1).keys() - before[0][0].keys(), "a trace would have been seen"
    assert running(site, 1) - before[0][1] == {"/run/trace f 644"}

    report = reports["alive"]
    found, facts = {f["check"]: f for f in report["findings"]}, report["facts"]
    assert report["verdict"] == "ready", [f for f in report["findings"] if f["severity"] != "pass"]
    assert [f["check"] for f in report["findings"] if f["severity"] == "fail"] == []
    assert found["os"]["what"].startswith("Debian GNU/Linux 12")
    assert found["depot"]["what"] == f"the node reaches {site.lab.host_address}:{PORT}"
    assert found["outside"]["severity"] == "pass" and found["names"]["severity"] == "pass"
    assert found["gpus"]["what"] == "none, and none is needed"
    assert facts["troubles"] == {}
    assert facts["system"]["kernel"] == os.uname().release and facts["system"]["systemd"] and facts["system"]["root"]
    assert facts["network"]["own_name"] == site.lab.nodes[0].name
    assert found["clock-offset"]["severity"] == "pass", "a node of the lab has this host's clock"
    doors = [x for x in facts["network"]["listeners"] if x["port"] == 22]
    assert doors and {(x["process"], x["unit"]) for x in doors} == {("sshd", "ssh.service")}
    assert facts["storage"]["lacking_bytes"] == 3 << 20
    assert facts["storage"]["disk"]["fsync_p50_ms"] > 0 and facts["storage"]["disk"]["read_bytes_per_s"] > 0
    assert facts["nvml"]["error"] == "LIBRARY_NOT_FOUND"

    sudoer = reports["sudoer"]
    assert sudoer["verdict"] == "ready" and sudoer["facts"]["system"]["root"], "root by sudo, without a password"

    dead = reports["dead"]
    assert (code, dead["verdict"], dead["facts"]) == (1, "fixable", None)
    assert "cannot be reached over SSH" in dead["findings"][0]["what"]


def test_a_node_with_a_lease_is_named_until_the_site_lets_it_renew(site: Site) -> None:
    """systemd-networkd on both sides: node 1 gives leases, node 2 takes one beside its static address."""
    server, client = site.lab.nodes[0], site.lab.nodes[1]
    drop = "/etc/systemd/network/10-host0.network.d"
    serve = "[Network]\nDHCPServer=yes\n[DHCPServer]\nPoolOffset=100\nPoolSize=20\nEmitDNS=no\nEmitRouter=no\nDefaultLeaseTimeSec=3600\n"
    ask = "[Network]\nDHCP=ipv4\n[DHCPv4]\nUseDNS=no\nUseRoutes=no\n"
    for number, text in ((1, serve), (2, ask)):
        site.on(number, f"mkdir -p {drop} && printf %s {shlex.quote(text)} > {drop}/lease.conf && networkctl reload")
    try:
        # The deadline is the client's own way of asking again; the condition is that the kernel has the address.
        leased = site.on(
            2,
            "timeout 120 sh -c 'until ip -4 -o address show dev host0 dynamic | grep -o \"inet [0-9.]*\"; do sleep 0.2; done'",
        )
        address = leased.split()[1]
        inventory = site.inventory("leased", {"leased": client.address})
        code, reports = site.preflight(inventory)
        found = [x for x in reports["leased"]["findings"] if x["check"] == "leases"]
        assert code != 0 and [x["severity"] for x in found] == ["fail"], reports["leased"]["findings"]
        assert f"host0 has {address} " in found[0]["what"] and f"DHCP from {server.address}" in found[0]["what"]
        assert f"destinations: [{server.address}, 255.255.255.255], ports: [67], protocol: udp" in found[0]["remedy"]

        file = inventory / "group_vars/all/site.yml"
        document = yaml.safe_load(file.read_text())
        flow = {"name": "dhcp", "destinations": [server.address, "255.255.255.255"], "ports": [67], "protocol": "udp"}
        document["appliance_site"]["egress"] = [flow]
        file.write_text(yaml.safe_dump(document))
        _, reports = site.preflight(inventory)
        assert not [x for x in reports["leased"]["findings"] if (x["check"], x["severity"]) == ("leases", "fail")]
    finally:
        for number in (1, 2):
            site.on(number, f"rm -r {drop} && networkctl reload")


def test_faults_of_nodes_are_named_with_their_remedy(site: Site) -> None:
    one, two = site.lab.nodes
    site.on(1, "systemd-run --unit=squatter python3 -m http.server 8443")
    site.on(1, "mkdir -p /var/lib/appliance && mount -t tmpfs -o size=64m tmpfs /var/lib/appliance")
    site.on(2, "for f in /usr/bin/python3*; do mv $f /usr/lib/hidden-$(basename $f); done")
    inventory = site.inventory("bad", {"crowded": one.address, "bare": two.address})
    code, reports = site.preflight(inventory)
    failed = {f["check"]: f for f in reports["crowded"]["findings"] if f["severity"] == "fail"}
    assert failed.keys() == {"ports", "space"} and code == 1
    assert "squatter.service" in failed["ports"]["what"] and "8443" in failed["ports"]["what"]
    assert "/var/lib/appliance has" in failed["space"]["what"] and "mount a larger disk" in failed["space"]["remedy"]
    bare = reports["bare"]["findings"]
    assert [f["check"] for f in bare] == ["ssh"]
    assert "has no Python" in bare[0]["what"] and "Install the package python3" in bare[0]["remedy"]


def test_a_strange_host_key_stops_before_anything_is_sent(site: Site) -> None:
    """Also where the inventory would accept it, and this host's own list of keys stays as it is."""
    known = site.work / "empty"
    known.write_text("")
    loose = f"-o UserKnownHostsFile={known} -o StrictHostKeyChecking=accept-new"
    inventory = site.inventory("imposter", {"imposter": site.lab.nodes[1].address}, ansible_ssh_common_args=loose)
    code, reports = site.preflight(inventory)
    assert code == 1 and "host key" in reports["imposter"]["findings"][0]["what"]
    assert known.read_text() == ""


def test_a_user_who_cannot_become_root_is_named(site: Site) -> None:
    site.on(2, f"rm {SUDOERS}")
    inventory = site.inventory("powerless", {"powerless": site.lab.nodes[1].address}, users={"powerless": "deploy"})
    code, reports = site.preflight(inventory)
    assert code == 1 and "NOPASSWD" in reports["powerless"]["findings"][0]["remedy"]
