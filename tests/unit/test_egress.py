"""When attempts to reach out prove that a node is shut, and when they do not."""

from __future__ import annotations

import errno
import ipaddress
import struct

import pytest

from engine.egress import FRAMES, SOCKETS, Attempt, Proof, main
from engine.egress_raw import _ip_frame, outcome_of
from engine.errors import Exit

TCP = Attempt("tcp", "192.0.2.1", "eth0", "refused", SOCKETS, 1)
UDP = Attempt("udp", "192.0.2.1", "eth0", "refused", SOCKETS, 1)
FRAME = Attempt("frame", "192.0.2.1", "eth0", "refused", FRAMES, 2)
NO_ROUTE = Attempt("tcp", "2001:db8::1", "eth0", "unroutable", "", 0)


def test_every_attempt_denied_at_a_counted_door_is_a_proof() -> None:
    assert Proof([TCP, UDP, FRAME]).shut
    assert Proof([TCP, UDP, FRAME, NO_ROUTE]).shut


@pytest.mark.parametrize(
    "attempts",
    [
        [],
        [NO_ROUTE],
        [TCP, UDP],
        [FRAME],
        [FRAME, NO_ROUTE],
        [TCP, UDP, FRAME, Attempt("tcp", "x", "eth0", "connected", SOCKETS, 1)],
        [TCP, UDP, FRAME, Attempt("frame", "x", "eth0", "sent", FRAMES, 1)],
        [TCP, UDP, FRAME, Attempt("udp", "x", "eth0", "refused", "", 0)],
        [TCP, UDP, FRAME, Attempt("tcp", "x", "eth0", "blocked", "", 0)],
    ],
)
def test_anything_less_is_none(attempts: list[Attempt]) -> None:
    assert not Proof(attempts).shut


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (OSError(errno.EPERM, ""), ("refused", "EPERM")),
        (OSError(errno.EHOSTUNREACH, ""), ("refused", "EHOSTUNREACH")),
        (OSError(errno.ENOBUFS, ""), ("refused", "ENOBUFS")),
        (OSError(errno.ENETUNREACH, ""), ("unroutable", "ENETUNREACH")),
        (TimeoutError(), ("blocked", "")),
    ],
)
def test_errors_become_outcomes(error: OSError, outcome: tuple[str, str]) -> None:
    def attempt() -> None:
        raise error

    assert outcome_of(attempt, done="sent") == outcome


def test_no_error_means_that_it_got_out() -> None:
    assert outcome_of(lambda: 1, done="sent") == ("sent", "")


def test_the_ipv4_frame_is_one_a_switch_would_carry() -> None:
    frame = _ip_frame(ipaddress.ip_address("192.0.2.1"))
    head = struct.unpack("!10H", frame[14:34])
    total = sum(head)
    assert (total & 0xFFFF) + (total >> 16) == 0xFFFF  # the one's complement sum over a right header
    assert frame[12:14] == b"\x08\x00"
    assert frame[30:34] == bytes([192, 0, 2, 1])
    assert len(frame) == 14 + head[1]


def test_the_ipv6_frame_names_its_target_and_length() -> None:
    frame = _ip_frame(ipaddress.ip_address("2001:db8::1"))
    assert frame[12:14] == b"\x86\xdd"
    assert frame[14] >> 4 == 6
    assert struct.unpack("!H", frame[18:20])[0] == len(frame) - 14 - 40
    assert frame[38:54] == ipaddress.IPv6Address("2001:db8::1").packed


def test_a_name_instead_of_an_address_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["example.org"]) == Exit.USAGE
    assert "no IP address" in capsys.readouterr().err
