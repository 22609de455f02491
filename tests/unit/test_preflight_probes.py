"""Probes read what the kernel says, in the forms it says it, and survive what is broken."""

from __future__ import annotations

import ast
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from engine.preflight import gather, probe_clock, probe_gpu, probe_leases, probe_network, probe_storage, probe_system
from engine.preflight.facts import Facts, Question, Xid
from installer.site import probescript, remote


def tree(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def test_nvidia_devices_are_found_by_class_with_their_link(tmp_path: Path) -> None:
    def device(vendor: str, number: str, kind: str) -> dict[str, str | bytes]:
        link = {"current_link_speed": "16.0 GT/s PCIe", "max_link_speed": "32.0 GT/s PCIe", "current_link_width": "8", "max_link_width": "16", "numa_node": "1"}  # fmt: skip
        return {"vendor": vendor + "\n", "device": number + "\n", "class": kind + "\n", **link}

    devices = {
        "0000:19:00.0": device("0x10de", "0x2335", "0x030200"),
        "0000:01:00.0": device("0x10de", "0x22a3", "0x068000"),
        "0000:02:00.0": device("0x10de", "0x10f0", "0x040300"),  # the sound of a graphics card
        "0000:03:00.0": device("0x1a03", "0x2000", "0x030000"),  # the board's own VGA
    }
    tree(tmp_path, {f"bus/{name}/{k}": v for name, files in devices.items() for k, v in files.items()})
    (tmp_path / "drivers/nvidia").mkdir(parents=True)
    (tmp_path / "bus/0000:19:00.0/driver").symlink_to("../../drivers/nvidia")
    found = probe_gpu.pci(tmp_path / "bus")
    assert [(d.address, d.device, d.kind, d.driver) for d in found] == [
        ("0000:01:00.0", 0x22A3, 0x0680, ""),
        ("0000:19:00.0", 0x2335, 0x0302, "nvidia"),
    ]
    assert (found[1].width, found[1].max_width, found[1].numa_node, found[1].speed) == (8, 16, 1, "16.0 GT/s PCIe")


@pytest.mark.parametrize(
    ("banner", "version", "flavour"),
    [
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.178.04  Release Build  (dvs@x)\nGCC version: 13", "580.178.04", "open"),
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.161.07  Sat Feb 17 22:55:48 UTC 2024\n", "535.161.07", "proprietary"),
        ("", "", ""),
    ],
)  # fmt: skip
def test_the_loaded_module_is_read_from_its_banner(tmp_path: Path, banner: str, version: str, flavour: str) -> None:
    files = {"modules": "nvidia_uvm 1 0 - Live 0x0\nnouveau 2 0 - Live 0x0\next4 3 0\n"}
    tree(tmp_path, {**files, **({"driver/nvidia/version": banner} if banner else {})})
    found = probe_gpu.driver(tmp_path, tmp_path)
    assert (found.module_version, found.module_flavour) == (version, flavour)
    assert found.modules == ("nouveau", "nvidia_uvm")
    assert found.cuda is None and found.cuda_error == "not found"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("NVRM: Xid (PCI:0000:65:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.", (79, "0000:65:00")),
        ("NVRM: Xid (0000:03:00): 14, Channel 00000001", (14, "0000:03:00")),
        ("NVRM: Xid (PCI:0000:19:00.0): 63, Row remapper", (63, "0000:19:00.0")),
        ("NVRM: GPU at PCI:0000:19:00: GPU-b850f46d", None),
        ("somebody writes NVRM: Xid (no bus): x", None),
    ],
)  # fmt: skip
def test_xids_are_read_in_every_form_that_drivers_write(line: str, found: tuple[int, str] | None) -> None:
    seen = probe_gpu.xid(line, 12.5)
    assert (seen and (seen.code, seen.device, seen.seconds)) == (found and (*found, 12.5))


