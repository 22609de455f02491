"""How long a person waits before a command does anything."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from tests.bench.measure import Case, Run, seconds


def cases(_work: Path) -> Iterator[Case]:
    """`appliance --help` against the bare interpreter and against Ansible's own start."""
    scripts = Path(sysconfig.get_path("scripts"))
    help_ = _command(str(scripts / "appliance"), "--help")
    yield Case("help", "s", help_, "python3 -c pass", _command(sys.executable, "-c", "pass"), 3.0)
    yield Case(
        "help-against-ansible", "s", help_, "ansible --version", _command(str(scripts / "ansible"), "--version"), 0.5
    )


def _command(*argv: str) -> Run:
    return seconds(lambda: subprocess.run(argv, check=True, stdout=subprocess.DEVNULL))
