"""What was seen on nodes is judged: what is inside or allowed for a reason does not count, everything else is named."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from engine import egress, egress_raw
from installer.lab.sighting import Sighting
from installer.rehearse.attempts import HARMLESS, Verdict, declared, inside, judge, read
from installer.rehearse.causes import causes
from installer.site.settings import Flow

ONE = Sighting(
    time=100.0, pid=7, process="python3", command="python3 -m x", unit="x.service", kind="tcp", address="203.0.113.9", port=443
)  # fmt: skip
QUERY = replace(ONE, kind="udp", address="127.0.0.1", port=53)
ASKED = replace(QUERY, kind="lookup", name="huggingface.co", time=100.1)
EXCUSES = [inside(["10.87.1.1", "10.87.1.11"]), *HARMLESS]


def count(*seen: Sighting, flows: tuple[Flow, ...] = ()) -> int:
    found, _ = judge({"n": seen}, [*EXCUSES, *map(declared, flows)], [])
    return len(found)


def test_an_attempt_is_named_with_who_where_and_when() -> None:
    steps = [
        (90.0, "n", "content: Fetch"),
        (99.0, "n", "vllm: Start"),
        (99.5, "other", "nginx: Start"),
        (101.0, "n", "vllm: Ask"),
    ]
    [attempt], _ = judge({"n": [ONE, replace(ONE, time=105.0, pid=8)]}, EXCUSES, steps)
    assert (attempt.node, attempt.unit, attempt.process, attempt.command) == (
        "n",
        "x.service",
        "python3",
        "python3 -m x",
    )
    assert (attempt.target, attempt.times, attempt.first, attempt.during) == (
        "203.0.113.9:443 (tcp)",
        2,
        100.0,
        "vllm: Start",
    )


def test_a_lookup_says_the_name_and_the_bare_query_is_not_told_twice() -> None:
    [attempt], _ = judge({"n": [QUERY, ASKED, replace(ASKED, name="HuggingFace.co")]}, EXCUSES, [])
    assert (attempt.target, attempt.times) == ("the address of huggingface.co", 2)


def test_a_query_whose_name_was_not_read_still_counts() -> None:
    found, _ = judge({"n": [QUERY, replace(ASKED, pid=8)]}, EXCUSES, [])
    assert [a.target for a in found] == ["the name server 127.0.0.1", "the address of huggingface.co"]


@pytest.mark.parametrize(
    "harmless",
    [
        replace(ONE, address="10.87.1.1", port=7443),
        replace(ONE, address=egress.TARGETS[0], port=egress.TCP_PORT),
        replace(ONE, address=egress.TARGETS[2], port=egress_raw.UDP_PORT, kind="udp"),
        replace(ONE, address=egress.TARGETS[0], port=0, kind="raw", command="/opt/x/python -m engine.egress_raw"),
        replace(ONE, kind="frame", address="", port=0, command="/opt/x/python -m engine.egress"),
        replace(ONE, kind="frame", address="", port=0, unit="systemd-networkd.service"),
    ],
)
def test_what_is_inside_or_the_install_s_own_proof_does_not_count(harmless: Sighting) -> None:
    assert count(harmless) == 0
    assert count(harmless, ONE) == 1


@pytest.mark.parametrize(
    "other",
    [
        replace(ONE, address="10.87.2.1"),
        replace(ONE, address=egress.TARGETS[0], port=80),
        replace(ONE, address=egress.TARGETS[0], port=0, kind="raw", command="ping"),
        replace(ONE, address="192.0.2.2"),
        replace(ASKED, address=egress.TARGETS[0]),
        replace(ONE, kind="frame", address="", port=0),
        replace(ONE, unit="systemd-networkd.service"),
    ],
)
def test_what_only_looks_like_it_counts(other: Sighting) -> None:
    assert count(other) == 1


def test_what_the_site_lets_out_does_not_count_and_nothing_beside_it() -> None:
    time = Flow(name="time", destinations=("203.0.113.0/28",), ports=(123,), protocol="udp")
    asked = replace(ONE, kind="udp", port=123)
    assert count(asked, flows=(time,)) == 0
    for beside in (replace(asked, kind="tcp"), replace(asked, port=124), replace(asked, address="203.0.113.99")):
        assert count(beside, flows=(time,)) == 1
    assert count(replace(ONE, kind="frame", address="", port=0), flows=(time,)) == 1


def test_packets_are_explained_by_attempts_and_by_what_the_site_lets_out_alone() -> None:
    time = declared(Flow(name="time", destinations=("203.0.113.9",), ports=(123,), protocol="udp"))
    for seen, explained in (
        ([ONE], True),
        ([replace(ONE, kind="udp", port=123)], True),
        ([replace(ONE, address="10.87.1.1")], False),
        ([], False),
    ):
        found, excused = judge({"n": seen}, [*EXCUSES, time], [])
        assert Verdict(found, excused, ()).outward is explained


def test_excused_sightings_are_counted_by_reason() -> None:
    _, excused = judge({"n": [replace(ONE, address="10.87.1.1")] * 3}, EXCUSES, [])
    assert list(excused.values()) == [3]


def test_a_damaged_or_incomplete_record_is_not_taken_for_a_quiet_node() -> None:
    lines = [json.dumps(asdict(ONE)), json.dumps({"blind": "connect: gone", "time": 1}), '{"time": 1', "[1]"]
    seen, blind = read("\n".join(lines))
    assert seen == [ONE]
    assert len(blind) == 3


# What the software really said, shortened.
@pytest.mark.parametrize(
    ("said", "what", "remedy"),
    [
        ("msg: No package matching 'libnuma1' is available", "lacks the package libnuma1", "Add libnuma1 to debs"),
        ("E: Unable to locate package libnuma1", "lacks the package libnuma1", "Add libnuma1 to debs"),
        ("OSError: libnuma.so.1: cannot open shared object file: No such file or directory", "library libnuma.so.1", "to debs"),
        ("ValueError: Couldn't instantiate the backend tokenizer from one of: ", "tokenizer is missing", "tokenizer.json"),
        ("OSError: Can't load tokenizer for 'org/name'. If you were trying", "a tokenizer is missing for org/name", "tokenizer.json"),
        ("ModuleNotFoundError: No module named 'tiktoken'", "module tiktoken is missing", "requirements of the wheel set"),
        ("OfflineModeIsEnabled: Cannot reach https://huggingface.co/api/models/x: offline mode is enabled.", "the hub huggingface.co", "models in the definition"),
        ("/models/tiny does not appear to have a file named config.json. Checkout", "lacks the file config.json", "Add config.json to the model"),
        ("socket.gaierror: [Errno -3] Temporary failure in name resolution", "a name was looked up", "Add what it fetches"),
        ("torch._inductor.exc.InductorError: InvalidCxxCompiler: No working C++ compiler found", "a compiler is missing", "gcc"),
    ],
)  # fmt: skip
def test_what_a_node_said_becomes_what_the_definition_lacks(said: str, what: str, remedy: str) -> None:
    [cause] = causes(f"first line\nTraceback\n{said}\nlast line")
    assert what in cause.what
    assert remedy in cause.remedy
    assert cause.line == said.strip()


def test_causes_come_once_and_unknown_words_give_none() -> None:
    assert len(causes("No module named 'a'\nNo module named 'a'\nNo module named 'b'")) == 2
    assert causes("all is well") == ()
    assert "\x1b" not in causes("No module named 'a' \x1b[31m")[0].line
