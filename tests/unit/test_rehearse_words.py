"""What a person reads of a rehearsal: who tried what, what is missing, and what was not run."""

from __future__ import annotations

import json
from dataclasses import replace

from installer.cli.rehearse import document, lines, reason
from installer.rehearse.attempts import Attempt, Verdict
from installer.rehearse.causes import Cause
from installer.rehearse.rehearse import Rehearsal
from installer.site.events import Failure
from installer.site.install import Outcome
from installer.site.prove import Proof

GOOD = Rehearsal(
    release="d-1.0.0",
    nodes={"gpu-1": ("gpu",)},
    outcome=Outcome("d-1.0.0", False, "", "", good=True),
    verdict=Verdict((), {"inside": 3}, ()),
    said={},
    causes={},
    unresolved={},
    unseen_packets=0,
    rehearsed=("service chat: answered",),
    not_rehearsed=(),
    seconds=12.3,
)
ATTEMPT = Attempt(
    "gpu-1", "appliance-vllm@chat.service", "python", "python -m x", "lookup", "127.0.0.1", 53, "hub.example", 2, 0.5, "vllm: Start"
)  # fmt: skip
TRIED = replace(GOOD, verdict=Verdict((ATTEMPT,), {}, ()))


def test_a_good_and_whole_rehearsal_says_so() -> None:
    assert GOOD.good
    assert lines(GOOD).splitlines() == [
        "ok      service chat: answered",
        "",
        "d-1.0.0: nothing was missing, and nothing tried to reach out (12.3 s)",
    ]


def test_what_was_not_run_is_in_the_last_line_too() -> None:
    part = replace(GOOD, not_rehearsed=("serving chat: it needs a GPU",))
    assert part.good
    assert not part.complete
    assert "left out serving chat: it needs a GPU" in lines(part)
    assert "in what was rehearsed nothing was missing" in lines(part).splitlines()[-1]
    assert "NOT REHEARSED: what is named above" in lines(part).splitlines()[-1]


def test_an_attempt_fails_it_and_is_told_with_time_node_unit_process_command_and_target() -> None:
    assert not TRIED.good
    said = lines(TRIED)
    assert (
        "00:00:00.500Z gpu-1 appliance-vllm@chat.service: python wanted the address of hub.example, 2 times\n"
        "    command: python -m x\n    during: vLLM services: Start" in said
    )
    assert "nothing was missing" not in said
    assert "hub.example" in reason(TRIED)
    assert json.loads(json.dumps(document(TRIED)))["attempts"][0]["target"] == "the address of hub.example"


def test_each_other_fault_fails_it_and_is_said() -> None:
    outcome = Outcome("d-1.0.0", False, "", "", failures=[Failure("gpu-1", "Start", "vllm", "it ended")])
    unproven = Outcome("d-1.0.0", False, "", "", proof=[Proof("gpu-1", "chat", False, "no answer", 1.0, True)])
    cause = Cause("a tokenizer is missing", "Add tokenizer.json.", "ValueError: tokenizer")
    faults = {
        "Add tokenizer.json.": replace(GOOD, outcome=outcome, causes={"gpu-1": (cause,)}),
        "it ended": replace(GOOD, outcome=outcome, said={"gpu-1": "last words"}, causes={"gpu-1": ()}),
        "no answer": replace(GOOD, outcome=unproven),
        "unmet dependencies": replace(GOOD, unresolved={"gpu-1": "unmet dependencies"}),
        "gpu-1: saw nothing": replace(GOOD, verdict=Verdict((), {}, ("gpu-1: saw nothing",))),
        "7 packets": replace(GOOD, unseen_packets=7),
    }
    for words, fault in faults.items():
        assert not fault.good, words
        assert words in lines(fault)
        assert words in reason(fault)
        assert "THE REHEARSAL FAILED" in lines(fault)
    assert "  last words" in lines(faults["it ended"])
