"""Synthetic weights: normally distributed bf16 numbers, and the same after a training step that changed all of them a little.

Synthetic they are: the values before rounding differ by a normally distributed relative change. What real fine-tunes do
to real checkpoints may be kinder (frozen layers) or not.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import numpy.typing as npt

from installer.patch.make import File

LAYERS, ROWS, COLUMNS = 16, 1024, 4096  # 128 MiB of two-byte numbers


def save(path: Path, relative: float, layers: int = LAYERS, rows: int = ROWS) -> File:
    """Write a safetensors file; the same numbers each time, each changed by about ``relative`` of itself."""
    numbers, change = np.random.default_rng(1), np.random.default_rng(2)
    tensors = {}
    for layer in range(layers):
        plain = (numbers.standard_normal((rows, COLUMNS)) * 0.02).astype(np.float32)
        step = change.standard_normal(plain.shape).astype(np.float32)
        tensors[f"layers.{layer}.weight"] = _bf16(plain * (1 + np.float32(relative) * step))
    header, at = {}, 0
    for name, tensor in tensors.items():
        header[name] = {"dtype": "BF16", "shape": list(tensor.shape), "data_offsets": [at, at + tensor.nbytes]}
        at += tensor.nbytes
    text = json.dumps(header).encode()
    data = len(text).to_bytes(8, "little") + text + b"".join(t.tobytes() for t in tensors.values())
    path.write_bytes(data)
    return File(path, hashlib.sha256(data).hexdigest(), len(data))


def _bf16(numbers: npt.NDArray[np.float32]) -> npt.NDArray[np.uint16]:
    """Rounded to nearest, ties to even."""
    bits = numbers.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