def test_the_kernels_log_is_read_record_by_record(tmp_path: Path) -> None:
    """A pipe gives records as /dev/kmsg does: one a read."""
    pipe = tmp_path / "kmsg"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(pipe, os.O_WRONLY)
    os.write(writer, b"4,42,1500000,-;NVRM: Xid (PCI:0000:65:00): 48, pid=7, DBE\n SUBSYSTEM=pci\n")
    log = probe_gpu.kernel_log(str(pipe))
    os.close(writer)
    os.close(reader)
    assert log.readable and log.wrapped, "it began with record 42"
    assert log.xids == (Xid(48, "0000:65:00", 1.5, "pid=7, DBE"),)
    assert not probe_gpu.kernel_log(str(tmp_path / "none")).readable


def test_secure_boot_is_the_byte_after_the_attributes(tmp_path: Path) -> None:
    base = "efivars/{}-8be4df61-93ca-11d2-aa0d-00e098032b8c"
    tree(tmp_path, {base.format("SecureBoot"): b"\6\0\0\0\1", base.format("SetupMode"): b"\6\0\0\0\0"})
    found = probe_system.firmware(tmp_path)
    assert (found.efi, found.secure_boot, found.setup_mode, found.mok_list) == (True, True, False, False)
    nothing = probe_system.firmware(tmp_path / "none")
    assert (nothing.efi, nothing.secure_boot, nothing.mok_list) == (False, None, None)
    tree(tmp_path, {base.format("SecureBoot"): b"\6\0\0"})
    assert probe_system.firmware(tmp_path).secure_boot is None


def test_os_release_is_read_as_a_shell_would() -> None:
    text = 'ID=ubuntu\nVERSION_ID="24.04"\n# a comment\nPRETTY_NAME="Ubuntu \\"Noble\\""\nBAD="never ends\n'
    found = probe_system.os_release(text)
    assert found["ID"] == "ubuntu" and found["VERSION_ID"] == "24.04" and found["PRETTY_NAME"] == 'Ubuntu "Noble"'


def test_numa_and_huge_pages_are_counted(tmp_path: Path) -> None:
    tree(tmp_path, {
        "node/node0/x": "", "node/node1/x": "", "mm/transparent_hugepage/enabled": "always [madvise] never",
        "mm/hugepages/hugepages-2048kB/nr_hugepages": "8", "mm/hugepages/hugepages-2048kB/free_hugepages": "3",
    })  # fmt: skip
    found = probe_system.memory(tmp_path / "node", tmp_path / "mm")
    assert found.numa_nodes == 2 and found.transparent == "madvise"
    assert [(p.size_bytes, p.total, p.free) for p in found.huge_pages] == [(2 << 20, 8, 3)]


def test_the_clock_is_read_and_agrees_with_this_process() -> None:
    before, found, after = time.time(), probe_clock.clock(), time.time()
    assert before <= found.time_s <= after
    assert found.state is None or found.max_error_us is not None


