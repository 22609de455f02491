"""Command blocks of a document, and hosts that run them as they stand.

A block belongs to the host that the bold words above it name: the builder, the control host, a client. Shell state that a person keeps
from one block to the next (directory, exported variables) is kept here, too.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

HOSTS = ("builder", "control host", "client")
_FENCE = re.compile(r"^```(\w*)$")
_LEAD = re.compile(r"^\*\*(.+?)\*\*")
TIMEOUT_S = 1800.0


@dataclass(frozen=True)
class Block:
    """One fenced block: the bold words above it, the host that they name, and its line in the document."""

    lead: str
    host: str
    language: str
    text: str
    line: int


def blocks(document: str) -> list[Block]:
    """All blocks that belong to a host, in order.

    Raises:
        ValueError: a fence is not closed.
    """
    found: list[Block] = []
    lines: list[str] = []
    lead, host, language, before, opened = "", "", "", "", 0
    for number, line in enumerate(document.splitlines(), 1):
        fence = _FENCE.match(line)
        if opened:
            if line == "```":
                if host:
                    found.append(Block(lead, host, language, "\n".join(lines) + "\n", opened))
                opened, lines = 0, []
            else:
                lines.append(line)
        elif fence:
            opened, language = number, fence[1]
        elif line.startswith("#"):
            lead = host = ""
        elif not before.strip() and (bold := _LEAD.match(line)):
            lead = bold[1].strip(".,:")
            host = next((h for h in HOSTS if h in lead.lower()), "")
        before = line
    if opened:
        raise ValueError(f"the block that begins in line {opened} is not closed")
    return found


def substituted(text: str, table: Mapping[str, str]) -> str:
    """The text with every key of the table replaced, the longest first."""
    for old in sorted(table, key=len, reverse=True):
        text = text.replace(old, table[old])
    return text


@dataclass
class Host:
    """Where blocks run: ``start`` is the command line that takes one more argument, a command for bash."""

    name: str
    start: Sequence[str]
    state: str  # directory of that host for what passes from one block to the next
    log: Path
    environment: dict[str, str] = field(default_factory=dict)
    directory: str = "~"  # where the first block begins

    def run(self, text: str, *, ok: bool = True, timeout_s: float = TIMEOUT_S) -> str:
        """Run a block in bash as a person's shell would go on after the one before; what it printed.

        Raises:
            AssertionError: it ended with an error, or with ``ok=False`` without one.
        """
        exports = "".join(f"export {k}={shlex.quote(v)}\n" for k, v in self.environment.items())
        script = (
            f"mkdir -p {self.state}; cd {self.directory}; {exports}"
            f'[ ! -e {self.state}/exported ] || {{ . {self.state}/exported; cd "$(cat {self.state}/directory)"; }}\n'
            f"set -euo pipefail\n{text}\n"
            f"export -p > {self.state}/exported; pwd > {self.state}/directory\n"
        )
        begin = time.monotonic()
        done = subprocess.run(
            [*self.start, f"bash -c {shlex.quote(script)}"],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
            stdin=subprocess.DEVNULL,
        )
        said = done.stdout + done.stderr
        with self.log.open("a") as log:
            log.write(
                f"── {self.name}, {time.monotonic() - begin:.0f} s, exit code {done.returncode}\n{_prompted(text)}{said}\n"
            )
        assert (done.returncode == 0) == ok, f"{self.name} ended with {done.returncode}:\n{text}\n{said[-4000:]}"
        return said


def _prompted(text: str) -> str:
    return "".join(f"$ {line}\n" for line in text.splitlines())
