"""A small serving site for tests of day two: a gateway in front of one node with a double of a model, installed by the real roles.

`appliance install` brings engine, certificates, content and firewall from a real bundle; the role nginx follows in a playbook of
its own, because the product converges an edge only in front of a real model server, which takes minutes.
"""

from __future__ import annotations

import http.client
import json
import os
import shlex
import ssl
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from engine.process import run
from installer.lab.lab import Lab
from tests.demo import TREE, Demo

PORT = 8443
DOUBLE = TREE / "roles/nginx/molecule/default/files"
EDGE, MODEL = 0, 1  # positions of the two nodes


@dataclass
class Site:
    """The lab with its inventory; ``state`` holds the control host's own directories."""

    demo: Demo
    lab: Lab
    work: Path
    before: dict[str, str] = field(default_factory=dict)  # a node when it had nothing of ours
    first: dict[str, Any] = field(default_factory=dict)  # what the first install came to

    @property
    def inventory(self) -> Path:
        return self.work / "plant-7"

    @property
    def places(self) -> list[str | Path]:
        return [w for n in ("depot", "ca", "runs") for w in (f"--{n}", self.work / n)]

    def node(self, number: int) -> str:
        return self.lab.nodes[number].name

    def on(self, number: int, script: str, ok: tuple[int, ...] = (0,)) -> str:
        command = [*self.lab.ssh(self.lab.nodes[number].address), shlex.join(["bash", "-c", script])]
        return run(command, timeout_s=600, ok=ok).stdout

    def appliance(self, *words: str | Path, ok: tuple[int, ...] = (0,), stdin: str = "") -> Any:
        """The product's own command line; returns its JSON document."""
        done = subprocess.run(
            [sys.executable, "-m", "installer", *map(str, words), "--json"],
            cwd=TREE, env=self.demo.environment, input=stdin, capture_output=True, text=True, timeout=1500, check=False,
        )  # fmt: skip
        assert done.returncode in ok, (done.returncode, done.stdout[-3000:], done.stderr[-3000:])
        return json.loads(done.stdout)

    # -- making it ------------------------------------------------------------------------------
    def write(self) -> None:
        """The inventory. Both nodes are gateways to the product, so that neither fetches a model server's runtime."""
        hosts: dict[str, Any] = {n.name: {"ansible_host": n.address} for n in self.lab.nodes}
        hosts[self.node(MODEL)]["appliance_names"] = ["inference.appliance.internal"]
        login = {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.lab.key),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={self.lab.known_hosts}",
        }
        (self.inventory / "group_vars/all").mkdir(parents=True)
        text = yaml.safe_dump({"all": {"vars": login, "children": {"gateway": {"hosts": hosts}, "gpu": {"hosts": {}}}}})
        (self.inventory / "hosts.yml").write_text(text)
        site = {
            "control": {"address": self.lab.host_address, "port": 7471},
            "management_sources": [f"{self.lab.host_address}/32"],
            "client_sources": [self.lab.prefix],
            "egress": [{"name": "model", "destinations": [self.lab.nodes[MODEL].address], "ports": [PORT]}],
        }
        (self.inventory / "group_vars/all/site.yml").write_text(yaml.safe_dump({"appliance_site": site}))

    def install(self, *more: str) -> dict[str, Any]:
        words = [
            "install",
            "-i",
            self.inventory,
            *self.places,
            "--site-keys",
            self.work / "site",
            "--release",
            "demo-1.0.0",
            *more,
        ]
        outcome: dict[str, Any] = self.appliance(*words, ok=(0, 5))
        assert outcome["good"], outcome["failures"]
        return outcome

    def take_in(self) -> None:
        """The bundle into the depot, without a copy."""
        root = self.demo.keys / "root.json"
        self.appliance("import", "--link", "--root", root, "--depot", self.work / "depot", self.demo.bundle)

    def edges(self) -> None:
        """The role nginx on both nodes, and the double of a model."""
        address = self.lab.nodes[MODEL].address
        names = ["inventory_hostname", "ansible_host"]
        common: dict[str, Any] = {
            "appliance_nginx_port": PORT,
            "appliance_nginx_workers": 2,
            "appliance_nginx_requests_per_second": 10000,
        }
        common |= {"appliance_nginx_server_names": ["{{ " + n + " }}" for n in names]}
        upstreams = {
            self.node(EDGE): {"name": "tiny", "peers": [{"host": address, "port": PORT}]},
            self.node(MODEL): {"name": "tiny", "sockets": ["/run/appliance-vllm/tiny/api.sock"]},
        }
        unit = "[Service]\nType=exec\nUser=model-double\nGroup=appliance-serve\nRuntimeDirectory=appliance-vllm/tiny\n"
        unit += "RuntimeDirectoryMode=0750\nRuntimeDirectoryPreserve=yes\nEnvironment=NODE=double\n"
        unit += "ExecStart=/usr/bin/python3 /opt/model_double.py /run/appliance-vllm/tiny/api.sock\n"
        double = [
            {"ansible.builtin.group": {"name": "appliance-serve", "system": True}},
            {"ansible.builtin.user": {"name": "model-double", "system": True, "create_home": False}},
            {
                "ansible.builtin.copy": {
                    "src": str(DOUBLE / "model_double.py"),
                    "dest": "/opt/model_double.py",
                    "mode": "0644",
                }
            },
            {
                "ansible.builtin.copy": {
                    "content": unit,
                    "dest": "/etc/systemd/system/model-double.service",
                    "mode": "0644",
                }
            },
            {"ansible.builtin.systemd_service": {"name": "model-double", "state": "started", "daemon_reload": True}},
        ]
        plays = [
            {"hosts": self.node(MODEL), "gather_facts": False, "tasks": double},
            {
                "hosts": "all",
                "gather_facts": False,
                "vars": {
                    **common,
                    "upstreams": upstreams,
                    "appliance_nginx_upstreams": ["{{ upstreams[inventory_hostname] }}"],
                },
                "roles": ["nginx"],
            },
        ]
        playbook = self.work / "edges.yml"
        playbook.write_text(yaml.safe_dump(plays, sort_keys=False))
        run(
            [Path(sys.executable).parent / "ansible-playbook", "-i", self.inventory, playbook],
            env={**os.environ, "ANSIBLE_CONFIG": str(TREE / "playbooks/ansible.cfg"), "PYTHONPATH": str(TREE)},
        )

    # -- using it -------------------------------------------------------------------------------
    def client(self, name: str) -> Path:
        """A client's certificate, key and authority, in a directory."""
        out = self.work / "clients" / name
        self.appliance("certs", "client", name, "--dir", self.work / "ca", "--out", out)
        return out

    def connect(self, files: Path, number: int = EDGE) -> http.client.HTTPSConnection:
        """One connection to a node, as the client whose files these are."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cafile=str(files / "ca.crt"))
        context.load_cert_chain(files / f"{files.name}.crt", files / f"{files.name}.key")
        return http.client.HTTPSConnection(self.lab.nodes[number].address, PORT, timeout=120, context=context)


def snapshot(site: Site, number: int) -> dict[str, str]:
    """What an install could leave on a node: every file with owner, mode and hash, users, units, rules, mounts.

    Left out is what runs by itself: logs, caches, systemd's and dpkg's own records, and what a login writes.
    """
    skipped = " -o ".join(  # paths of the node
        f"-path '{p}'"
        for p in (
            "/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/var/log", "/var/cache", "/var/lib/systemd", "/var/lib/dpkg",  # noqa: S108
            "/var/lib/apt/lists", "/var/lib/private", "/root/.bash_history", "/root/.ssh", "/etc/machine-id", "/var/lib/dbus",
        )
    )  # fmt: skip
    files = f"find / \\( {skipped} \\) -prune -o -printf '%y %m %u:%g %l %p\\n'"
    hashes = f"find / \\( {skipped} \\) -prune -o -type f -print0 | xargs -0 sha256sum"
    parts = {
        "files": files,
        "hashes": hashes,
        "users": "getent passwd; getent group; cat /etc/shadow | cut -d: -f1",
        "units": "systemctl list-unit-files --no-legend --plain | awk '{print $1, $2}'",
        "running": "systemctl list-units --no-legend --plain --type=service,timer,mount | awk '{print $1}' | grep -vE '^(session-|user|run-|systemd-(hostnamed|timedated|tmpfiles-clean|localed))'; true",
        "rules": "if command -v nft >/dev/null; then nft --stateless list ruleset; fi",
        "mounts": "awk '{print $5}' /proc/self/mountinfo | grep -v '^/run/user'",
        "made": "ls -d /run/appliance* /tmp/appliance* /tmp/ansible* 2>/dev/null; true",
    }
    found = {}
    for kind, script in parts.items():
        for line in site.on(number, f"({script}) | sort -u").splitlines():
            found[f"{kind}: {line}"] = ""
    return found
