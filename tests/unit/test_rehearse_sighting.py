"""What a watched process gave the kernel is read right, and hostile bytes are no trouble."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from installer.lab.notify import ABIS, AF_PACKET, program
from installer.lab.sighting import HIDDEN, MAX_ARGUMENTS, command, destination, question, stays, unit


def ipv4(address: str, port: int) -> bytes:
    return struct.pack("=H", socket.AF_INET) + struct.pack("!H", port) + socket.inet_aton(address) + bytes(8)


def ipv6(address: str, port: int) -> bytes:
    head = struct.pack("=H", socket.AF_INET6) + struct.pack("!HI", port, 0)
    return head + socket.inet_pton(socket.AF_INET6, address) + bytes(4)


def query(name: str, *, questions: int = 1, flags: int = 0x0100) -> bytes:
    labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
    return struct.pack("!6H", 7, flags, questions, 0, 0, 0) + labels + b"\0" + struct.pack("!2H", 1, 1)


@pytest.mark.parametrize(
    ("raw", "found"),
    [
        (ipv4("192.0.2.7", 443), ("192.0.2.7", 443)),
        (ipv6("2001:db8::7", 80), ("2001:db8::7", 80)),
        (ipv6("::ffff:192.0.2.7", 80), ("192.0.2.7", 80)),  # IPv4 through an IPv6 socket is IPv4
        (ipv4("192.0.2.7", 443)[:7], None),
        (struct.pack("=H", socket.AF_UNIX) + b"/run/x", None),
        (struct.pack("=H", socket.AF_UNSPEC) + bytes(14), None),
        (b"", None),
    ],
)
def test_a_destination_is_read_from_its_bytes(raw: bytes, found: tuple[str, int] | None) -> None:
    assert destination(raw) == found


@pytest.mark.parametrize("address", ["127.0.0.1", "127.3.2.1", "::1", "0.0.0.0", "::"])  # noqa: S104  not bound to
def test_loopback_stays_but_a_question_to_a_name_server_does_not(address: str) -> None:
    assert stays(address, 8000)
    assert not stays(address, 53)


@pytest.mark.parametrize("address", ["10.0.0.1", "169.254.1.1", "fe80::1", "224.0.0.1", "2001:db8::1"])
def test_everything_else_leaves(address: str) -> None:
    assert not stays(address, 8000)


def test_the_name_of_a_question_is_read() -> None:
    assert question(query("huggingface.co")) == "huggingface.co"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        query("a.example")[:14],
        query("a.example", flags=0x8180),
        query("a.example", questions=2),
        query("a")[:12] + b"\xc0\x0c\0\1\0\1",
    ],
)
def test_what_is_no_question_has_no_name(raw: bytes) -> None:
    assert question(raw) == ""


@given(st.binary(max_size=600))
def test_no_bytes_break_the_readers(raw: bytes) -> None:
    destination(raw)
    assert len(question(raw)) <= 253


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        (["curl", "--token", "s3cret", "x"], f"curl --token {HIDDEN} x"),
        (["tool", "--api-key=s3cret"], f"tool --api-key={HIDDEN}"),
        (["env", "HF_TOKEN=s3cret", "run"], f"env HF_TOKEN={HIDDEN} run"),
        (["git", "clone", "https://me:s3cret@example.org/x"], f"git clone https://{HIDDEN}@example.org/x"),
        (["tool", "--password", "--verbose"], "tool --password --verbose"),
        (["python3", "-c", "import  a\nb"], "python3 -c import a b"),
    ],
)
def test_a_command_is_shown_without_secrets(arguments: list[str], shown: str) -> None:
    assert command(arguments) == shown


def test_a_long_command_is_cut() -> None:
    assert len(command(["x" * 9999])) == MAX_ARGUMENTS + len(HIDDEN)


@pytest.mark.parametrize(
    ("cgroups", "found"),
    [
        ("1:name=systemd:/apl-1/2-1/system.slice/system-appliance\\x2dvllm.slice/appliance-vllm@tiny.service", "appliance-vllm@tiny.service"),
        ("0::/apl-1/2-1/system.slice/ssh.service", "ssh.service"),
        ("4:memory:/a.service\n1:name=systemd:/x/user.slice/session-3.scope\n0::/", "session-3.scope"),
        ("0::/", ""),
        ("", ""),
    ],
)  # fmt: skip
def test_the_unit_is_the_innermost_one(cgroups: str, found: str) -> None:
    assert unit(cgroups) == found


def outcome(code: bytes, arch: int, number: int, first: int) -> int:
    """What the kernel's filter machine returns for a call: the few instructions that ours uses, as in linux/filter.h."""
    lines = [struct.unpack_from("=HBBI", code, at) for at in range(0, len(code), 8)]
    at, held = 0, 0
    while True:
        operation, if_true, if_false, value = lines[at]
        at += 1
        if operation == 0x06:
            return int(value)
        if operation == 0x20:
            held = {0: number, 4: arch, 16: first}[value]
        else:
            at += if_true if (held == value if operation == 0x15 else held >= value) else if_false


ALLOW, NOTIFY, ABSENT = 0x7FFF0000, 0x7FC00000, 0x00050026


@pytest.mark.parametrize("machine", ABIS)
def test_the_filter_asks_about_destinations_and_nothing_else(machine: str) -> None:
    abi, code = ABIS[machine], program(ABIS[machine])
    expected = {"connect": NOTIFY, "sendto": NOTIFY, "sendmsg": NOTIFY, "sendmmsg": NOTIFY, "io_uring_setup": ABSENT}
    for name, number in abi.calls.items():
        assert outcome(code, abi.arch, number, socket.AF_INET) == expected.get(name, ALLOW), name
    assert outcome(code, abi.arch, abi.calls["socket"], AF_PACKET) == NOTIFY
    assert outcome(code, abi.arch, 0, 0) == ALLOW
    assert outcome(code, 0x40000003, abi.calls["connect"], 0) == ABSENT  # a 32-bit program on x86
    assert outcome(code, abi.arch, abi.calls["connect"] | 0x40000000, 0) == ABSENT  # x32