def test_the_disk_is_measured_without_a_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The invariant: neither names nor times of the directory change, and its space comes back."""
    monkeypatch.setattr(probe_storage, "READ_BYTES", 8 << 20)
    place = tmp_path / "models"
    place.mkdir()
    before = (place.stat().st_mtime_ns, place.stat().st_ctime_ns)
    found = probe_storage.disk(str(place / "not" / "there"))
    assert found.directory == str(place)
    assert found.syncs > 0 and found.fsync_p50_ms and found.fsync_p99_ms and found.fsync_p50_ms <= found.fsync_p99_ms
    assert found.read_bytes_per_s
    assert list(place.iterdir()) == [] and (place.stat().st_mtime_ns, place.stat().st_ctime_ns) == before


def test_where_no_nameless_file_can_be_made_nothing_is_measured() -> None:
    found = probe_storage.disk("/proc/1")
    assert found.fsync_p50_ms is None and "cannot make a file without a name" in found.note


def test_a_path_belongs_to_the_longest_mount_above_it() -> None:
    mounted = {"/": "ext4", "/proc": "proc"}
    assert probe_storage.space("/proc/does/not/exist", mounted).mount == "/proc"
    assert probe_storage.space("/nothing/here", mounted).mount == "/"
    assert probe_storage.mounts()["/"]


def test_blobs_that_are_here_do_not_count_as_lacking(tmp_path: Path) -> None:
    here, cut, away = "a" * 64, "b" * 64, "c" * 64
    tree(tmp_path, {f"sha256/aa/{here}": b"12345", f"sha256/bb/{cut}": b"1"})
    question = Question(blobs={here: 5, cut: 5, away: 7}, blob_store=str(tmp_path), files=(str(tmp_path), "/nothing"))
    found = probe_storage.storage(question)
    assert found.lacking_bytes == 12
    assert found.present == (str(tmp_path),)


def test_a_bound_port_is_found_with_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        found = [x for x in probe_network.listeners() if x.port == port]
    assert [(x.protocol, x.address, x.pid) for x in found] == [("tcp", "127.0.0.1", os.getpid())]


@pytest.mark.parametrize(
    ("raw", "address"),
    [
        ("0100007F", "127.0.0.1"),
        ("00000000000000000000000001000000", "::1"),
        ("B80D01200000000000000000FF000000", "2001:db8::ff"),
    ],
)
def test_addresses_of_proc_are_words_in_this_machines_order(raw: str, address: str) -> None:
    if sys.byteorder == "big":
        pytest.fail("this test names addresses as little-endian machines write them")
    assert probe_network._address(raw) == address


def test_a_connection_counts_only_when_the_right_word_comes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for answer in (b"the word", b"another", b""):
                with server.accept()[0] as connection:
                    connection.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()
        target = ("127.0.0.1", server.getsockname()[1])
        outcomes = [probe_network.reach(target, "the word").outcome for _ in range(3)]
    assert outcomes == ["connected", "wrong", "wrong"]
    assert probe_network.reach(target, "the word").outcome == "refused"


def test_names_that_do_not_exist_do_not_resolve() -> None:
    found = probe_network.resolve(["localhost", "does-not-exist.invalid"])
    assert set(found["localhost"]) <= {"127.0.0.1", "::1"} and found["localhost"]
    assert "does-not-exist.invalid" not in found


@pytest.mark.timeout(120)  # where the one that hangs is waited for
def test_a_probe_that_hangs_dies_or_raises_takes_nobody_along() -> None:
    def dies() -> None:
        os.kill(os.getpid(), 9)

    def raises() -> None:
        raise OSError("no such luck")

    found = gather.gather(
        {
            "hangs": signal.pause,
            "dies": dies,
            "raises": raises,
            "floods": lambda: "x" * (gather.MAX_ANSWER + 10),
            "well": lambda: {"a": 1},
        },
        deadline_s=5.0,
    )
    assert found["well"] == {"a": 1}
    assert found["troubles"] == {
        "hangs": "did not end in time",
        "dies": "ended without an answer",
        "raises": "OSError: no such luck",
        "floods": "answered too much",
    }


def test_this_machine_is_gathered_into_facts_that_the_control_host_accepts() -> None:
    question = Question(spaces=("/",), outside=(("127.0.0.1", 1),))
    found = gather.gather(gather.probes(question))
    facts = remote.parse(json.dumps(found).encode())
    assert isinstance(facts, Facts) and facts.troubles == {}
    assert facts.system and facts.system.kernel == os.uname().release
    assert facts.network and facts.network.outside[0].outcome == "refused"
    assert facts.nvml and facts.nvml.error == "LIBRARY_NOT_FOUND" and facts.pci == ()


def test_addresses_with_an_end_are_found_and_others_are_not() -> None:
    """In a network namespace of its own: the kernel's word, not a file's."""
    script = """set -e
