"""Whether a release's models can be shared by as many GPUs as the site says. Read from config.json of the model, without loading it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engine import strictjson
from engine.errors import InputError
from installer.site.inventory import Inventory
from installer.site.settings import Service

MAX_BYTES = 4 << 20  # of a config.json; those of models with a thousand layers' settings are some 100 kB
FLAG = "tensor-parallel-size"


def demand(inventory: Inventory, view: Path) -> None:
    """Refuse services whose tensor parallel size does not divide the model's attention heads, or that have more groups than layers.

    Args:
        view: directory of the verified release.

    Raises:
        InputError: names every such service, with what its model has.
    """
    wrong = list(_wrong(inventory, view))
    if wrong:
        raise InputError(
            "\n".join(wrong),
            where=f"{inventory.path}: appliance_site.services",
            remedy="Change gpus, tensor_parallel or pipeline_parallel of the service.",
        )


def _wrong(inventory: Inventory, view: Path) -> Iterator[str]:
    for service in inventory.site.services:
        tensor, pipeline = sizes(service)
        if tensor * pipeline > 1:
            for why in faults(_config(view, service.model), tensor, pipeline):
                yield f"the service {service.name}: {why} (model {service.model})"


def sizes(service: Service) -> tuple[int, int]:
    """Tensor and pipeline parallel size that vLLM will be told; those of ``args`` where no key says it."""
    tensor, pipeline = service.parallel
    if service.n_gpus:
        return tensor, pipeline
    told = [service.args.get(name, 1) for name in (FLAG, "pipeline-parallel-size")]
    first, second = (n if isinstance(n, int) and not isinstance(n, bool) and n > 0 else 1 for n in told)
    return first, second


def faults(config: Mapping[str, Any], tensor: int, pipeline: int) -> Iterator[str]:
    """What of a model cannot be divided so. Pure; numbers that the configuration does not hold are not judged.

    vLLM divides attention heads evenly (vllm/config/model.py, verify_with_parallel_config), and key-value heads too, or copies them where
    there are fewer of them than GPUs (asserted by its models, such as vllm/model_executor/models/llama.py).
    """
    heads, groups, layers = (
        _number(config, n) for n in ("num_attention_heads", "num_key_value_heads", "num_hidden_layers")
    )
    if heads and heads % tensor:
        yield f"tensor_parallel {tensor} does not divide its {heads} attention heads"
    elif groups and max(groups, tensor) % min(groups, tensor):
        yield f"tensor_parallel {tensor} and its {groups} key-value heads do not divide each other"
    if layers and layers < pipeline:
        yield f"pipeline_parallel {pipeline} is more than its {layers} layers"


def _number(config: Mapping[str, Any], name: str) -> int:
    """A positive number of the configuration, or of the one for text within it; 0 where there is none."""
    text = config.get("text_config")
    for part in (config, text if isinstance(text, Mapping) else {}):
        value = part.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
    return 0


def _config(view: Path, model: str) -> Mapping[str, Any]:
    path = view / "content" / "models" / model / "config.json"
    try:
        with path.open("rb") as file:
            told = strictjson.loads(file.read(MAX_BYTES))
    except (OSError, ValueError) as error:
        raise InputError(
            f"the model's configuration cannot be read: {error}",
            where=str(path),
            remedy="Verify the release; a model that vLLM can serve has a config.json.",
        ) from error
    return told if isinstance(told, Mapping) else {}
