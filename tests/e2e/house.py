"""Where the README is executed: a builder, a control host and a node that reach nothing but each other.

What is put in instead of what the README says is in one table (`House.table`). Faults that a person would meet are made between blocks.
"""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3
from openai import DefaultHttpxClient, OpenAI

from engine.report import Silent
from installer.lab import rootfs
from installer.lab.lab import Lab, down, up
from tests.demo import TREE
from tests.e2e.asked import PLAIN
from tests.e2e.handbook import Block, Host, blocks, substituted

MEDIUM = ("python3-venv", "openssh-client", "nginx-light")  # what the control host has from its installation medium
NODE = "node-1"
LOG = TREE / "build" / "readme.log"
SITE = "site/group_vars/all/site.yml"
PASSPHRASE = "correct horse battery staple"


@dataclass
class House:
    """The three machines, and which blocks were run."""

    work: Path
    lab: Lab
    builder: Host
    control: Host
    client: Host
    table: dict[str, str]
    document: list[Block]
    ran: set[Block] = field(default_factory=set)

    @property
    def address(self) -> str:
        return self.lab.nodes[1].address

    def run(self, lead: str, *, ok: bool = True) -> str:
        """Every block below these bold words, in order; what they printed."""
        chosen = [b for b in self.document if b.lead.startswith(lead)]
        assert chosen, f"the README has no block for “{lead}”"
        said = ""
        for block in chosen:
            text = substituted(block.text, self.table)
            host = {"builder": self.builder, "control host": self.control, "client": self.client}[block.host]
            said += host.run(f"python - <<'EOF'\n{text}EOF" if block.language == "python" else text, ok=ok)
            self.ran.add(block)
        return said

    def json(self, command: str, *, ok: bool = True) -> Any:
        """A command of the product on the control host, as JSON."""
        said = self.control.run(f"{command} --json 2>/dev/null", ok=ok)
        return json.loads(said)

    def on_node(self, command: str) -> str:
        """A command on the node, which lets in nobody but the control host."""
        return self.control.run(f"ssh -o BatchMode=yes root@{self.address} {command!r}")

    def release(self) -> str:
        return self.on_node("basename $(readlink /opt/appliance/current)").strip()

    def started(self) -> str:
        return self.on_node(
            "systemctl show -p Id,ActiveEnterTimestampMonotonic,NRestarts,MainPID appliance-vllm@tiny appliance-nginx"
        )

    def set_length(self, tokens: int) -> None:
        """An operator edits the site."""
        self.control.run(f"sed -i 's/max-model-len: .*/max-model-len: {tokens}/' {SITE}")

    def context(self) -> ssl.SSLContext:
        """Team A's certificate."""
        place = self.work / "client/team-a"
        context = ssl.create_default_context(cafile=str(place / "ca.crt"))
        context.load_cert_chain(place / "team-a.crt", place / "team-a.key")
        return context

    def asks(self) -> OpenAI:
        """Team A's client."""
        return OpenAI(
            base_url=f"https://{self.address}:8443/v1", api_key="unused", max_retries=0,
            http_client=DefaultHttpxClient(verify=self.context(), timeout=120, trust_env=False),
        )  # fmt: skip

    def length(self) -> int:
        """The context length, as the service itself says."""
        [model] = self.asks().models.list()
        return int(model.model_dump()["max_model_len"])


@contextmanager
def built(form: str) -> Iterator[House]:
    """A copy of this tree, two bare machines, and two media that all of them see.

    Args:
        form: of the runtime on nodes, ``image`` or ``wheels``.
    """
    work = Path(tempfile.mkdtemp(prefix="appliance-readme-"))
    work.chmod(0o711)
    name = f"readme-{form}-{os.getpid()}"
    LOG.parent.mkdir(exist_ok=True)
    LOG.write_text("")
    try:
        for medium in ("drive", "kit", "debs"):
            (work / "media" / medium).mkdir(parents=True)
        copied(work / "clone")
        (work / "passphrase").write_text(PASSPHRASE)
        (work / "passphrase").chmod(0o600)
        (work / "client").mkdir()
        installation_medium(work / "media/debs")
        lab = up(name, host_names=["control", NODE], bind_ro=[f"{work / 'media'}:/media"], owner_pid=os.getpid())
        made = house_of(work, lab)
        if form == "wheels":
            made.table["bundles/demo.yml"] = as_wheels(work / "clone/bundles")
        yield made
    finally:
        down(name)
        shutil.rmtree(work)


def bundle_and_kit(house: House) -> None:
    """The builder's side, up to the line that the control host must be told on another way."""
    house.run("Once, on the builder")
    said = house.run("For every release, on the builder")
    line = next(x for x in said.splitlines() if 'namespaces="appliance-starting-kit"' in x)
    house.table["ssh-ed25519 AAAA…"] = line[line.index("ssh-ed25519") :].strip()


