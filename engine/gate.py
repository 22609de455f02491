"""The gate of an upgrade: a served model must still say what it said, as fast as it did, and its GPUs must be as healthy.

`measure` asks the model and the GPUs and writes down what came; `check` asks again and compares. Prompts are fixed and sampling is
greedy, so the tokens are the same unless the weights, the numerics or the software changed. New kernels may turn a near tie: at the
first different token the gate asks how much less likely the old token became, and lets a gap up to `--max-gap` (nats) pass.

Only the standard library and NVML's bindings: it runs while the node is being changed.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from engine import durable, nvml, strictjson
from engine.errors import ApplianceError, InputError
from engine.probe import PROMPT, Target, complete
from engine.serving import services

PROMPTS = (
    PROMPT,
    "Write down the numbers from one to thirty in words, one after the other, and then say what comes after thirty: one two",
)
ALTERNATIVES = 5  # tokens whose likelihood the API gives beside the chosen one; vLLM allows 20
ROUNDS = 3  # the best counts: a busy moment must not fail an upgrade
AGAIN, PAUSE_S = 6, 5.0  # more rounds, and seconds before each, when all of the first were too slow
COMPILER = Path("usr/bin/g++")  # that PyTorch makes functions for a processor with
XID = re.compile(r"NVRM: Xid \(([^)]*)\): (\d+)")


@dataclass(frozen=True)
class Said:
    """One greedy answer: its tokens, and for each the natural logarithm of the likelihood of the likeliest few.

    Without ``alternatives`` the answer was not asked for its likelihoods, and its text is the one token.
    """

    tokens: tuple[str, ...]
    alternatives: tuple[Mapping[str, float], ...] = ()


@dataclass(frozen=True)
class Health:
    """What must not get worse on a GPU while a node changes. Counts since the driver was loaded."""

    driver: str = ""
    xids: tuple[str, ...] = ()
    uncorrected: Mapping[str, int] = field(default_factory=dict)
    fabric: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Measurement:
    """``throughput`` in generated tokens a second over all requests at once."""

    model: str
    said: tuple[Said, ...]
    throughput: float
    health: Health


def measure(
    target: Target, model: str, *, requests: int, tokens: int, timeout_s: float, plain: bool = False
) -> Measurement:
    """Ask the model and the GPUs.

    Args:
        requests: how many at once.
        tokens: length of each answer.
        plain: do not ask for likelihoods.

    Raises:
        ApplianceError: the model does not answer in time, or not as the API promises.
    """
    more = {"logprobs": None} if plain else {}
    answers = (complete(target, _body(model, prompt, tokens) | more, timeout_s) for prompt in PROMPTS)
    said = tuple(_text(a, target) if plain else _said(a, target) for a in answers)
    throughput = max(_throughput(target, model, requests, tokens, timeout_s) for _ in range(ROUNDS))
    return Measurement(model, said, round(throughput, 2), health())


def faster(
    target: Target, now: Measurement, enough: float, *, requests: int, tokens: int, timeout_s: float
) -> Measurement:
    """``now`` with the best throughput of more rounds, which end as soon as one reaches ``enough``: what else runs on the node only
    makes a model slower, so one good round shows what it can do, and a model that became slow has none.

    Raises:
        ApplianceError: as ``measure``.
    """
    best = now.throughput
    for _ in range(AGAIN):
        if best >= enough:
            break
        time.sleep(PAUSE_S)
        best = max(best, _throughput(target, now.model, requests, tokens, timeout_s))
    return replace(now, throughput=round(best, 2))


def can_end_it(service: str, root: Path = Path("/")) -> bool:
    """Whether a question for likelihoods could end the engine of a service: it was started, by a release from before that was known, so that
    it compiles a function for them when they are first asked for, on a node that has no compiler (decision 0055)."""
    compiles = any(s.service == service and s.compiles for s in services(root))
    return compiles and not (root / COMPILER).exists()


def compare(before: Measurement, after: Measurement, *, share: float, max_gap: float) -> list[str]:
    """Why the gate stays shut, in words; empty when it opens. Pure.

    Args:
        share: of the throughput before that is enough.
        max_gap: in nats, how much likelier the new token may be than the old one where they part.
    """
    found = [
        w for n, (b, a) in enumerate(zip(before.said, after.said, strict=False)) if (w := _parted(n, b, a, max_gap))
    ]
    if after.throughput < share * before.throughput:
        found.append(
            f"{after.throughput:.1f} tokens/s are {after.throughput / before.throughput:.0%} of the {before.throughput:.1f} before; {share:.0%} are asked for"
        )
    return found + worse(before.health, after.health)


def worse(before: Health, after: Health) -> list[str]:
    """What became worse on the GPUs. A newer driver is meant; an Xid is not."""
    found = [f"new GPU fault in the kernel's log: Xid {x}" for x in after.xids if x not in before.xids]
    for gpu, count in after.uncorrected.items():
        if count > before.uncorrected.get(gpu, 0):
            found.append(f"GPU {gpu} has {count} uncorrected memory errors, {before.uncorrected.get(gpu, 0)} before")
    found += [f"GPU {gpu} is gone" for gpu in before.uncorrected if gpu not in after.uncorrected]
    found += [
        f"the NVLink fabric of GPU {gpu} is in state {state}, {before.fabric[gpu]} before"
        for gpu, state in after.fabric.items()
        if before.fabric.get(gpu) == 3 != state  # 3 is completed
    ]
    return found


def health() -> Health:
    """The GPUs now; empty on a node without.

    Raises:
        ApplianceError: there is a driver and the library does not answer to it.
    """
    import pynvml  # noqa: PLC0415

    told = nvml.read(pynvml)
    if told.error in ("LIBRARY_NOT_FOUND", "DRIVER_NOT_LOADED"):
        return Health()
    if told.error:
        raise ApplianceError(
            f"NVML says {told.error}",
            where="the NVIDIA driver",
            remedy="Reboot the node when driver and library differ; see docs/preflight.md.",
        )
    name = {g.index: g.uuid or str(g.index) for g in told.gpus}
    return Health(
        told.driver or "",
        _xids(),
        {name[g.index]: g.ecc.volatile_uncorrected or 0 for g in told.gpus},
        {name[g.index]: g.fabric.state for g in told.gpus if g.fabric},
    )


def _xids() -> tuple[str, ...]:
    """Xid events since boot, from the kernel's log, each with its own time stamp."""
    from engine.process import run  # noqa: PLC0415

    lines = run(
        ["journalctl", "--dmesg", "--no-pager", "-o", "short-monotonic", "--grep", "NVRM: Xid"], ok=(0, 1)
    ).stdout
    return tuple(line.strip()[:200] for line in lines.splitlines() if XID.search(line))