ip link add one type veth peer name two; ip link set one up; ip link set two up
ip address add 192.0.2.9/24 dev one valid_lft 3600 preferred_lft 3600
ip address add 198.51.100.9/24 dev one
ip address add 198.51.100.10/24 dev one valid_lft 3600 preferred_lft 3600
ip address add 2001:db8::9/128 dev two valid_lft 600 preferred_lft 600
ip address add 2001:db8:1::9/64 dev two valid_lft 600 preferred_lft 600
exec "$0" -c 'import json; from dataclasses import asdict; from engine.preflight.probe_leases import leases; print(json.dumps([asdict(l) for l in leases()]))'
"""
    argv = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", script, sys.executable]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=60, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [(lease["interface"], lease["address"], lease["prefix"]) for lease in found] == [
        ("one", "192.0.2.9", 24), ("one", "198.51.100.10", 24), ("two", "2001:db8:1::9", 64), ("two", "2001:db8::9", 128),
    ]  # fmt: skip
    assert 3500 < found[0]["seconds"] <= 3600


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("run/systemd/netif/leases/2", "# private\nADDRESS=192.0.2.9\nSERVER_ADDRESS=192.0.2.1\n"),
        ("var/lib/NetworkManager/internal-0123-eth0.lease", "SERVER_ADDRESS=192.0.2.1\n"),
        ("var/lib/dhcp/dhclient.eth0.leases", "lease {\n  option dhcp-server-identifier 192.0.2.8;\n}\nlease {\n  option dhcp-server-identifier 192.0.2.1;\n}\n"),
        ("var/lib/dhcp/dhclient-0f-eth0.lease", "  option dhcp-server-identifier 192.0.2.1;\n"),
    ],
)  # fmt: skip
def test_the_server_of_a_lease_is_read_where_its_client_wrote_it(file: str, text: str, tmp_path: Path) -> None:
    assert probe_leases._server(tree(tmp_path, {file: text}), 2, "eth0") == "192.0.2.1"
    assert probe_leases._server(tmp_path, 3, "eth1") == ""


def test_what_is_sent_needs_nothing_but_an_old_pythons_standard_library() -> None:
    """The invariant: every import is either sent, too, or part of Python; every file is in the syntax of Python 3.9."""
    sent = probescript.modules()
    ours = {name.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for name in sent}
    for name, path in sent.items():
        parsed = ast.parse(path.read_text(), feature_version=probescript.OLDEST)
        for statement in ast.walk(parsed):
            wanted: list[str] = []
            if isinstance(statement, ast.Import):
                wanted = [alias.name for alias in statement.names]
            elif isinstance(statement, ast.ImportFrom):
                below = [f"{statement.module}.{alias.name}" for alias in statement.names]
                wanted = [m if m in ours else str(statement.module) for m in below]
            for module in wanted:
                assert module in ours or module.split(".")[0] in sys.stdlib_module_names, f"{name} imports {module}"
    assert {n for n in ours if n.startswith("engine.preflight.")} == {
        f"engine.preflight.{n}" for n in ("facts", "gather", "probe_clock", "probe_gpu", "probe_leases", "probe_network", "probe_storage", "probe_system", "reading")
    }  # fmt: skip


def test_a_stock_python_runs_the_script_from_standard_input_and_leaves_nothing(tmp_path: Path) -> None:
    question = Question(spaces=("/",))
    home = tmp_path / "home"
    home.mkdir()
    done = subprocess.run(
        ["/usr/bin/python3", "-I", "-B", "-"], input=probescript.script(question, "mark"), capture_output=True,
        timeout=60, check=True, cwd=home, env={"HOME": str(home), "TMPDIR": str(home), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    hello, facts = done.stdout.decode().splitlines()
    assert hello.startswith("mark hello ") and facts.startswith("mark facts ")
    assert remote.parse(facts.removeprefix("mark facts ").encode()).system
    assert list(home.rglob("*")) == [] and done.stderr == b""


def test_a_question_survives_the_way() -> None:
    asked = Question(("/",), {"a" * 64: 1}, "/b", ("/f",), ("192.0.2.1", 7443), "w", (("::1", 1),), ("n",), "/d")
    there = gather.question_of(json.loads(json.dumps(asdict(asked))))
    assert there == asked
    empty: dict[str, Any] = json.loads(json.dumps(asdict(Question())))
    assert gather.question_of(empty) == Question()
