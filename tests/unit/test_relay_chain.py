"""Who comes after whom, who is to blame, and which bytes are passed on."""

from __future__ import annotations

import io
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.blobs import Blobs
from engine.errors import InputError
from engine.pieces import PIECE, Pieces, list_length, make, trim
from engine.relay import Offer, Shelf, is_node, split
from engine.sources import BACKLOG, Flight, Sample, Source, Sources, State, Verdict, judge
from engine.trust import Target
from installer.site import piecelists
from installer.site.chain import order
from installer.site.inventory import Host, Inventory
from installer.site.settings import Relay, Site
from tests.unit.test_preflight_site import GATEWAY, GPU

SITE = Site.model_validate({"control": {"address": "192.0.2.5"}, "management_sources": ["192.0.2.5"]})
MB = 1 << 20
SHA = "ab" * 32


def host(name: str, rack: str = "") -> Host:
    return Host(name, f"192.0.2.{len(name)}", ("gpu",), rack)


def test_the_chain_stays_in_a_rack_until_everybody_there_has_been_served() -> None:
    hosts = (host("a", "r2"), host("b", "r1"), host("c", "r2"), host("d", "r1"), host("e"))
    assert order(Inventory(Path(), hosts, SITE)) == ("e", "b", "d", "a", "c")


def test_there_is_no_chain_without_neighbours_or_where_the_site_wants_none() -> None:
    control = Host("control", "192.0.2.5", ("control",))
    assert order(Inventory(Path(), (control, GPU), SITE)) == ()
    assert order(Inventory(Path(), (control, GPU, GATEWAY), SITE)) == ("gpu-1", "gw-1")
    off = SITE.model_copy(update={"relay": Relay(enabled=False)})
    assert order(Inventory(Path(), (GPU, GATEWAY), off)) == ()


# -- who is to blame --------------------------------------------------------------------------
BEST = 25e6


def verdict(
    mine: int, near: int, behind: int | None, *, near_grows: int = 0, behind_grows: int = 0, depot: bool = False
) -> Verdict:
    """Of a second in which nothing came here."""
    before = Sample(0, mine, near - near_grows, None if behind is None else behind - behind_grows, depot)
    return judge(BEST, before, Sample(1, mine, near, behind, depot))


def test_a_source_that_starves_beside_one_that_is_fed_is_left() -> None:
    assert verdict(10 * MB, 10 * MB, 35 * MB, behind_grows=22 * MB) is Verdict.LEAVE


def test_a_source_that_starves_like_the_one_behind_it_is_not_to_blame() -> None:
    assert verdict(10 * MB, 10 * MB, 10 * MB) is Verdict.STAY


def test_a_source_gets_time_when_the_one_behind_it_is_dead() -> None:
    assert verdict(10 * MB, 10 * MB, None) is Verdict.STAY


def test_a_source_that_has_much_and_sends_nothing_is_left() -> None:
    assert verdict(10 * MB, 10 * MB + BACKLOG + 1, 10 * MB) is Verdict.LEAVE


def test_a_source_that_catches_up_is_waited_for() -> None:
    assert verdict(30 * MB, 25 * MB, 60 * MB, near_grows=20 * MB, behind_grows=20 * MB) is Verdict.STAY


def test_only_trying_the_depot_can_tell_whether_the_first_node_is_to_blame() -> None:
    assert verdict(10 * MB, 10 * MB, 100 * MB, depot=True) is Verdict.PROBE


@given(rate=st.integers(int(BEST / 4), int(BEST)), near=st.integers(0, 10**9), behind=st.none() | st.integers(0, 10**9))
def test_nobody_is_left_while_bytes_come_well(rate: int, near: int, behind: int | None) -> None:
    assert judge(BEST, Sample(0, 0, 0, behind, False), Sample(1, rate, near, behind, False)) is Verdict.STAY


def three() -> Sources:
    return Sources([Source("n2", "https://n2"), Source("n1", "https://n1")], Source("depot", "https://d", peer=False))


def test_the_nearest_that_is_up_is_used_and_the_depot_is_always_there() -> None:
    sources = three()
    near, far, depot = sources.all
    assert sources.pick() is near
    sources.away(near, "does not answer")
    assert sources.pick() is far
    sources.out(far, "served wrong bytes of x")
    sources.out(depot, "x")
    sources.away(depot, "x")
    assert sources.pick() is depot
    sources.back(near)
    sources.back(far)
    assert (sources.pick(), far.state) == (near, State.OUT)
    assert sources.left == ["n1 served wrong bytes of x"]  # a neighbour that was not up yet is no news


def test_what_is_in_flight_moves_to_a_nearer_source_that_is_back() -> None:
    sources = three()
    near, far, _ = sources.all
    sources.away(near, "does not answer")
    with sources.flying(far, SHA, 10, 0) as flight:
        sources.back(near)
        assert flight.cut
    with sources.flying(near, SHA, 10, 0) as other:
        sources.away(far, "broke off")
        assert not other.cut


