"""The tiny model: the same bytes for the same seed, and a model that the intake and the formats' own libraries read."""

from __future__ import annotations

import builtins
import json
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors
from tokenizers import Tokenizer

from engine.errors import InputError, ResourceError
from installer import intake, tinymodel
from installer.modelfolder import Folder


def tensors_of(data: bytes) -> dict[str, Any]:
    return dict(safetensors.deserialize(data))  # type: ignore[no-untyped-call]


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    tinymodel.make(tmp_path / "one", seed=7)
    tinymodel.make(tmp_path / "two", seed=7)
    one = {p.name: p.read_bytes() for p in (tmp_path / "one").iterdir()}
    assert one == {p.name: p.read_bytes() for p in (tmp_path / "two").iterdir()}
    tinymodel.make(tmp_path / "two", seed=8)
    two = {p.name: p.read_bytes() for p in (tmp_path / "two").iterdir()}
    assert {name for name in one if one[name] != two[name]} == {"model.safetensors"}


def test_the_intake_takes_all_of_it(tmp_path: Path) -> None:
    tinymodel.make(tmp_path)
    folder = Folder(tmp_path)
    verdict = intake.examine(folder.entries, folder.read)
    assert (verdict.refused, verdict.left_out, verdict.licence) == ((), (), "Apache-2.0")
    assert len(verdict.taken) == 7


def test_the_weights_are_those_of_the_configured_llama() -> None:
    files = tinymodel.contents(0)
    config = json.loads(files["config.json"])
    hidden, size = config["hidden_size"], config["vocab_size"]
    tensors = tensors_of(files["model.safetensors"])
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert hidden // config["num_attention_heads"] == config["head_dim"] == 32
    assert tensors["model.embed_tokens.weight"]["shape"] == tensors["lm_head.weight"]["shape"] == [size, hidden]
    assert tensors["model.layers.1.mlp.down_proj.weight"]["shape"] == [hidden, config["intermediate_size"]]
    assert len(tensors) == 3 + 9 * config["num_hidden_layers"]
    assert {info["dtype"] for info in tensors.values()} == {"BF16"}
    assert all(len(info["data"]) == 2 * math.prod(info["shape"]) for info in tensors.values())


def test_the_weights_are_finite_and_not_all_alike() -> None:
    tensors = tensors_of(tinymodel.contents(0)["model.safetensors"])
    raw = bytes(tensors["model.embed_tokens.weight"]["data"])
    values = [int.from_bytes(raw[i : i + 2], "little") for i in range(0, len(raw), 2)]
    assert all((v >> 7) & 0xFF != 0xFF for v in values)  # an exponent of ones is infinite or no number
    assert len(set(values)) > 1000


def test_the_tokenizer_takes_any_text_and_gives_it_back() -> None:
    files = tinymodel.contents(0)
    tokenizer = Tokenizer.from_str(files["tokenizer.json"].decode())
    config = json.loads(files["config.json"])
    text = "What crosses an air gap? Größe 漢字 \U0001f642\n"
    ids = tokenizer.encode(text).ids
    assert tokenizer.decode(ids) == text
    assert max(ids) < config["vocab_size"] == tokenizer.get_vocab_size()
    assert tokenizer.token_to_id("<s>") == config["bos_token_id"]
    assert tokenizer.token_to_id("</s>") == config["eos_token_id"]


def test_other_files_in_the_directory_are_not_mixed_in(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds other files: thesis\.txt"):
        tinymodel.make(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("package", ["numpy", "safetensors", "tokenizers"])
def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    real = builtins.__import__

    def absent(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == package:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ResourceError, match=f"package {package} is not installed") as caught:
        tinymodel.contents(0)
    assert "./run setup" in caught.value.remedy
