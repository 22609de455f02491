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
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import engine
from engine.errors import ResourceError
from engine.preflight.facts import Question

OLDEST = (3, 9)  # Python whose syntax the probes keep to
ERRANDS = (3, 11)  # what the role node demands
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
{call}
"""


def script(question: Question, word: str) -> bytes:
    """The text. ``word`` marks the lines that are ours."""
    told = json.dumps(asdict(question))
    call = f"from engine.preflight import gather\ngather.run({told!r}, {word!r})"
    return _START.format(oldest=OLDEST, word=word, archive=_archive(modules), call=call).encode()


def errand(verb: str, question: Mapping[str, Any], word: str) -> bytes:
    """The text of an errand (:mod:`engine.daytwo`), which speaks to nodes that serve: their Python is that of the release."""
    call = f"from engine.daytwo import errand\nerrand.run({verb!r}, {json.dumps(question)!r}, {word!r})"
    return _START.format(oldest=ERRANDS, word=word, archive=_archive(errand_modules), call=call).encode()


def modules() -> dict[str, Path]:
    """Every module that is sent, by its path in the archive."""
    base = Path(engine.__file__).parent
    mine = [base / f"{n}.py" for n in ("__init__", "bounds", "errors", "interruption", "nvml", "process")]
    mine += sorted((base / "preflight").glob("*.py"))
    found = {f"engine/{p.relative_to(base)}": p for p in mine if not p.name.startswith(_NOT_SENT)}
    spec = importlib.util.find_spec("pynvml")
    if spec is None or spec.origin is None:
        raise ResourceError(
            "the module pynvml is not here",
            remedy="Install appliance with its requirements; nvidia-ml-py is one of them.",
        )
    return {**found, "pynvml.py": Path(spec.origin)}


def errand_modules() -> dict[str, Path]:
    """What an errand is made of, by its path in the archive."""
    base = Path(engine.__file__).parent
    names = (
        "chat",
        "durable",
        "firewall",
        "firewall_record",
        "firewall_rules",
        "firewall_timer",
        "nft",
        "pooling",
        "printable",
        "probe",
        "refusals",
        "serving",
        "strictjson",
    )
    mine = [*(base / f"{n}.py" for n in names), *sorted((base / "daytwo").glob("*.py"))]
    mine += [base / "placement" / f"{n}.py" for n in ("__init__", "model", "record")]
    mine += [base / "generation" / f"{n}.py" for n in ("__init__", "states", "store", "tree")]
    return {**modules(), **{f"engine/{p.relative_to(base)}": p for p in mine}}


@cache
def _archive(contents: Callable[[], dict[str, Path]]) -> str:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, path in contents().items():
            archive.writestr(zipfile.ZipInfo(name), path.read_bytes(), compress_type=zipfile.ZIP_DEFLATED)
    return base64.b64encode(buffer.getvalue()).decode()