# -- what is passed on ------------------------------------------------------------------------
@given(size=st.integers(1, 3 * PIECE + 5), at=st.integers(0), parts=st.integers(0, 255))
@settings(max_examples=25)
def test_every_piece_is_known_by_its_hash_and_a_flipped_bit_is_seen(size: int, at: int, parts: int) -> None:
    data = bytearray(bytes([parts]) * size)
    known = Pieces(make(io.BytesIO(bytes(data))), size)
    assert all(known.right(i, bytes(data[i : i + PIECE])) for i in range(0, size, PIECE))
    at %= size
    data[at] ^= 1
    start = at // PIECE * PIECE
    assert not known.right(start, bytes(data[start : start + PIECE]))
    assert not known.right(start + 1, bytes(data[start + 1 : start + PIECE]))


@pytest.mark.parametrize("more", [-1, 1, 32])
def test_a_list_of_another_length_is_none(more: int) -> None:
    with pytest.raises(ValueError, match="cannot be that of"):
        Pieces(bytes(list_length(MB) + more), MB)


def test_what_lies_there_is_cut_to_the_pieces_that_are_right(tmp_path: Path) -> None:
    data = os.urandom(5 * PIECE)
    known = Pieces(make(io.BytesIO(data)), len(data))
    blobs, partial = Blobs(tmp_path), tmp_path / "partial" / SHA
    assert trim(blobs, SHA, known) == 0
    partial.parent.mkdir()
    wrong = data[:PIECE] + bytes([data[PIECE] ^ 1]) + data[PIECE + 1 :]
    for lies, good in ((data[: 2 * PIECE + 7], 2), (wrong, 1), (data + b"more", 5)):
        partial.write_bytes(lies)
        assert trim(blobs, SHA, known) == good * PIECE
        assert partial.read_bytes() == data[: good * PIECE]


def test_a_blob_that_nobody_can_check_yet_is_not_shown_before_it_is_complete(tmp_path: Path) -> None:
    blobs, other = Blobs(tmp_path), "cd" * 32
    (tmp_path / "partial").mkdir()
    for name in (SHA, other):
        (tmp_path / "partial" / name).write_bytes(b"half")
    shelf = Shelf(blobs, Offer({SHA: 8, other: 8}, frozenset([other])))
    assert (shelf.have(SHA), shelf.have(other)) == (0, 4)
    assert shelf.size("ef" * 32) is None


def test_a_link_in_the_store_is_not_followed(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path)
    blobs.path(SHA).parent.mkdir(parents=True)
    blobs.path(SHA).symlink_to("/etc/hostname")
    with pytest.raises(OSError, match="symbolic links"):
        Shelf(blobs, Offer({SHA: 8}, frozenset())).open(SHA)


def test_lists_are_made_once_and_go_with_their_blobs(tmp_path: Path) -> None:
    blobs = Blobs(tmp_path / "depot")
    big, small = tmp_path / "big", tmp_path / "small"
    big.write_bytes(os.urandom(MB))
    small.write_bytes(b"small")
    targets = [Target(p.name, size, sha256) for p in (big, small) for sha256, size in [blobs.keep(p)]]
    place = tmp_path / "pieces"
    assert piecelists.ensure(place, blobs, targets) == 1
    assert piecelists.ensure(place, blobs, targets) == 0
    raw = (place / targets[0].sha256).read_bytes()
    assert Pieces(raw, MB).right(0, blobs.path(targets[0].sha256).read_bytes()[:PIECE])
    blobs.path(targets[0].sha256).unlink()
    (place / "stranger").write_text("x")
    piecelists.ensure(place, blobs, [])
    assert list(place.iterdir()) == []


# -- who may ask ------------------------------------------------------------------------------
def certificate(unit: str = "node", *addresses: str) -> dict[str, object]:
    names = tuple(("IP Address", a) for a in addresses)
    return {
        "subject": ((("commonName", "n"),), (("organizationalUnitName", unit),)),
        "subjectAltName": (("DNS", "n"), *names),
    }


@pytest.mark.parametrize(
    ("shown", "good"),
    [
        (certificate("node", "192.0.2.1"), True),
        (certificate("node", "192.0.2.2", "192.0.2.1"), True),
        (certificate("node", "192.0.2.2"), False),
        (certificate("client", "192.0.2.1"), False),
        (certificate("node"), False),
        ({}, False),
    ],
)  # fmt: skip
def test_only_the_node_of_that_address_is_let_in(shown: dict[str, object], good: bool) -> None:
    assert is_node(shown, "192.0.2.1") is good


def test_addresses_of_ipv6_are_compared_as_addresses() -> None:
    assert is_node(certificate("node", "2001:DB8:0:0:0:0:0:1\n"), "2001:db8::1")
    assert split("[2001:db8::1]:7444") == ("2001:db8::1", 7444)
    with pytest.raises(InputError, match="not ADDRESS:PORT"):
        split("nowhere:1")


def test_a_flight_is_cut_only_once_it_has_something_to_cut() -> None:
    sources = three()
    near = sources.all[0]
    seen: list[Flight] = []

    def fly() -> None:
        with sources.flying(near, SHA, 10, 0) as flight:
            seen.append(flight)
            sources.took(flight, 4)

    thread = threading.Thread(target=fly)
    thread.start()
    thread.join()
    assert (seen[0].done, near.moved, sources.in_flight(near)) == (4, 4, [])
