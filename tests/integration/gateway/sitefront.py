"""A site with tenants on loopback: what the installer renders, and what the roles' templates make of it, run by real programs.

client --TLS--> nginx (role nginx, gateway host) --unix--> worker --mutual TLS--> nginx (role nginx, GPU node) --unix--> double of vLLM
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import sys
import sysconfig
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import urllib3
import yaml

from engine.gateway import keys
from installer.pki import Authority, utc_now
from installer.site import inventory as inventories
from installer.site.tenants import render
from tests import tenantsite
from tests.integration.gateway.running import Running, chat, wait_for

TREE = Path(__file__).resolve().parents[3]
ROLE = TREE / "roles/nginx"
PASSPHRASE = "correct horse battery staple"
KEY, OTHER = "sk-lab-" + "a" * 43, "sk-lab-" + "b" * 43


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def entry(name: str, text: str) -> dict[str, Any]:
    """A key's entry in the tenants file."""
    made = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    until = made + timedelta(days=60)
    return {"id": name, "sha256": keys.digest(text), "created": made.isoformat(), "expires": until.isoformat()}


def tenants() -> dict[str, Any]:
    """The tenants file as data."""
    team_a = {
        "name": "team-a", "cost_centre": "4711", "models": ["tiny"], "keys": [entry("a-1", KEY)],
        "certificates": [{"id": "a-cert", "san": "URI:appliance:client/team-a"}],
    }  # fmt: skip
    team_b = {
        "name": "team-b",
        "cost_centre": "4712",
        "models": ["tiny"],
        "keys": [entry("b-1", OTHER)],
        "limits": {"requests_per_minute": 1},
    }
    return {"schema": 1, "site": "lab", "cache_salt_seed": "0123456789abcdef", "tenants": [team_a, team_b]}


