"""The probe as one text that a node's stock Python reads from standard input.

It carries the probes, :mod:`engine.nvml` and pynvml as a zip file that the node keeps in an anonymous piece of memory, where
Python's own importer reads it. Nothing gets a name on the node, so there is nothing to remove.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import json
import zipfile
from dataclasses import asdict
from functools import cache
from pathlib import Path

import engine
from engine.errors import ResourceError
from engine.preflight.facts import Question

OLDEST = (3, 9)  # Python whose syntax the probes keep to
_NOT_SENT = ("judge", "expectation", "pci", "xid")  # judging happens here

# Read by whatever Python the node has, so that even an old one can say that it is too old.
_START = """\
import base64, os, sys
if sys.version_info < {oldest!r}:
    print({word!r} + " old " + ".".join(map(str, sys.version_info[:3])))
    sys.exit(0)
_memory = os.memfd_create("preflight", os.MFD_CLOEXEC)
with os.fdopen(_memory, "wb", closefd=False) as _file:
    _file.write(base64.b64decode("{archive}"))
sys.path.insert(0, "/proc/self/fd/%d" % _memory)
from engine.preflight import gather
gather.run({question!r}, {word!r})
"""


def script(question: Question, word: str) -> bytes:
    """The text. ``word`` marks the lines that are ours."""
    return _START.format(oldest=OLDEST, word=word, archive=_archive(), question=json.dumps(asdict(question))).encode()


def modules() -> dict[str, Path]:
    """Every module that is sent, by its path in the archive."""
    base = Path(engine.__file__).parent
    mine = [base / f"{n}.py" for n in ("__init__", "errors", "nvml", "process")]
    mine += sorted((base / "preflight").glob("*.py"))
    found = {f"engine/{p.relative_to(base)}": p for p in mine if not p.name.startswith(_NOT_SENT)}
    spec = importlib.util.find_spec("pynvml")
    if spec is None or spec.origin is None:
        raise ResourceError(
            "the module pynvml is not here",
            remedy="Install appliance with its requirements; nvidia-ml-py is one of them.",
        )
    return {**found, "pynvml.py": Path(spec.origin)}


@cache
def _archive() -> str:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, path in modules().items():
            archive.writestr(zipfile.ZipInfo(name), path.read_bytes(), compress_type=zipfile.ZIP_DEFLATED)
    return base64.b64encode(buffer.getvalue()).decode()
