"""Asking nodes: what is typed into ssh, what is believed of the answer, and what a site and a release need."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from engine.errors import InputError
from engine.preflight.expectation import fail, warn
from engine.preflight.facts import Facts, Question
from engine.report import Silent
from engine.talk import Talk, talk
from engine.trust import Target, Trusted
from installer.cli.main import main
from installer.definition import Definition
from installer.evidence.contents import Contents
from installer.lockfile import Artifact, Lock
from installer.site import beacon, gate, needs, remote
from installer.site.events import Failure
from installer.site.inventory import Connection, Host, Inventory, load
from installer.site.preflight import FAILURES, NodeReport, preflight, verdict_of
from installer.site.remote import Answer
from installer.site.settings import Control, Gateway, Service, Site
from tests.nodefacts import node, without_gpu

TREE = Path(__file__).resolve().parents[2]
TODAY = date(2026, 11, 21)
GPU, GATEWAY = Host("gpu-1", "192.0.2.21", ("gpu",)), Host("gw-1", "192.0.2.10", ("gateway",))
ROOT = Connection("192.0.2.21", user="root")


def site(port: int = 7443, **service: Any) -> Inventory:
    values = {"name": "chat", "model": "m", "served_name": "m", "devices": ("nvidia",), "memory_max": "64G", **service}
    return Inventory(
        Path("site"),
        (GATEWAY, GPU),
        Site(
            control=Control(address="127.0.0.1", port=port),
            management_sources=("192.0.2.5/32",),
            gateway=Gateway(port=8443),
            services=(Service(**values),),
        ),
        {GPU.name: ROOT, GATEWAY.name: replace(ROOT, address=GATEWAY.address)},
    )


def release(**gpu: Any) -> needs.Release:
    """A release with a CUDA runtime of three wheels, a model and a package."""
    definition = Definition.model_validate({
        "schema": 1, "name": "demo", "version": "1.0.0",
        "target": {"os": "ubuntu-24.04", "python": "3.12", "gpu": {"models": ["h200"], "driver": "580.178.04", **gpu}},
    })  # fmt: skip
    files = {
        "content/wheels/vllm/torch-2.14.0-cp312-cp312-manylinux_2_28_x86_64.whl": 10**9,
        "content/wheels/vllm/nvidia_cuda_runtime-13.0.96-py3-none-manylinux_2_28_x86_64.whl": 3 * 10**6,
        "content/wheels/vllm/requirements.txt": 5000,
        "content/models/m/model.safetensors": 140 * 10**9,
        "content/models/m/config.json": 0,
        "content/debs/pool/x_1_amd64.deb": 2 * 10**6,
    }
    targets = {p: Target(p, size, f"{i}" * 64, profiles=("gpu",)) for i, (p, size) in enumerate(files.items())}
    targets["content/debs/nginx_1_amd64.deb"] = Target(
        "content/debs/nginx_1_amd64.deb", 7, "f" * 64, profiles=("gateway",)
    )
    wheels = [
        Artifact(path=p.removeprefix("content/"), kind="wheels", group="vllm", name=n, version=v, size=1, sha256="0" * 64, source="x", profiles=("gpu",))
        for p, n, v in zip(files, ("torch", "nvidia-cuda-runtime"), ("2.14.0", "13.0.96"), strict=False)
    ]  # fmt: skip
    trusted = Trusted("demo", "demo-1.0.0", 1, "2027-01-01", 1, targets)
    lock = Lock(name="demo", version="1.0.0", definition_sha256="0" * 64, artifacts=tuple(wheels))
    return needs.Release(Contents(trusted, {}, lock, {}), definition)


def said(facts: Facts, word: str = "w", **changes: Any) -> Talk:
    body = json.dumps(asdict(facts)).encode()
    lines = ((100.2, b"Welcome to the node"), (100.4, b"w hello 104.3"), (103.0, b"w facts " + body))
    return replace(Talk(0, lines, "", ""), **changes)


def test_facts_are_found_among_what_a_login_shell_prints_and_the_clock_between_two_times() -> None:
    answer = remote.understand(said(node()), "w", 100.0, ROOT)
    assert answer.failure == "" and answer.facts == node()
    assert answer.offset_s == pytest.approx(4.1) and answer.offset_error_s == pytest.approx(0.2)


def test_a_line_with_another_mark_is_not_believed() -> None:
    """The invariant: what a node printed before it read our word is never taken for its answer."""
    assert remote.understand(said(node()), "another", 100.0, ROOT).failure == "garbled"


@pytest.mark.parametrize(
    ("code", "stderr", "failure"),
    [
        (255, "ssh: connect to host 192.0.2.21 port 22: Connection timed out", "unreachable"),
        (255, "No ED25519 host key is known for 192.0.2.21.\nHost key verification failed.", "hostkey"),
        (255, "root@192.0.2.21: Permission denied (publickey).", "login"),
        (127, "bash: line 1: /usr/bin/python3: No such file or directory", "python"),
        (1, "sudo: /usr/bin/python3: command not found", "python"),
        (1, "sudo: a password is required", "sudo"),
        (1, "Sorry, user deploy is not allowed to execute '/usr/bin/python3 -' as root; sudo", "sudo"),
        (127, "sh: 1: sudo: not found", "sudo"),
        (1, "Traceback (most recent call last): …", "garbled"),
    ],
)
def test_every_way_not_to_be_asked_has_its_own_word_and_remedy(code: int, stderr: str, failure: str) -> None:
    answer = remote.understand(Talk(code, (), stderr, ""), "w", 0.0, ROOT)
    assert answer.failure == failure and FAILURES[failure][1]
    assert remote.understand(Talk(None, (), "", "time"), "w", 0.0, ROOT).failure == "late"
    assert remote.understand(Talk(None, (), "", "output"), "w", 0.0, ROOT).failure == "flood"
    assert remote.understand(Talk(0, ((1.0, b"w old 3.6.8"),), "", ""), "w", 0.0, ROOT) == Answer(None, "old", "3.6.8")


def _changed(change: Callable[[dict[str, Any]], None]) -> bytes:
    data = asdict(node())
    change(data)
    return json.dumps(data).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"null",
        b"{" * 100_000,
        b"[" * 100_000,
        b'{"system": {"os_id": 7}}',
        b'{"seconds": NaN}',
        b'{"seconds": 1e999}',
        b'{"nobody": 1}',
        b'{"pci": "x"}',
        b'{"troubles": {"x": ["y"]}}',
        _changed(lambda d: d["system"].update(kernel="x" * 5000)),
        _changed(lambda d: d["troubles"].update({"x" * 5000: ""})),
        _changed(lambda d: d["storage"]["spaces"][0].update(free_bytes=1 << 70)),
        _changed(lambda d: d["storage"]["spaces"][0].update(free_bytes="many")),
        _changed(lambda d: d["network"].update(listeners=[["tcp"]] * 5000)),
        _changed(lambda d: d["clock"].update(synchronized={})),
        _changed(lambda d: d["system"].pop("kernel")),
    ],
)
def test_an_answer_that_is_not_what_was_asked_for_is_garbled_and_never_raises(body: bytes) -> None:
    with pytest.raises((ValueError, RecursionError)):
        remote.parse(body)
    answer = remote.understand(Talk(0, ((1.0, b"w hello 1"), (2.0, b"w facts " + body)), "", ""), "w", 0.0, ROOT)
    assert answer.failure == "garbled" and answer.facts is None


def test_host_keys_are_checked_whatever_the_inventory_says() -> None:
    loose = replace(ROOT, user="deploy", port=2222, key="/k", arguments=("-o", "StrictHostKeyChecking=no"))
    argv = remote.argv(loose)
    assert argv.index("StrictHostKeyChecking=yes") < argv.index("StrictHostKeyChecking=no"), "ssh takes the first"
    assert argv[argv.index("--") :] == ["--", "192.0.2.21", "sudo", "-n", "--", "/usr/bin/python3", "-I", "-B", "-"]
    assert {"-p", "2222", "-l", "deploy", "-i", "/k"} <= set(argv)
    assert "sudo" not in remote.argv(ROOT)


def test_a_connection_that_needs_a_password_or_no_ssh_is_not_tried() -> None:
    answer = remote.ask(replace(ROOT, unsupported="ansible_password"), Question())
    assert answer.failure == "unsupported" and answer.detail == "ansible_password"


def test_how_to_log_in_is_read_as_ansible_would(tmp_path: Path) -> None:
    (tmp_path / "group_vars/all").mkdir(parents=True)
    (tmp_path / "hosts.yml").write_text(
        "gpu:\n  vars: {ansible_user: deploy, ansible_ssh_common_args: '-o ProxyJump=\"a b\"', where: 2022}\n  hosts:\n"
        "    one: {ansible_host: 192.0.2.11, ansible_port: 2022, ansible_ssh_private_key_file: ~/k}\n"
        "    two: {ansible_host: 192.0.2.12, ansible_connection: local, ansible_python_interpreter: /opt/python}\n"
        "    three: {ansible_host: 192.0.2.13, ansible_password: x}\n"
    )
    (tmp_path / "group_vars/all/site.yml").write_text(
        "appliance_site:\n  control: {address: 192.0.2.5}\n  management_sources: [192.0.2.5]\n"
    )
    found = load(tmp_path).connections
    assert found["one"] == Connection(
        "192.0.2.11", 2022, "deploy", str(Path("~/k").expanduser()), ("-o", "ProxyJump=a b"), "/usr/bin/python3"
    )
    assert (found["two"].python, found["two"].unsupported) == ("/opt/python", "ansible_connection: local")
    assert found["three"].unsupported == "ansible_password"


@pytest.mark.timeout(120)  # what is not cut goes on for ever
def test_a_process_that_floods_hangs_or_drips_is_cut_in_time() -> None:
    python = [sys.executable, "-c"]
    flood = talk([*python, "while 1: print('x' * 1000)"], stdin=b"", timeout_s=20, limit_bytes=100_000)
    assert flood.cut == "output" and sum(len(x) for _, x in flood.lines) < 300_000
    one_line = talk([*python, "import sys\nwhile 1: sys.stdout.write('x' * 1000)"], stdin=b"", timeout_s=20, limit_bytes=100_000)  # fmt: skip
    assert one_line.cut == "output"
    drip = "import time\nwhile 1: print('x', flush=True); time.sleep(0.05)"
    assert talk([*python, drip], stdin=b"", timeout_s=0.5, limit_bytes=100_000).cut == "time"
    assert (
        talk([*python, "import signal; signal.pause()"], stdin=b"y" * 10**6, timeout_s=0.5, limit_bytes=9).cut == "time"
    )


def test_a_process_is_heard_line_by_line_with_its_words_and_code() -> None:
    program = "import sys; print(len(sys.stdin.read())); print('no', file=sys.stderr); sys.exit(3)"
    heard = talk([sys.executable, "-c", program], stdin=b"z" * 500_000, timeout_s=20, limit_bytes=1000)
    assert [x for _, x in heard.lines] == [b"500000"] and (heard.code, heard.stderr, heard.cut) == (3, "no\n", "")
    deaf = talk([sys.executable, "-c", "print('deaf')"], stdin=b"z" * 500_000, timeout_s=20, limit_bytes=1000)
    assert [x for _, x in deaf.lines] == [b"deaf"] and deaf.code == 0


def test_the_beacon_says_its_word_and_says_why_when_it_cannot() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with beacon.listening("127.0.0.1", port, "w") as trouble:
            assert "cannot listen on 127.0.0.1" in trouble
    with beacon.listening("127.0.0.1", port, "the word") as trouble:
        assert trouble == ""
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            assert connection.recv(64) == b"the word"
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()


def test_what_is_to_come_counts_once_and_what_is_there_does_not() -> None:
    wanted, facts = release(), node()
    assert facts.storage
    stamp = needs.question(GPU, wanted, site(), word="w", listening=True, outside=()).files[0]
    assert stamp == f"/opt/appliance/releases/demo-1.0.0/vllm/complete-{'2' * 16}"
    lacking = 140 * 10**9
    fresh = needs.expectation(GPU, wanted, site(), replace(facts, storage=replace(facts.storage, lacking_bytes=lacking)), TODAY)  # fmt: skip
    by_what = {s.what: s for s in fresh.spaces}
    assert by_what["content"].n_bytes == lacking + 5000 and by_what["content"].path == needs.BLOBS
    assert by_what["runtime"].n_bytes == int((10**9 + 3 * 10**6 + 5000) * needs.UNPACKED)
    assert by_what["packages"].n_bytes == 7 * 10**6
    there = needs.expectation(GPU, wanted, site(), replace(facts, storage=replace(facts.storage, present=(stamp,))), TODAY)  # fmt: skip
    assert {s.what: s.n_bytes for s in there.spaces}.get("runtime") is None
    lies = needs.expectation(GPU, wanted, site(), replace(facts, storage=replace(facts.storage, lacking_bytes=1 << 60)), TODAY)  # fmt: skip
    assert lies.spaces[0].n_bytes < 142 * 10**9, "a node cannot ask for more than the release holds"


def test_demands_of_gpus_follow_from_definition_and_lock() -> None:
    gpu = needs.expectation(GPU, release(), site(), node(), TODAY).gpu
    assert gpu and (gpu.models, gpu.driver, gpu.branch, gpu.cuda, gpu.nvswitch) == (("h200",), "580.178.04", 580, (13, 0), True)  # fmt: skip
    assert needs.expectation(GATEWAY, release(), site(), node(), TODAY).gpu is None
    flat = needs.expectation(GPU, release(nvswitch=False, mig=["3g.71gb"]), site(), node(), TODAY).gpu
    assert flat and not flat.nvswitch and flat.mig
    nothing = needs.Release(None, None)
    assert needs.expectation(GPU, nothing, site(devices=()), node(), TODAY).gpu is None
    assert needs.expectation(GPU, nothing, site(), node(), TODAY).gpu is not None


@pytest.mark.parametrize(("text", "n_bytes"), [("64G", 64 << 30), ("1.5T", 3 << 39), ("512", 512), ("", 0), ("80%", 0)])
def test_sizes_are_systemds(text: str, n_bytes: int) -> None:
    assert needs.bytes_of(text) == n_bytes


def test_what_must_not_be_reachable_is_given_as_addresses() -> None:
    assert needs.outside_of([]) == needs.OUTSIDE
    assert needs.outside_of(["192.0.2.1:443", "[2001:db8::1]:53"]) == (("192.0.2.1", 443), ("2001:db8::1", 53))
    for wrong in ("example.com:443", "192.0.2.1", "192.0.2.1:x", "192.0.2.1:99999"):
        with pytest.raises(InputError, match="no address with a port"):
            needs.outside_of([wrong])


def test_all_nodes_are_asked_and_the_worst_decides() -> None:
    port = _free()

    def ask(connection: Connection, question: Question) -> Answer:
        if connection.address == GATEWAY.address:
            return Answer(failure="unreachable", detail="ssh: No route to host\x1b[2J")
        assert question.control == ("127.0.0.1", port)
        with socket.create_connection(question.control, timeout=5) as control:
            assert control.recv(64).decode() == question.word
        return Answer(without_gpu(), "", "", 0.1, 0.1)

    reports = preflight(site(port), release(), Silent(), today=TODAY, ask=ask)
    assert [(r.node, r.verdict) for r in reports] == [("gw-1", 1), ("gpu-1", 2)]
    assert verdict_of(reports) == 2
    assert "No route to host\\x1b[2J" in reports[0].findings[0].what, "a node's words do not steer a terminal"
    assert json.loads(json.dumps(reports[1].data()))["facts"]["system"]["os_id"] == "ubuntu"
    assert [r.node for r in preflight(site(port), release(), Silent(), limit=["gw-1"], today=TODAY, ask=ask)] == [
        "gw-1"
    ]
    with pytest.raises(InputError, match="nobody is not in the inventory"):
        preflight(site(port), release(), Silent(), limit=["nobody"], today=TODAY, ask=ask)


def _free() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_an_install_refuses_what_nodes_said_and_leaves_the_unreachable_to_itself() -> None:
    finding = fail("space", "/ is full", "Free 1 GB")
    asked = NodeReport("gpu-1", "192.0.2.21", (finding, warn("names", "x", "y")), node())
    away = NodeReport("gw-1", "192.0.2.10", (fail("ssh", "cannot be reached", "Look"),), None)
    assert gate.failures([asked, away]) == [Failure("gpu-1", "space", "preflight", "/ is full. Free 1 GB")]


def test_preflight_is_skipped_only_with_a_reason_worth_keeping() -> None:
    gate.check_reason("")
    gate.check_reason("the disks are swapped tonight")
    with pytest.raises(InputError, match="too short"):
        gate.check_reason("because")


def test_a_limit_means_what_ansible_means(tmp_path: Path) -> None:
    (tmp_path / "group_vars/all").mkdir(parents=True)
    (tmp_path / "hosts.yml").write_text(
        "all:\n  children:\n    gpu: {hosts: {g1: {ansible_host: 192.0.2.11}, g2: {ansible_host: 192.0.2.12}}}\n"
        "    control: {hosts: {c: {ansible_host: 192.0.2.3}}}\n"
    )
    (tmp_path / "group_vars/all/site.yml").write_text(
        "appliance_site:\n  control: {address: 192.0.2.5}\n  management_sources: [192.0.2.5]\n"
    )
    inventory = load(tmp_path)
    assert gate.limited(inventory, "gpu:!g1") == ["g2"]
    assert gate.limited(inventory, "") == ["g1", "g2"]
    for pattern in ("nope", "control", "g1:!g1"):  # a change of no node would look like one that succeeded
        with pytest.raises(InputError, match="no node of the inventory matches") as refused:
            gate.limited(inventory, pattern)
        assert "g1, g2" in refused.value.remedy


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["BUNDLE", "--release", "x-1"], "both a bundle and --release"),
        (["BUNDLE"], "no root of trust is pinned"),
        (["--outside", "example.com:443"], "no address with a port"),
        (["--limit", "nobody"], "nobody is not in the inventory"),
    ],
)
def test_wrong_words_are_one_sentence_and_exit_code_two(
    words: list[str], error: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = ["preflight", "-i", str(TREE / "inventories/example"), "--depot", str(tmp_path / "none")]
    with pytest.raises(SystemExit) as ended:
        main([*place, *[str(tmp_path) if w == "BUNDLE" else w for w in words]])
    assert ended.value.code == 2
    assert error in capsys.readouterr().err


def test_the_port_of_the_relay_is_asked_for_where_nodes_hand_on(tmp_path: Path) -> None:
    whole = site()
    alone = replace(whole, hosts=(GPU,))
    ports = {
        n: [p.port for p in needs.expectation(GPU, release(), of, node(), TODAY).ports]
        for n, of in (("whole", whole), ("alone", alone))
    }
    assert ports == {"whole": [8444, 7444], "alone": [8444]}
