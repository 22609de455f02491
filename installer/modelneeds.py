"""What a server looks for in a model's folder beside the weights. Nothing here is refused; an operator is told before the model crosses."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable, Mapping
from typing import Any

from engine import chat

# Read by vLLM, transformers, sentence-transformers or mistral-common from the folder when they are there, and done without when not.
READ = re.compile(
    r"config\.json|params\.json|generation_config\.json|.+_quant(ization)?_config\.json|quantize_config\.json|configuration\.json"
    r"|chat_template\.(jinja2?|json)|.+\.jinja2?"
    r"|tokenizer\.json|tokenizer_config\.json|special_tokens_map\.json|added_tokens\.json|tekken\.json"
    r"|merges\.txt|vocab\.(json|txt)|.+\.tiktoken|(tokenizer|spiece|sentencepiece\.bpe)\.model(\.v\d+\w*)?"
    r"|((video_|image_)?pre)?processor_config\.json|(video|image|feature)_(pre)?processor_config\.json|feature_extractor_config\.json"
    r"|modules\.json|config_sentence_transformers\.json|sentence_.+_config\.json"
    r"|.+\.safetensors\.index\.json"
)
GENERATES = re.compile(r"(CausalLM|ConditionalGeneration|LMHeadModel)$")


def left_behind(paths: Iterable[str]) -> list[str]:
    """Those of the paths that `include` leaves out and a server would read."""
    return sorted(p for p in paths if READ.fullmatch(posixpath.basename(p)))


def without_template(paths: Iterable[str], read: chat.Read, config: Any) -> bool:
    """Whether a model that generates text has no chat template.

    Args:
        config: its config.json, parsed; what does not say its architecture counts as one that generates.
    """
    stated = config.get("architectures") if isinstance(config, Mapping) else None
    named = [a for a in stated if isinstance(a, str)] if isinstance(stated, list) else []
    if named and not any(GENERATES.search(a) for a in named):
        return False
    return not chat.has_template(paths, read)