def first_install(house: House) -> str:
    """From the kit to a client's answer; what the install said."""
    house.run("The site, on the control host")
    said = house.run("For every release, on the control host")
    house.run("A certificate for a client")
    packed = subprocess.run([*house.control.start, "tar -C /root -c team-a"], capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", house.work / "client"], input=packed.stdout, check=True)
    assert "ChatCompletion(" in house.run("A client")
    return said


def as_wheels(bundles: Path) -> str:
    """The demo's definition without an image of the runtime: nodes install its wheels."""
    text = (bundles / "demo.yml").read_text()
    assert "    runtime: debs\n" in text
    (bundles / "wheels.yml").write_text(text.replace("    runtime: debs\n", ""))
    return "bundles/wheels.yml"


def copied(clone: Path) -> None:
    """This tree as a new clone; what setup installed is installed there, too, for it is the same."""
    clone.mkdir()
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=TREE,
        capture_output=True,
        check=True,
    )
    there = b"\0".join(f for f in listed.stdout.split(b"\0") if f and (TREE / os.fsdecode(f)).exists())
    packed = subprocess.run(["tar", "-c", "--null", "-T", "-"], cwd=TREE, input=there, capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", clone], input=packed.stdout, check=True)
    (clone / ".venv").symlink_to(TREE / ".venv")


def installation_medium(place: Path) -> None:
    """The packages that the README wants on the control host, with what they need beyond a bare Debian, fetched by the builder's apt."""
    status = rootfs.cache_dir() / rootfs.key("bookworm") / "root/var/lib/dpkg/status"
    if not status.exists():
        rootfs.ensure("bookworm", Silent())
    subprocess.run(
        ["apt-get", "install", "--quiet", "--yes", "--download-only", "--no-install-recommends",
         f"--option=Dir::State::status={status}", f"--option=Dir::Cache::archives={place}", "--option=Debug::NoLocking=1",
         "--option=APT::Sandbox::User=root", *MEDIUM],
        check=True, capture_output=True, env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
    )  # fmt: skip


def house_of(work: Path, lab: Lab) -> House:
    """The hosts as people have them: the control host's key is known to the node and the other way round."""
    control = lab.ssh(lab.nodes[0].address)
    for file, mode, source in (("id_ed25519", "600", lab.key), ("known_hosts", "644", lab.known_hosts)):
        subprocess.run(
            [*control, f"install -D -m {mode} /dev/stdin /root/.ssh/{file}"], input=source.read_bytes(), check=True
        )
    subprocess.run([*control, "dpkg --install /media/debs/*.deb"], check=True, capture_output=True)
    subprocess.run([*control, "install -m 600 /dev/stdin /root/passphrase"], input=PASSPHRASE.encode(), check=True)
    inside = f'mount --bind {work / "media"} /media && cd {work / "clone"} && exec sh -c "$0"'
    environment = {"APPLIANCE_PASSPHRASE_FILE": str(work / "passphrase"), "XDG_CONFIG_HOME": str(work / "config")}
    builder = Host(
        "builder",
        ["unshare", "--mount", "sh", "-c", inside],
        str(work / "state"),
        LOG,
        environment,
        str(work / "clone"),
    )
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    client = Host("client", ["sh", "-c"], str(work / "state-client"), LOG, path, str(work / "client"))
    table = {
        "192.0.2.11": lab.nodes[1].address,
        "198.51.100.0/24": lab.prefix,
    }
    return House(
        work, lab, builder, Host("control host", control, "/root/.state", LOG, {"APPLIANCE_PASSPHRASE_FILE": "/root/passphrase"}),
        client, table, blocks((TREE / "README.md").read_text()),
    )  # fmt: skip


@dataclass
class Traffic:
    """What a client saw that asks all the time: statuses, 503 without Retry-After, streams that were cut, connections that were refused."""

    statuses: dict[int, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


@contextmanager
def asking(house: House, pause_s: float = 0.2) -> Iterator[Traffic]:
    """Somebody asks for streams all the time while the block runs."""
    seen, over = Traffic(), threading.Event()
    body = json.dumps(PLAIN | {"max_tokens": 24, "stream": True})
    url = f"https://{house.address}:8443/v1/chat/completions"

    def once() -> None:
        pool = urllib3.PoolManager(ssl_context=house.context(), retries=False, timeout=120)
        try:
            answer = pool.request("POST", url, body=body, headers={"Content-Type": "application/json"})
        except urllib3.exceptions.HTTPError as error:
            seen.faults.append(f"{time.strftime('%X')} {error!r}")
            return
        seen.statuses[answer.status] = seen.statuses.get(answer.status, 0) + 1
        if answer.status == 503 and "Retry-After" not in answer.headers:
            seen.faults.append("503 without Retry-After")
        if answer.status == 200 and not answer.data.rstrip().endswith(b"[DONE]"):
            seen.faults.append(f"a stream was cut: {answer.data[-200:]!r}")

    def always() -> None:
        while not over.is_set():
            once()
            over.wait(pause_s)

    thread = threading.Thread(target=always)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join(120)
