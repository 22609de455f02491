"""A site of several real nodes, and releases of one small product for them: what operations are tested with.

The runtime is the double of vLLM: a release must be ill on one node and well on the next, and an answer must say which release gave it, and no
real model does that. Everything else is the product's own. Upgrades with the real engine are in test_readme_second_day.py and test_two_gateways.py.
"""

from __future__ import annotations

import json
import shlex
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3
import yaml

from engine import strictjson
from engine.rules.networks import with_port
from installer.lab.lab import Lab
from installer.lab.plan import Node
from tests.demo import TREE, Demo, install_argv
from tests.e2e import vllm_double
from tests.integration.wheelsite import wheel

PACKAGES = ["nftables", "python3-apt", "nginx-light", "libnuma1"]
TINY = ("tiny", TREE / "build/demo/tiny")


@dataclass
class Fleet:
    """A lab as a site: the first node is the gateway, the others serve; with ``alike`` the first serves, too."""

    demo: Demo
    lab: Lab
    work: Path
    port: int
    rolling: dict[str, Any] = field(default_factory=dict)
    site_more: dict[str, Any] = field(default_factory=dict)
    alike: bool = False

    def __post_init__(self) -> None:
        self.state = Path(tempfile.mkdtemp(prefix="fleet-", dir=self.demo.work))
        self.state.chmod(0o711)
        self.out = self.state / "dist"

    @property
    def names(self) -> list[str]:
        return ["gw-1", *(f"gpu-{n}" for n in range(1, len(self.lab.nodes)))]

    def node(self, name: str) -> Node:
        return self.lab.nodes[self.names.index(name)]

    def on(self, name: str, command: str, *, check: bool = True) -> str:
        argv = [*self.lab.ssh(self.node(name).address), command]
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=600)
        assert not check or done.returncode == 0, f"{name}: {command}: {done.stderr}"
        return done.stdout.strip()

    def site(self, name: str = "site", **changes: Any) -> Path:
        """An inventory of all nodes; ``changes`` go over the site's variables."""
        where = self.work / name
        shutil.rmtree(where, ignore_errors=True)
        (where / "group_vars/all").mkdir(parents=True)
        hosts = {n: {"ansible_host": self.node(n).address} for n in self.names}
        login = {
            "ansible_user": "root",
            "ansible_ssh_private_key_file": str(self.lab.key),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={self.lab.known_hosts} -o ConnectTimeout=5",
        }
        children = {
            "gateway": {"hosts": {"gw-1": hosts["gw-1"]}},
            "gpu": {"hosts": {n: hosts[n] for n in self.names[0 if self.alike else 1 :]}},
        }
        (where / "hosts.yml").write_text(yaml.safe_dump({"all": {"vars": login, "children": children}}))
        site = yaml.safe_load((TREE / "inventories/demo/group_vars/all/site.yml").read_text())["appliance_site"]
        site |= {
            "control": {"address": self.lab.host_address, "port": self.port},
            "management_sources": [self.lab.host_address],
            "client_sources": [self.lab.host_address],
            "runtime": "runtime",
            "rolling": self.rolling,
            **self.site_more,
            **changes,
        }
        (where / "group_vars/all/site.yml").write_text(yaml.safe_dump({"appliance_site": site}))
        return where

    def release(
        self, version: str, *, code: str = "", packages: Sequence[str] = PACKAGES, model: tuple[str, Path] = TINY
    ) -> Path:
        """Build fleet-VERSION; its double says its version, and falls ill where a node has /etc/ill-VERSION.

        Args:
            model: name and folder of the one model that it holds.
        """
        source = (code or Path(vllm_double.__file__).read_text()).replace(
            'VERSION = "0.32.0"', f'VERSION = "{version}"'
        )
        wheels, empty = self.work / f"wheels-{version}", self.work / "empty"
        empty.mkdir(exist_ok=True)
        wheel(wheels, "vllm", version, files={"vllm/entrypoints/cli/main.py": source})
        definition = {
            "schema": 1, "name": "fleet", "version": version, "target": {"os": "debian-12", "python": "3.11"},
            "wheels": [
                {"name": "runtime", "requirements": [f"vllm=={version}"], "indexes": [empty.as_uri()], "find_links": [str(wheels)], "profiles": ["gpu"]}
            ],
            "debs": {"groups": [{"packages": list(packages), "profiles": ["gpu", "gateway"]}]},
            "models": [{"name": model[0], "path": str(model[1]), "profiles": ["gpu"]}],
        }  # fmt: skip
        path = self.work / f"fleet-{version}.yml"
        path.write_text(yaml.safe_dump(definition, sort_keys=False))
        self.demo.appliance("lock", path)
        self.demo.appliance("build", "bundle", path, "--out", self.out)
        return self.out / f"fleet-{version}"

    def run(self, *words: str | Path, ok: tuple[int, ...] = (0,)) -> Any:
        """A command of the product over this site, as JSON. The control host's places are added for those that take them."""
        return self.demo.appliance(*words, ok=ok, json_output=True)

    def places(self, *names: str) -> list[str | Path]:
        """Options that say where this control host keeps its things."""
        where = {"--depot": "depot", "--ca": "ca", "--runs": "runs", "--site-keys": "site"}
        return [w for name in names for w in (f"--{name}", self.state / where[f"--{name}"])]

    def install(self, bundle: str | Path, *words: str, site: Path | None = None, ok: tuple[int, ...] = (0,)) -> Any:
        argv = install_argv(self.demo, site or self.site(), self.state)
        chosen = [bundle] if isinstance(bundle, Path) else ["--release", bundle]
        return self.run(*argv, *words, *chosen, ok=ok)

    def start(self, bundle: Path, *words: str) -> subprocess.Popen[bytes]:
        """The same in the background, in a session of its own, to be killed."""
        argv = [
            sys.executable,
            "-m",
            "installer",
            *map(str, install_argv(self.demo, self.site(), self.state)),
            *words,
            str(bundle),
        ]
        quiet = subprocess.DEVNULL
        return subprocess.Popen(
            argv, cwd=TREE, env=self.demo.environment, stdout=quiet, stderr=quiet, start_new_session=True
        )

    def rollback(self, *words: str, ok: tuple[int, ...] = (0,)) -> Any:
        return self.run("rollback", "-i", self.site(), *self.places("ca", "runs", "site-keys"), *words, ok=ok)

    def releases(self) -> dict[str, str]:
        """The current release of every node, as the node says."""
        return {n: self.on(n, "basename $(readlink /opt/appliance/current)") for n in self.names}

    def context(self) -> ssl.SSLContext:
        """A client's, with a certificate of the site."""
        out = self.state / "client"
        if not (out / "tester.crt").exists():
            self.demo.appliance("certs", "client", "tester", "--dir", self.state / "ca", "--out", out)
        context = ssl.create_default_context(cafile=str(out / "ca.crt"))
        context.load_cert_chain(str(out / "tester.crt"), str(out / "tester.key"))
        return context

    def ask(self, context: ssl.SSLContext | None = None) -> str:
        """One answer through the gateway."""
        pool = urllib3.PoolManager(ssl_context=context or self.context(), retries=False, timeout=20)
        url = f"https://{with_port(self.node('gw-1').address, 8443)}/v1/chat/completions"
        body = json.dumps({"model": "tiny", "messages": [{"role": "user", "content": "?"}], "max_tokens": 6})
        answer = pool.request("POST", url, body=body, headers={"Content-Type": "application/json"})
        if answer.status != 200:
            raise OSError(f"{answer.status}: {answer.data[:200]!r}")
        return str(strictjson.loads(answer.data)["choices"][0]["message"]["content"])

    def files(self, name: str) -> set[str]:
        """Every file of a node that an install could touch, with inode, size, mode, owner and times."""
        found = self.on(
            name,
            "find /etc /opt /usr /var/lib /root -xdev -not -path '/var/lib/systemd/*' -not -path '/root' -not -path '/root/.ansible*'"
            " -not -path '/var/lib/appliance/trust*'"
            # What the node writes about itself all the time, whoever installs or not.
            " -not -path '/var/lib/appliance/egress*' -not -path '/var/lib/appliance/metrics*' -printf '%p %i %s %m %U %T@\\n' | sort",
        )
        return set(found.splitlines())

    def units(self, name: str, which: str = "appliance-*") -> str:
        """When each of our units started, and how often it was restarted; ``which`` are patterns of their names."""
        shown = "Id,ActiveEnterTimestampMonotonic,NRestarts,MainPID"
        return self.on(name, f"systemctl show -p {shown} {' '.join(map(shlex.quote, which.split()))}")


@dataclass
class Traffic:
    """What clients saw: answers by release, and failures after one retry on a fresh connection."""

    said: dict[str, int] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    retried: int = 0


@contextmanager
def clients(fleet: Fleet, pause_s: float = 0.05) -> Iterator[Traffic]:
    """Somebody asks all the time while the block runs."""
    seen, over, context = Traffic(), threading.Event(), fleet.context()

    def one() -> None:
        while not over.is_set():
            for attempt in (1, 2):
                try:
                    answer = fleet.ask(context).partition(":")[0]
                    seen.said[answer] = seen.said.get(answer, 0) + 1
                    break
                except (OSError, urllib3.exceptions.HTTPError, ValueError) as error:
                    if attempt == 2:
                        seen.failed.append(f"{time.strftime('%X')} {error}")
                    seen.retried += attempt == 1
            over.wait(pause_s)

    thread = threading.Thread(target=one)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join(60)


def ill(fleet: Fleet, name: str, version: str, how: str) -> None:
    """Let a release be ill on a node, or well again when ``how`` is empty."""
    path = shlex.quote(f"/etc/ill-{version}")
    fleet.on(name, f"echo {shlex.quote(how)} > {path}" if how else f"rm -f {path}")
