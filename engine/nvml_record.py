"""`appliance-engine nvml`: ask NVML, and keep every answer in a file.

A recording is one JSON document: each call with its arguments as the key, and what came back, a value or NVML's error code.
From it a machine without a GPU can be asked the same questions, to mend a rule that judged a node wrongly.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine import durable, nvml
from engine.errors import ResourceError

SCHEMA = 1
_HANDLE = "nvmlDeviceGetHandleByIndex"


class Recorder:
    """Answers like pynvml, which it asks, and keeps what pynvml said."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self._handles: list[Any] = []
        self.answers: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._library, name)
        if not name.startswith("nvml") or not callable(found) or isinstance(found, type):
            return found

        def call(*args: Any) -> Any:
            key = name + "(" + ", ".join(filter(None, (self._name(a) for a in args))) + ")"
            try:
                value = found(*args)
            except self._library.NVMLError as error:
                self.answers[key] = {"error": error.value, "word": nvml.word(error)}
                raise
            if name == _HANDLE:
                self._handles.append((value, f"gpu{args[0]}"))
            filled = [plain(a._obj) for a in args if hasattr(a, "_obj")]  # what a call by reference filled in
            self.answers[key] = {
                "value": self._name(value) if name == _HANDLE else filled[0] if filled else plain(value)
            }
            return value

        return call

    def _name(self, value: Any) -> str:
        known = next((name for handle, name in self._handles if handle is value), None)
        return known or ("" if hasattr(value, "_obj") else str(value))


def plain(value: Any) -> Any:
    """An answer as JSON can hold it; structures become objects of their fields."""
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, ctypes.Structure):
        return {entry[0]: plain(getattr(value, entry[0])) for entry in value._fields_}
    if isinstance(value, (list, tuple, ctypes.Array)):
        return [plain(v) for v in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    return {k: plain(v) for k, v in vars(value).items()}


def record(library: Any) -> dict[str, Any]:
    """The document of one round of questions."""
    recorder = Recorder(library)
    nvml.read(recorder)
    return {"schema": SCHEMA, "source": "recorded", "bindings": _bindings(), "answers": recorder.answers}


def _bindings() -> str:
    from importlib.metadata import version  # noqa: PLC0415

    return f"nvidia-ml-py {version('nvidia-ml-py')}"


def main(argv: Sequence[str]) -> int:
    """`appliance-engine nvml show|record FILE`."""
    parser = argparse.ArgumentParser(prog="appliance-engine nvml", description="Ask NVML about this node's GPUs.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("show", help="print what NVML says, as one JSON document")
    verbs.add_parser("record", help="keep every answer in a file").add_argument("file", type=Path)
    options = parser.parse_args(argv)
    import pynvml  # noqa: PLC0415

    if options.verb == "show":
        found = nvml.read(pynvml)
        _require(found.error)
        sys.stdout.write(json.dumps(asdict(found), indent=1) + "\n")
        return 0
    document = record(pynvml)
    _require(document["answers"]["nvmlInit()"].get("word", ""))
    durable.write(options.file, json.dumps(document, indent=1, sort_keys=True) + "\n")
    sys.stdout.write(json.dumps({"file": str(options.file), "answers": len(document["answers"])}) + "\n")
    return 0


def _require(error: str) -> None:
    """Raises:
    ResourceError: NVML could not be opened.
    """
    if not error:
        return
    remedies = {
        "LIBRARY_NOT_FOUND": "Install the driver's libraries (libnvidia-ml.so.1), or run this on a node with a GPU.",
        "DRIVER_NOT_LOADED": "Load the driver: modprobe nvidia, and look at dmesg when that fails.",
        "LIB_RM_VERSION_MISMATCH": "Libraries and kernel module differ in version: reboot, or reload the module.",
    }
    raise ResourceError(
        f"NVML cannot be asked here: {error}", where="libnvidia-ml.so.1", remedy=remedies.get(error, "Look at dmesg.")
    )
