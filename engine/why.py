"""Why a served model does not run: its own last error, taken from the journal of its unit. Standard library alone."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable, Sequence

from engine.errors import NodeError
from engine.process import run

LINES = 600  # of the journal; a start of vLLM that fails writes about 150
LONGEST = 600  # characters of a reason
# `(EngineCore pid=12) ERROR 11-30 09:12:33 [core.py:842] …` (vLLM 0.32, vllm/logger.py): what comes before the text.
_PROCESS = re.compile(r"^\((?:APIServer|EngineCore|Worker|ApiServer)[^)]*\) ?")
_LEVEL = re.compile(r"^(?:DEBUG|INFO|WARNING|ERROR|CRITICAL) \d\d-\d\d \d\d:\d\d:\d\d \[[^\]]*\] ?")
_RAISED = re.compile(r"^[A-Za-z_][\w.]*(?:Error|Exception|Exit)\b(?::.*)?$")
# systemd's own (core/execute.c, core/service.c): what it could not do before the service ran, or who ended it.
_SYSTEMD = re.compile(
    r"^appliance-vllm@\S+?\.service: (Failed (?:to|at step) .*|A process of this unit has been killed .*)$"
)
_USAGE = re.compile(r"^\S+\.py: error: (.*)$")
# These follow from an error that came before them in the journal, usually of another process.
_FOLLOWING = ("See root cause", "EngineDeadError", "EngineCore encountered an issue", "cancelled", "CancelledError")
_REMEDIES = (
    ("max_model_len", "Lower max-model-len in args of the service"),
    ("KV cache", "Lower max-model-len, or give the KV cache more memory (environment or args of the service)"),
    ("out of memory", "Give the service more memory, or a smaller model"),
    ("unrecognized arguments", "Correct args of the service"),
    ("OOM killer", "Give the service more memory, or a smaller model"),
    ("Failed ", "Look at what the node's systemd may not do"),
)


def reason(lines: Iterable[str]) -> str:
    """The error that ended a service, from the lines of its journal; empty when none of them is one. Pure."""
    plain = [_LEVEL.sub("", _PROCESS.sub("", line)).rstrip() for line in lines]
    found = ""
    for number, line in enumerate(plain):
        if systemd := _SYSTEMD.match(line):
            # The line on the step repeats the one before it with less.
            found = found if found.startswith("Failed to") and "at step" in systemd[1] else systemd[1]
        elif usage := _USAGE.match(line):
            found = usage[1]
        elif _RAISED.match(line) and not any(word in line for word in _FOLLOWING):
            found = _raised(line, plain[number + 1 : number + 4])
    return found[:LONGEST]


def _raised(line: str, following: Sequence[str]) -> str:
    """The words of an exception. pydantic says on the next lines what is wrong, and repeats the input behind it."""
    kind, _, said = line.partition(":")
    if "validation error" in said:
        inner = " ".join(f.strip() for f in following).partition("[type=")[0]
        return inner.removeprefix("Value error, ").strip() or said.strip()
    return f"{kind.rpartition('.')[2]}: {said.strip()}" if said.strip() else kind


def remedy(why: str) -> str:
    """What to do about a reason. Pure."""
    return next((r for word, r in _REMEDIES if word in why), "Correct the service in the site") + ", and install again."


def main(argv: Sequence[str]) -> int:
    """`appliance-engine why SERVICE`: nothing when the service runs.

    Raises:
        NodeError: it does not; with its own last error.
    """
    parser = argparse.ArgumentParser(
        prog="appliance-engine why",
        description="Whether a served model runs, and if not, its own last error.",
        epilog="Example: appliance-engine why chat",
    )
    parser.add_argument("service")
    unit = f"appliance-vllm@{parser.parse_args(argv).service}.service"
    shown = run(["systemctl", "show", "--property=ActiveState,Result", "--", unit]).stdout
    state = dict(line.partition("=")[::2] for line in shown.splitlines())
    if state.get("ActiveState") == "active":
        return 0
    journal = run(["journalctl", "--no-pager", "--output=cat", "--boot", f"--lines={LINES}", f"--unit={unit}"]).stdout
    why = reason(journal.splitlines()) or f"systemd says {state.get('Result', 'nothing')}, and its journal has no error"
    raise NodeError(
        f"the service does not start: {why}",
        where=unit,
        remedy=f"{remedy(why)} All it said: journalctl -u '{unit}' on the node.",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
