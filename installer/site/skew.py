"""Two versions of the product at once: the installer of this host, and the engine that a node's release brought.

What is sent over SSH whole (preflight, status, doctor, uninstall, generations) is of one version. What runs a node's own engine is not: an engine
that does not know a question says how it is used. Here that becomes a sentence with both versions.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

import installer
from engine.errors import Exit
from engine.report import printable
from engine.talk import Talk, talk
from installer.site.connection import Connection
from installer.site.remote import login

INFORMATION = "/opt/appliance/current/engine/lib/python3*/site-packages/appliance_engine-*.dist-info"
TIMEOUT_S = 30.0
MAX_OUTPUT = 64 << 10  # bytes
_NAMED = re.compile(r"appliance_engine-([0-9][A-Za-z0-9.+!]{0,40}?)(?:\.dist-info|-py3-none-any\.whl)$")
# What argparse, the engine's own list of verbs, and Python say of a question that they do not know.
_UNKNOWN = re.compile(
    r"error: (?:argument \S+: invalid choice|unrecognized arguments|the following arguments are required)"
    r"|usage: appliance-engine VERB|No module named '?engine\."
)


def version_in(name: str) -> str:
    """The engine's version in the name of its wheel or of what an installation leaves; empty where there is none."""
    found = _NAMED.search(name)
    return found[1] if found else ""


def of_release(view: Path) -> str:
    """The version of the engine that a release brings to nodes; empty where its view does not say."""
    return next(filter(None, (version_in(p.name) for p in sorted((view / "content/installer/node").glob("*.whl")))), "")


def of_node(connection: Connection) -> str:
    """The version of the engine that a node runs; empty where it cannot be asked."""
    script = f"ls -d {INFORMATION}"
    argv = [*login(connection), shlex.join(["sh", "-c", script])]
    said = talk(argv, stdin=b"", timeout_s=TIMEOUT_S, limit_bytes=MAX_OUTPUT)
    return next(filter(None, (version_in(line.decode(errors="replace").strip()) for _, line in said.lines)), "")


def unknown(code: int | None, stderr: str) -> bool:
    """Whether an engine says that it does not know what it was asked. An error of its own ends in JSON and is another matter."""
    own = stderr.strip().rpartition("\n")[2].startswith("{")
    return code in (Exit.FAILED, Exit.USAGE) and not own and bool(_UNKNOWN.search(stderr))


def refusal(said: Talk, words: Sequence[str], connection: Connection) -> str:
    """The sentence for a node whose engine does not know ``words``; empty where that is not what it said. Asks the node for its version."""
    if said.cut or not unknown(said.code, said.stderr):
        return ""
    return told(" ".join(w for w in words[:2] if not w.startswith("-")), of_node(connection))


def told(asked: str, engine: str) -> str:
    """In words: the engine of that version does not know what this installer asks."""
    which = f"its engine {printable(engine, keep='')}" if engine else "its engine, of an unknown version,"
    return (
        f"{which} does not know what this installer {installer.__version__} asks"
        + (f" ({asked})" if asked else "")
        + ". Install on it a release that was built with this version, or use the installer that came with the release it runs"
    )


def difference(engine: str) -> str:
    """That a node's engine is of another version than this installer; empty where it is not, or nobody knows."""
    if not engine or engine == installer.__version__:
        return ""
    return f"its engine is {engine}, this installer is {installer.__version__}"
