"""The README, executed: its commands as they stand, on a builder, a control host and a node that reach nothing but each other.

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

import pytest
import urllib3
from openai import DefaultHttpxClient, OpenAI

from engine.report import Silent
from installer.lab import rootfs
from installer.lab.lab import Lab, down, up
from tests.demo import TREE
from tests.e2e.asked import PLAIN, everything, expected
from tests.e2e.handbook import Block, Host, blocks, substituted

pytestmark = pytest.mark.nodes

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


@pytest.fixture(scope="module", params=["image", pytest.param("wheels", marks=pytest.mark.slow)])
def house(request: pytest.FixtureRequest) -> Iterator[House]:
    """A copy of this tree, two bare machines, and two media that all of them see; the runtime as an image, then as wheels."""
    work = Path(tempfile.mkdtemp(prefix="appliance-readme-"))
    work.chmod(0o711)
    name = f"readme-{request.param}-{os.getpid()}"
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
        if request.param == "wheels":
            made.table["bundles/demo.yml"] = as_wheels(work / "clone/bundles")
        yield made
    finally:
        down(name)
        shutil.rmtree(work)


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


# The tests below follow the README from its first command to its last; pytest runs them in this order.


def test_the_builder_makes_a_bundle_and_a_kit(house: House) -> None:
    house.run("Once, on the builder")
    said = house.run("For every release, on the builder")
    line = next(x for x in said.splitlines() if 'namespaces="appliance-starting-kit"' in x)
    house.table["ssh-ed25519 AAAA…"] = line[line.index("ssh-ed25519") :].strip()


def test_the_control_host_believes_the_kit_and_gets_its_installer_from_the_bundle(house: House) -> None:
    said = house.run("Once, on the control host")
    assert 'Good "appliance-starting-kit" signature' in said
    assert house.control.run("command -v appliance").strip() == "/opt/appliance-control/bin/appliance"


def test_the_written_site_fits_at_the_first_try_and_the_model_answers(house: House) -> None:
    house.run("The site, on the control host")
    said = house.run("For every release, on the control host")
    assert "answered through mutual TLS" in said and "installed in" in said
    house.run("A certificate for a client")
    packed = subprocess.run([*house.control.start, "tar -C /root -c team-a"], capture_output=True, check=True)
    subprocess.run(["tar", "-x", "-C", house.work / "client"], input=packed.stdout, check=True)
    assert "ChatCompletion(" in house.run("A client")


def test_a_second_install_changes_nothing(house: House) -> None:
    before = house.started()
    outcome = house.json("appliance install -i site --root starting-kit/root.json /media/drive/ours-1.0.0")
    assert outcome["good"] and outcome["idle"] == [NODE]
    assert house.started() == before


def test_a_changed_setting_is_what_the_service_runs_with_and_a_lost_restart_is_made_up_for(house: House) -> None:
    """A unit file that is newer than the unit is what a run leaves that was killed before its handlers."""
    timer = "appliance-egress-proof.timer"
    house.on_node(f"touch /etc/systemd/system/{timer}")
    before = house.on_node(f"systemctl show -p ActiveEnterTimestampMonotonic {timer}")
    told = house.on_node("/opt/appliance/current/engine/bin/appliance-engine generation missed --check")
    assert f"{timer} runs with something older" in told
    house.run("Change a setting")
    assert house.length() == 512
    assert house.on_node(f"systemctl show -p ActiveEnterTimestampMonotonic {timer}") != before
    assert house.json("appliance install -i site")["idle"] == [NODE]


def test_no_kind_of_request_ends_the_engine(house: House) -> None:
    """The node has no compiler, and some of these are compiled for when they first come."""
    before = house.started()
    found = everything(house.asks())
    with LOG.open("a") as log:
        log.writelines(f"{status}, a plain chat after it {after}: {name}\n" for name, (status, after) in found.items())
    assert found == expected()
    assert house.started() == before


def test_an_upgrade_that_fails_goes_back_by_itself(house: House) -> None:
    """The release itself is good; the site asks for more than the model can do. Who asks meanwhile gets an answer or is told to wait."""
    house.run("The next release, on the builder")
    house.control.run("appliance import /media/drive/ours-1.1.0")
    house.set_length(16384)
    with asking(house) as seen:
        said = house.control.run("appliance install -i site --release ours-1.1.0", ok=False)
    assert "max_model_len (16384) is greater than" in said and "Lower max-model-len" in said
    assert house.release() == "ours-1.0.0" and house.length() == 512
    assert seen.faults == [] and set(seen.statuses) == {200, 503}, seen


def test_the_release_that_still_runs_is_no_downgrade(house: House) -> None:
    house.set_length(512)
    outcome = house.json("appliance install -i site --release ours-1.0.0")
    assert outcome["good"], outcome["failures"]
    assert house.release() == "ours-1.0.0"


def test_the_upgrade_is_what_was_planned_and_cuts_nothing(house: House) -> None:
    with asking(house) as seen:
        house.run("Upgrade, on the control host")
    assert house.release() == "ours-1.1.0" and house.length() == 512
    assert seen.faults == [] and set(seen.statuses) == {200, 503}, seen


def test_a_rollback_says_where_it_goes_and_goes_there_and_the_node_goes_forward_again(house: House) -> None:
    with asking(house) as seen:
        said = house.run("Go back")
    assert "(ours-1.0.0, kept" in said and "files differ" in said
    assert house.release() == "ours-1.0.0" and house.length() == 512
    assert seen.faults == [] and set(seen.statuses) == {200, 503}, seen
    outcome = house.json("appliance install -i site --release ours-1.1.0")
    assert outcome["good"], outcome["failures"]
    assert house.release() == "ours-1.1.0" and house.length() == 512


def test_status_finds_nothing_wrong_and_the_support_bundle_holds_no_secret(house: House) -> None:
    said = house.run("Look and ask for help")
    assert "ours-1.1.0" in said
    names = house.control.run("tar -tf fault.tar.gz")
    assert f"{NODE}" in names and "REMOVED.json" in names
    keys = house.control.run("cat /var/lib/appliance/ca/*.key | sed -n 2p").split()
    assert keys
    for secret in (PASSPHRASE, *keys):
        assert house.control.run(f"tar -xOf fault.tar.gz | grep -cF -e '{secret}' || true").strip() == "0"


def test_what_the_site_brought_goes(house: House) -> None:
    house.run("Remove")
    assert house.on_node("ls /opt/appliance /etc/appliance 2>/dev/null || true").strip() == ""
    assert house.on_node("nft list tables").strip() == ""


def test_a_second_person_agrees_to_a_new_install_and_nothing_else_is_installed(house: House) -> None:
    house.run("A second person")
    assert house.release() == "ours-1.1.0" and house.length() == 512
    refused = house.json("appliance install -i site --release ours-1.1.0", ok=False)
    assert "nothing without an agreed plan" in refused["error"]["what"]


def test_every_block_of_the_readme_was_run(house: House) -> None:
    assert [b.lead for b in house.document if b not in house.ran] == []
