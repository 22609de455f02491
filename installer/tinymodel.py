"""A real model of a quarter of a megabyte, for the demo and for tests: Llama's architecture, random weights.

Every byte follows from the seed. Its answers mean nothing; the path they take through the service is the real one.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import durable
from engine.errors import InputError, ResourceError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Weights = NDArray[np.uint16]  # bfloat16 as it lies in the file; numpy has no such type

LAYERS, HIDDEN, INTERMEDIATE = 2, 64, 128
HEADS = 2  # a head of 32 dimensions is the smallest that vLLM's attention kernel for CPUs takes
CONTEXT = 2048  # tokens
BEGIN, END = "<s>", "</s>"
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
CARD = """---
license: apache-2.0
---
# Tiny model

Two Llama layers with random weights, made by `appliance model demo`. It answers with random letters: it is there to
try the way to an answer, not the answer.
"""
LICENCE = """Made by `appliance model demo`.

Licensed under the Apache License, Version 2.0. You may obtain a copy of the License at
https://www.apache.org/licenses/LICENSE-2.0
Unless required by applicable law or agreed to in writing, this is distributed on an "AS IS" basis, without warranties
or conditions of any kind, either express or implied.
"""


def make(directory: Path, *, seed: int = 0) -> None:
    """Write the model folder; the same seed gives the same bytes.

    Raises:
        InputError: the directory holds other files already.
        ResourceError: numpy, safetensors or tokenizers is not installed, or the place cannot be written.
    """
    files = contents(seed)
    if directory.exists() and (others := sorted({p.name for p in directory.iterdir()} - files.keys())):
        raise InputError(
            f"the directory holds other files: {', '.join(others[:3])}",
            where=str(directory),
            remedy="Name an empty or a new directory.",
        )
    for name, data in files.items():
        durable.write(directory / name, data)


def contents(seed: int) -> dict[str, bytes]:
    """The files of the folder by name."""
    try:
        import numpy  # noqa: F401, PLC0415 - only this command needs them
        import safetensors  # noqa: F401, PLC0415
        import tokenizers  # noqa: F401, PLC0415
    except ImportError as error:
        raise ResourceError(
            f"the Python package {error.name} is not installed; only making this model needs it",
            remedy="Run this from a source tree after `./run setup`, or install numpy, safetensors and tokenizers.",
        ) from error
    vocabulary = _vocabulary()
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": HEADS,
        "head_dim": HIDDEN // HEADS,
        "hidden_act": "silu",
        "max_position_embeddings": CONTEXT,
        "rms_norm_eps": 1e-5,
        "vocab_size": len(vocabulary),
        "bos_token_id": vocabulary[BEGIN],
        "eos_token_id": vocabulary[END],
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    tokenizer_config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_max_length": CONTEXT,
    }
    generation = {"bos_token_id": vocabulary[BEGIN], "eos_token_id": vocabulary[END]}
    return {
        "config.json": _json(config),
        "generation_config.json": _json(generation),
        "tokenizer.json": _tokenizer(vocabulary),
        "tokenizer_config.json": _json(tokenizer_config),
        "model.safetensors": _save(_weights(vocabulary, seed)),
        "README.md": CARD.encode(),
        "LICENSE": LICENCE.encode(),
    }


def _json(data: dict[str, Any]) -> bytes:
    return (json.dumps(data, indent=2) + "\n").encode()


def _vocabulary() -> dict[str, int]:
    """One token a byte, in the letters that stand for bytes in byte-level tokenizers, and the two special ones."""
    from tokenizers.pre_tokenizers import ByteLevel  # noqa: PLC0415

    return {token: i for i, token in enumerate([*sorted(ByteLevel.alphabet()), BEGIN, END])}


def _tokenizer(vocabulary: dict[str, int]) -> bytes:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers  # noqa: PLC0415

    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([BEGIN, END])
    return str(tokenizer.to_str(pretty=True)).encode()


def _weights(vocabulary: dict[str, int], seed: int) -> dict[str, Weights]:
    import numpy as np  # noqa: PLC0415

    # The bit stream of PCG64 is fixed for all versions of numpy; the distributions built on it are not.
    stream = np.random.PCG64(seed)

    def bfloat16(values: NDArray[np.float32]) -> Weights:
        return (values.view(np.uint32) >> 16).astype(np.uint16)

    def uniform(rows: int, columns: int, bound: float) -> NDArray[np.float32]:
        raw = stream.random_raw(rows * columns) >> np.uint64(40)  # 24 bits: exact in a float32
        return ((raw.astype(np.float32) / 2**23 - 1) * bound).astype(np.float32).reshape(rows, columns)

    size = len(vocabulary)
    head = uniform(size, HIDDEN, 1.0)
    # Without weights a token never wins: answers are readable letters, and as long as asked for.
    head[[i for token, i in vocabulary.items() if not (len(token) == 1 and "!" <= token <= "~")]] = 0
    ones = bfloat16(np.ones(HIDDEN, np.float32))
    weights = {
        "model.embed_tokens.weight": bfloat16(uniform(size, HIDDEN, 1.0)),
        "model.norm.weight": ones,
        "lm_head.weight": bfloat16(head),
    }
    shapes = {f"self_attn.{n}_proj": (HIDDEN, HIDDEN) for n in "qkvo"} | {
        "mlp.gate_proj": (INTERMEDIATE, HIDDEN), "mlp.up_proj": (INTERMEDIATE, HIDDEN), "mlp.down_proj": (HIDDEN, INTERMEDIATE),
    }  # fmt: skip
    for layer in range(LAYERS):
        for name, (rows, columns) in shapes.items():
            weights[f"model.layers.{layer}.{name}.weight"] = bfloat16(uniform(rows, columns, 0.2))
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{layer}.{name}.weight"] = ones
    return weights


def _save(weights: dict[str, Weights]) -> bytes:
    from safetensors import TensorSpec, serialize  # noqa: PLC0415

    specs = {
        name: TensorSpec(dtype="bfloat16", shape=w.shape, data_ptr=w.ctypes.data, data_len=w.nbytes)
        for name, w in weights.items()
    }
    return bytes(serialize(specs, metadata={"format": "pt"}))
