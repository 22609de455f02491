"""A double of NVML: answers pynvml's calls from a document, where there is no GPU to ask.

A document is what `appliance-engine nvml record` writes, or one made from documentation, which says so in itself
(``source: documented``). It may be ``based_on`` another, whose answers it overrides. A key for one GPU
(``nvmlDeviceGetName(gpu3)``) goes before one for all of them (``nvmlDeviceGetName(gpu*)``).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml

DOCUMENTS = Path(__file__).parent / "nvml"


def document(name: str) -> dict[str, Any]:
    """A document with everything that it is based on."""
    own: dict[str, Any] = json.loads((DOCUMENTS / f"{name}.json").read_text())
    below = document(own["based_on"])["answers"] if "based_on" in own else {}
    return {**own, "answers": {**below, **own["answers"]}}


class NvmlDouble:
    """Stands where the module pynvml would. What the document does not hold is not supported."""

    def __init__(self, answers: dict[str, Any]) -> None:
        self._answers = answers
        self.opened = 0

    def __getattr__(self, name: str) -> Any:
        real = getattr(pynvml, name)  # a call that the bindings do not have is a mistake of ours
        if not name.startswith("nvml") or not callable(real) or isinstance(real, type):
            return real
        return lambda *args: self._call(name, *args)

    def _call(self, name: str, *args: Any) -> Any:
        if name in ("nvmlInit", "nvmlShutdown"):
            self.opened += 1 if name == "nvmlInit" else -1
        key = f"{name}({', '.join(str(a) for a in args if not hasattr(a, '_obj'))})"
        found = self._answers.get(key, self._answers.get(re.sub(r"gpu\d+", "gpu*", key)))
        if found is None:
            found = (
                {"value": f"gpu{args[0]}"} if "HandleByIndex" in name else {"error": pynvml.NVML_ERROR_NOT_SUPPORTED}
            )
        if "error" in found:
            if name == "nvmlInit":
                self.opened -= 1
            raise pynvml.NVMLError(found["error"])
        for structure in (a._obj for a in args if hasattr(a, "_obj")):
            for field, value in found["value"].items():
                if isinstance(value, int):
                    setattr(structure, field, value)
        return _object(found["value"])


def _object(value: Any) -> Any:
    if isinstance(value, dict):
        return SimpleNamespace(**value)
    return [_object(v) for v in value] if isinstance(value, list) else value