def _in_tokens(text: str, after: Said) -> Said:
    """A text in the tokens of a later answer, up to where they part: there in the token that was likely, too, or else in one piece."""
    found, at = [], 0
    for place, token in enumerate(after.tokens):
        if at >= len(text):
            break
        if text.startswith(token, at):
            found.append(token)
            at += len(token)
            continue
        likely = after.alternatives[place] if place < len(after.alternatives) else {}
        fitting = [t for t in likely if t and text.startswith(t, at)]
        return Said((*found, max(fitting, key=len, default=text[at:])))
    return Said((*found, *([text[at:]] if text[at:] else [])))


def _parted(number: int, before: Said, after: Said, max_gap: float) -> str:
    if not before.alternatives:
        before = _in_tokens("".join(before.tokens), after)
    for place, (old, new) in enumerate(zip(before.tokens, after.tokens, strict=False)):
        if old == new:
            continue
        likely = after.alternatives[place] if place < len(after.alternatives) else {}
        gap = likely.get(new, 0.0) - likely[old] if old in likely else None
        if gap is not None and gap <= max_gap:
            return ""  # a near tie; what follows is another sentence and says nothing
        why = (
            f"which is now {gap:.2f} nats less likely"
            if gap is not None
            else f"which is not among the {ALTERNATIVES} likeliest any more"
        )
        return f"prompt {number + 1}: token {place + 1} is {new!r} and was {old!r}, {why}"
    if len(after.tokens) < len(before.tokens):
        return f"prompt {number + 1}: the answer has {len(after.tokens)} tokens, {len(before.tokens)} before"
    return ""


def _throughput(target: Target, model: str, requests: int, tokens: int, timeout_s: float) -> float:
    begin = time.monotonic()
    with ThreadPoolExecutor(requests) as pool:
        bodies = [
            _body(model, f"{n} {PROMPT}", tokens) | {"logprobs": None, "ignore_eos": True} for n in range(requests)
        ]
        answers = list(pool.map(lambda body: complete(target, body, timeout_s), bodies))
    return sum(_count(a, target) for a in answers) / (time.monotonic() - begin)


