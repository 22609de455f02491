"""Run every probe on this machine and print what was seen as one line of JSON.

Each probe is a process of its own with a deadline: one that hangs (a GPU that is lost can do that) or dies takes nobody along.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, is_dataclass
from typing import Any, NoReturn

from engine.preflight import probe_clock, probe_gpu, probe_network, probe_storage, probe_system
from engine.preflight.facts import Question

DEADLINE_S = 40.0
MAX_ANSWER = 1 << 20  # bytes of one probe's answer

Probe = Callable[[], Any]


def probes(question: Question) -> dict[str, Probe]:
    """Every part of the facts with the function that finds it."""
    return {
        "system": probe_system.system,
        "firmware": probe_system.firmware,
        "clock": probe_clock.clock,
        "storage": lambda: probe_storage.storage(question),
        "network": lambda: probe_network.network(question),
        "pci": probe_gpu.pci,
        "driver": probe_gpu.driver,
        "nvml": probe_gpu.read_nvml,
        "kernel_log": probe_gpu.kernel_log,
        "memory": probe_system.memory,
    }


def gather(probes: Mapping[str, Probe], deadline_s: float = DEADLINE_S) -> dict[str, Any]:
    """What all probes saw, as JSON can hold it; a probe that failed stands in ``troubles``."""
    begin = time.monotonic()
    children = {name: _start(probe) for name, probe in probes.items()}
    answers = _listen({pipe: name for name, (_, pipe) in children.items()}, begin + deadline_s)
    facts: dict[str, Any] = {"troubles": {}}
    for name, (pid, pipe) in children.items():
        os.close(pipe)
        with suppress(OSError):
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, os.WNOHANG)  # one that hangs in the kernel is not waited for
        facts[name], trouble = _understood(answers[name])
        if trouble:
            facts["troubles"][name] = trouble
    facts["seconds"] = round(time.monotonic() - begin, 3)
    return facts


def _listen(pipes: Mapping[int, str], until: float) -> dict[str, bytes | None]:
    """What comes out of every pipe until its end; None where it did not end in time."""
    held: dict[str, bytes | None] = dict.fromkeys(pipes.values(), b"")
    waiting = set(pipes)
    while waiting and (left := until - time.monotonic()) > 0:
        ready, _, _ = select.select(list(waiting), [], [], left)
        for pipe in ready:
            chunk, so_far = os.read(pipe, 65536), held[pipes[pipe]] or b""
            held[pipes[pipe]] = so_far + chunk
            if not chunk or len(so_far) > MAX_ANSWER:
                waiting.discard(pipe)
    return {**held, **{pipes[pipe]: None for pipe in waiting}}


def _understood(answer: bytes | None) -> tuple[Any, str]:
    """A probe's facts, or None and why there are none."""
    if answer is None:
        return None, "did not end in time"
    if len(answer) > MAX_ANSWER:
        return None, "answered too much"
    try:
        found = json.loads(answer)
    except ValueError:
        return None, "ended without an answer"
    if isinstance(found, dict) and "trouble" in found:
        return None, str(found["trouble"])
    return found, ""


def question_of(data: Mapping[str, Any]) -> Question:
    """The question as it arrives: JSON has lists where we have tuples."""
    known: dict[str, Any] = {k: tuple(map(_tuple, v)) if isinstance(v, list) else v for k, v in data.items()}
    return Question(**known)


def run(question_json: str, word: str) -> None:
    """Say hello with the time, then print the facts. ``word`` marks our lines among what a login shell may print."""
    out = sys.stdout
    out.write(f"{word} hello {time.time():.6f}\n")
    out.flush()
    facts = gather(probes(question_of(json.loads(question_json))))
    out.write(f"{word} facts {json.dumps(facts, separators=(',', ':'))}\n")
    out.flush()
    os._exit(0)  # threads that wait for a resolver must not hold us


def _start(probe: Probe) -> tuple[int, int]:
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        _child(probe, writer)
    os.close(writer)
    return pid, reader


def _child(probe: Probe, writer: int) -> NoReturn:
    """Answer and end without the parent's clean-up; standard output is the parent's alone."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    try:
        found = probe()
        answer = json.dumps(plain(found))
    except BaseException as error:  # whatever it is, it is said and not raised
        answer = json.dumps({"trouble": f"{type(error).__name__}: {error}"[:500]})
    with suppress(OSError):
        data = answer.encode()
        while data:
            data = data[os.write(writer, data) :]
    os._exit(0)


def plain(value: Any) -> Any:
    """Facts as JSON can hold them."""
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    return [plain(v) for v in value] if isinstance(value, tuple) else value


def _tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