class Front:
    """The site, running. ``ports`` are those that clients connect to, by what the site says of certificates."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.authority = Authority(where / "ca")
        self.authority.create("test CA", PASSPHRASE, now=utc_now())
        for name, kind, names in (
            ("gw-1", "node", ["gw-1", "127.0.0.1"]), ("gpu-1", "node", ["gpu-1", render.PEER_NAME]), ("team-a", "client", []),
            ("stranger", "client", []), ("appliance-proof", "client", []),
        ):  # fmt: skip
            self.issue(self.authority, where / name, kind, name, names)
        other = Authority(where / "other-ca")
        other.create("another CA", PASSPHRASE, now=utc_now())
        self.issue(other, where / "forged", "client", "team-a", [])
        self.ports = {"required": free_port(), "optional": free_port()}
        self.inference = free_port()
        self.site = Running(where)
        hosts = {"all": {"children": {
            "gateway": {"hosts": {"gw-1": {"ansible_host": "10.1.0.10"}}}, "gpu": {"hosts": {"gpu-1": {"ansible_host": "10.1.0.21"}}},
        }}}  # fmt: skip
        self.place = tenantsite.write(where / "site", yaml.safe_dump(tenants()), hosts)
        self.apply()

    def issue(self, authority: Authority, where: Path, kind: Any, name: str, names: list[str]) -> None:
        """A certificate as a node or a client has it."""
        where.mkdir()
        key, certificate = authority.issue(
            kind=kind, name=name, names=names, passphrase=PASSPHRASE, days=5, now=utc_now()
        )
        (where / "node.key").write_bytes(key)
        (where / "node.crt").write_bytes(certificate)
        for file in ("ca.crt", "crl.pem"):
            (where / file).write_bytes((authority.certificate_path.parent / file).read_bytes())

    def apply(self) -> None:
        """Render the site, and put the configuration in place as the role does; places of a gateway host become those of this test."""
        rendered = inventories.load(self.place).tenants
        assert rendered is not None
        text = rendered.text
        for there, here in (
            (render.LEDGER_SOCKET, self.where / "ledger.sock"), (render.CHECKPOINT_KEY, self.where / "checkpoint.pem"),
            (render.STATE, self.where / "ledger"), (render.AUTHORITY, self.where / "gw-1/ca.crt"),
            ("https://10.1.0.21:8444/", f"https://127.0.0.1:{self.inference}/"),
        ):  # fmt: skip
            assert there in text
            text = text.replace(there, str(here))
        new = self.site.config.with_suffix(".new")
        new.write_text(text)
        new.replace(self.site.config)

    def start(self) -> None:
        upstreams = [{"name": "chat", "sockets": [str(self.where / "model0.sock")]}]
        common = {
            "appliance_nginx_listen_addresses": ["127.0.0.1"],
            "appliance_nginx_drained": str(self.where / "drained"),
        }
        gateway = {
            **common, "appliance_nginx_upstreams": [{"name": "chat", "peers": [{"host": "10.1.0.21", "port": 8444}]}],
            "appliance_nginx_server_names": ["gw-1"], "appliance_nginx_pki": str(self.where / "gw-1"), "appliance_nginx_only_gateway": True,
            "appliance_nginx_gateway_sockets": [str(self.where / "worker0.sock")],
        }  # fmt: skip
        node = {
            **common, "appliance_nginx_upstreams": upstreams, "appliance_nginx_server_names": ["gpu-1"],
            "appliance_nginx_pki": str(self.where / "gpu-1"), "appliance_nginx_allowed_clients": ["gw-1"],
            "appliance_nginx_port": self.inference,
        }  # fmt: skip
        os.environ["CREDENTIALS_DIRECTORY"] = str(self.where / "gw-1")  # as systemd gives it to a worker
        try:
            self.site.start()
        finally:
            del os.environ["CREDENTIALS_DIRECTORY"]
        self.nginx("gpu", self.inference, node)
        for how, port in self.ports.items():
            self.nginx(how, port, {**gateway, "appliance_nginx_port": port, "appliance_nginx_client_certificates": how})

    def nginx(self, name: str, port: int, variables: dict[str, Any]) -> None:
        """nginx with the role's configuration."""
        base = self.where / f"nginx-{name}"
        base.mkdir()
        configuration = nginx_configuration(base, variables)
        configuration = configuration.replace("/var/lib/appliance-nginx", str(base))
        configuration = configuration.replace(
            "syslog:server=unix:/dev/log,nohostname,tag=appliance_nginx audit", f"{base}/access.log audit"
        )
        (base / "nginx.conf").write_text(configuration)
        argv = ["nginx", "-e", "stderr", "-g", f"user root; pid {base}/pid;", "-c", str(base / "nginx.conf")]
        checked = subprocess.run([*argv, "-t", "-q"], capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stderr
        with (base / "log").open("wb") as log:
            self.site.processes[f"nginx-{name}"] = subprocess.Popen(argv, stdout=log, stderr=log)
        wait_for(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0, f"nginx {name}")

    def stop(self) -> None:
        for name, process in self.site.processes.items():
            if name.startswith("nginx"):
                process.terminate()
                process.wait(30)
        self.site.stop()

    def context(self, certificate: str = "") -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=str(self.where / "gw-1/ca.crt"))
        if certificate:
            context.load_cert_chain(self.where / certificate / "node.crt", self.where / certificate / "node.key")
        return context

    def ask(
        self,
        how: str = "required",
        certificate: str = "",
        key: str = "",
        path: str = "/v1/chat/completions",
        body: Any = None,
        **more: Any,
    ) -> urllib3.BaseHTTPResponse:
        """One request of a client."""
        pool = urllib3.HTTPSConnectionPool(
            "127.0.0.1", self.ports[how], ssl_context=self.context(certificate), retries=False
        )
        headers = {"content-type": "application/json", **more.pop("headers", {})} | (
            {"authorization": f"Bearer {key}"} if key else {}
        )
        method = more.pop("method", "POST")
        return pool.request(
            method,
            path,
            body=json.dumps(body or chat()).encode() if method == "POST" else None,
            headers=headers,
            **more,
        )

    def logged(self, name: str, answer: urllib3.BaseHTTPResponse) -> dict[str, Any]:
        """What an nginx wrote of a request, which it does after the answer."""
        path, number = self.where / f"nginx-{name}/access.log", answer.headers["x-request-id"]

        def found() -> list[dict[str, Any]]:
            lines = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("\n")]
            return [line for line in lines if line["id"] == number]

        entry: dict[str, Any] = wait_for(found, f"the line of {number} in the log of nginx {name}")[0]
        return entry


def nginx_configuration(where: Path, variables: dict[str, Any]) -> str:
    """The role's configuration, by Ansible's own hand."""
    (where / "variables.json").write_text(json.dumps({**variables, "ansible_python_interpreter": sys.executable}))
    task = {
        "ansible.builtin.template": {"src": str(ROLE / "templates/nginx.conf.j2"), "dest": str(where / "rendered.conf")}
    }
    files = [str(ROLE / "defaults/main.yml"), str(ROLE / "vars/main.yml")]
    play = [{"hosts": "localhost", "connection": "local", "gather_facts": False, "vars_files": files, "tasks": [task]}]
    (where / "play.yml").write_text(json.dumps(play))
    argv = [
        f"{sysconfig.get_path('scripts')}/ansible-playbook",
        "-i",
        "localhost,",
        "-e",
        f"@{where}/variables.json",
        str(where / "play.yml"),
    ]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, "LC_ALL": "C.UTF-8"})
    assert done.returncode == 0, done.stdout + done.stderr
    return (where / "rendered.conf").read_text()