def _body(model: str, prompt: str, tokens: int) -> dict[str, Any]:
    return {
        "model": model,
        "prompt": prompt,
        "max_tokens": tokens,
        "temperature": 0,
        "logprobs": ALTERNATIVES,
        "stream": False,
    }


def _said(answer: Mapping[str, Any], target: Target) -> Said:
    try:
        told = answer["choices"][0]["logprobs"]
        tokens = tuple(str(t) for t in told["tokens"])
        likely = tuple({str(t): float(p) for t, p in (top or {}).items()} for top in told["top_logprobs"])
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise ApplianceError(
            "the model's answer has no likelihoods",
            where=str(target),
            remedy="Serve with vLLM's OpenAI API; the gate needs `logprobs`.",
        ) from error
    if not tokens:
        raise ApplianceError(
            "the model answered without a token", where=str(target), remedy="Look at the unit's journal."
        )
    return Said(tokens, likely)


def _text(answer: Mapping[str, Any], target: Target) -> Said:
    try:
        text = str(answer["choices"][0]["text"])
    except (LookupError, TypeError) as error:
        raise ApplianceError(
            "the model's answer has no text", where=str(target), remedy="Look at the unit's journal."
        ) from error
    return Said((text,))


def _count(answer: Mapping[str, Any], target: Target) -> int:
    try:
        return int(answer["usage"]["completion_tokens"])
    except (LookupError, TypeError, ValueError) as error:
        raise ApplianceError(
            "the model's answer does not count its tokens", where=str(target), remedy="Look at the unit's journal."
        ) from error


def _read(path: Path) -> Measurement:
    try:
        data = strictjson.loads(path.read_bytes())
        said = tuple(Said(tuple(s["tokens"]), tuple(s["alternatives"])) for s in data["said"])
        told = data["health"]
        good = Health(told["driver"], tuple(told["xids"]), told["uncorrected"], told["fabric"])
        return Measurement(data["model"], said, float(data["throughput"]), good)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(
            "is no measurement", where=str(path), remedy="Make one: appliance-engine gate measure."
        ) from error


def main(argv: Sequence[str]) -> int:
    """`appliance-engine gate measure|check`: prints one JSON document; exit code 1 when the gate stays shut."""
    parser = argparse.ArgumentParser(
        prog="appliance-engine gate", description="Measure a served model, and compare with an earlier measurement."
    )
    parser.add_argument("verb", choices=("measure", "check"))
    parser.add_argument("--socket", type=Path, required=True, help="unix socket of the server")
    parser.add_argument("--model", required=True, help="name that the model is served by")
    parser.add_argument("--file", type=Path, required=True, help="the measurement: written by measure, read by check")
    parser.add_argument("--requests", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=48)
    parser.add_argument("--share", type=float, default=0.8, help="of the throughput before that is enough")
    parser.add_argument(
        "--max-gap", type=float, default=0.5, help="nats by which the old token may have become less likely"
    )
    parser.add_argument("--timeout", type=float, default=300.0, metavar="SECONDS", help="for one answer")
    asked = parser.parse_args(argv)
    before = _read(asked.file) if asked.verb == "check" else None
    plain = before is None and can_end_it(asked.socket.parent.name)  # the directory is named after the service
    now = measure(
        asked.socket,
        asked.model,
        requests=asked.requests,
        tokens=asked.tokens,
        timeout_s=asked.timeout,
        plain=plain,
    )
    if before is None:
        durable.write(asked.file, json.dumps(asdict(now)), mode=0o600)
        sys.stdout.write(json.dumps({"throughput": now.throughput}) + "\n")
        return 0
    found = compare(before, now, share=asked.share, max_gap=asked.max_gap)
    if found and now.throughput < asked.share * before.throughput:
        now = faster(
            asked.socket,
            now,
            asked.share * before.throughput,
            requests=asked.requests,
            tokens=asked.tokens,
            timeout_s=asked.timeout,
        )
        found = compare(before, now, share=asked.share, max_gap=asked.max_gap)
    if found:
        raise ApplianceError(
            "the gate stays shut: " + "; ".join(found),
            where=f"{asked.model} on this node",
            remedy="The node goes back to its previous release. Compare the releases' models and runtimes; journalctl -u 'appliance-vllm@*'.",
        )
    sys.stdout.write(json.dumps({"throughput": now.throughput, "before": before.throughput}) + "\n")
    return 0
