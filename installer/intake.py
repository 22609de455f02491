"""Model intake: what a model folder may bring across the gap. Pure rules over a list of files and a way to read them.

The list of what may pass is closed: data that is read, never run. Of the rest, what is known to carry code is refused
by name, so that a person decides; anything else stays outside and is listed.
"""

from __future__ import annotations

import fnmatch
import io
import json
import posixpath
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from engine.errors import TrustError
from engine.tree import Entry, check_path, collisions
from installer import chattemplate, modelcard, modelneeds, modelshards, safetensors
from installer.definition import Waiver

WEIGHTS = ".safetensors"
INDEX = ".safetensors.index.json"
JSON_LIMIT = 64 << 20  # bytes; the largest tokenizer.json in use has about 35 MB and 2.5 million parts
JSON_PARTS = 4_000_000  # values, lists and tables: what a small text of brackets would become in memory
TEXT_LIMIT = 4 << 20  # bytes of a template that are read; one with more characters than chattemplate.LIMIT is refused
ALLOWED = re.compile(
    r"\.(safetensors|json|jsonl|txt|md|jinja|jinja2|tiktoken)$|\.model(\.v\d+)?$"
    r"|(^|/)(licen[cs]e|copying|notice|use_policy|authors|citation)([._-][\w.-]*)?$",
    re.IGNORECASE,
)
PICKLE = re.compile(
    r"\.(bin|pt|pt2|pth|ptc|ckpt|pkl|pickle|dill|joblib|npy|npz|h5|hdf5|keras|nemo|mar)$", re.IGNORECASE
)
PYTHON = re.compile(r"\.(py|pyc|pyo|pyd|pyx|pyw|pyz|so|whl|egg|ipynb)$", re.IGNORECASE)
# How files begin that run code when loaded (pickle protocols 2 to 5, zip as torch.save writes it, gzip, ELF), whatever their name.
CODE_MAGIC = re.compile(rb"\x80[\x02-\x05]|PK\x03\x04|\x1f\x8b|\x7fELF")
SENTENCEPIECE = b"\x0a"  # first field of the tokenizer's protocol buffer
KINDS = {"link": "symbolic link", "special": "socket, pipe or device"}
ADVICE = "advice "  # how such a note of the lock begins; `appliance check` reads them there
WAIVABLE = frozenset({"pickle", "python", "auto-map", "licence"})
Read = Callable[[str, int], bytes]  # path, n: the first n bytes of the file, fewer when it is shorter


@dataclass(frozen=True)
class Finding:
    """A rule that a file breaks; ``path`` is empty when it is the model as a whole."""

    rule: str
    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path or 'the model'}: {self.reason} [rule {self.rule}]"


@dataclass(frozen=True)
class Verdict:
    """The outcome. ``waived`` pairs findings with the operator's reasons; ``licence`` is an SPDX expression; ``advice`` is what nothing
    refuses and a server will miss."""

    taken: tuple[Entry, ...]
    left_out: tuple[str, ...]
    refused: tuple[Finding, ...]
    waived: tuple[tuple[Finding, str], ...]
    unused: tuple[str, ...]
    licence: str
    advice: tuple[Finding, ...] = ()

    def notes(self, path: str) -> tuple[str, ...]:
        """What a reviewer must see beside this file: the waivers it, or the whole model, needs; beside the first, the advice."""
        waivers = {f"waiver {f.rule}: {why} ({f.reason})" for f, why in self.waived if f.path in ("", path)}
        advice = {f"{ADVICE}{f.rule}: {f.reason}" for f in self.advice if path == self.taken[0].path}
        return tuple(sorted(waivers | advice))

    def remarks(self) -> Iterator[str]:
        """What an operator should know though nothing is wrong with it."""
        if self.left_out:
            yield f"left out, not of a type that may cross: {', '.join(self.left_out)}"
        for rule in self.unused:
            yield f"the waiver for {rule} is not needed; remove it from the definition"

    def enforce(self, model: str, where: str) -> None:
        """
        Raises:
            TrustError: something is refused; names every file and rule.
        """
        if self.refused:
            lines = "".join(f"\n  {finding}" for finding in self.refused)
            raise TrustError(f"model {model} is refused:{lines}\n", where=where, remedy=remedy(self.refused))


def remedy(refused: Iterable[Finding]) -> str:
    """What an operator can do about these findings."""
    rules = sorted({f.rule for f in refused})
    if waivable := [r for r in rules if r in WAIVABLE]:
        others = "" if len(waivable) == len(rules) else " There is no waiver for the other rules."
        return (
            f"Leave such files out with `include`, or record an exception in the definition: "
            f"`waivers: [{{rule: {waivable[0]}, reason: WHY}}]`.{others}"
        )
    if rules == ["shards"]:
        return "Bring the missing files along: download the model again, or correct `include`. There is no waiver."
    return "There is no waiver for these rules. Take another revision, or repair the model at its source."


def examine(
    files: Sequence[Entry],
    read: Read,
    *,
    include: Sequence[str] = (),
    licence: str = "",
    waivers: Sequence[Waiver] = (),
) -> Verdict:
    """Judge a model folder.

    Args:
        include: shell patterns of paths to take (``*`` matches slashes too); all when empty.
        licence: the definition's word; stands above the model card's.
    """
    taken, left_out, findings = _sort(files, include)
    tensors: dict[str, frozenset[str]] = {}
    documents: dict[str, Any] = {}
    for file in taken:
        findings += _content(file, read, tensors, documents)
    findings += _indexes(documents, tensors)
    weights = [f.path for f in taken if f.path.lower().endswith(WEIGHTS)]
    behind = {f.path for f in files if not _included(f.path, include) and not _hidden(f.path)}
    findings += [Finding("shards", path, fault) for path, fault in modelshards.faults(weights, behind)]
    if not tensors and not any(f.rule == "safetensors" for f in findings):
        findings.append(Finding("safetensors", "", "it has no safetensors file, so no weights that may cross"))
    paths = [f.path for f in taken]
    licence = licence or modelcard.licence(
        paths, read(modelcard.CARD, modelcard.LIMIT) if modelcard.CARD in paths else b""
    )
    if not licence:
        findings.append(Finding("licence", "", "neither the definition, the model card nor a LICENSE file names one"))
    reasons = {w.rule: w.reason for w in waivers}
    needed = {f.rule for f in findings}
    return Verdict(
        taken=tuple(taken),
        left_out=tuple(left_out),
        refused=tuple(f for f in findings if f.rule not in reasons),
        waived=tuple((f, reasons[f.rule]) for f in findings if f.rule in reasons),
        unused=tuple(sorted(r for r in reasons if r not in needed)),
        licence=licence,
        advice=tuple(_advice(paths, behind, read, documents.get("config.json"))),
    )


def _advice(paths: Sequence[str], behind: Iterable[str], read: Read, config: Any) -> Iterator[Finding]:
    """What is not wrong, and what a server misses in the folder."""
    if missed := modelneeds.left_behind(behind):
        told = ", ".join(missed[:8]) + (f" and {len(missed) - 8} more" if len(missed) > 8 else "")
        yield Finding("model-files", "", f"include leaves out what a server reads: {told}")
    if modelneeds.without_template(paths, read, config):
        yield Finding("chat-template", "", "it has no chat template: clients cannot chat with it, and the install's proof asks for a plain completion")  # fmt: skip


def _sort(files: Sequence[Entry], include: Sequence[str]) -> tuple[list[Entry], list[str], list[Finding]]:
    """What is taken, what is left out, and what is refused by name alone. Hidden files are nobody's model."""
    taken, left_out, findings = [], [], []
    for file in sorted(files, key=lambda f: f.path):
        path = file.path
        if problem := _path_problem(path):
            findings.append(Finding("path", ascii(path), problem))
        elif _hidden(path) or not _included(path, include):
            continue
        elif file.kind != "file":
            findings.append(Finding("link", path, f"it is a {KINDS[file.kind]}, not a file of its own"))
        elif PICKLE.search(path):
            taken.append(file)
            findings.append(Finding("pickle", path, "its format can run code when it is loaded"))
        elif PYTHON.search(path):
            taken.append(file)
            findings.append(Finding("python", path, "it is code"))
        elif ALLOWED.search(path):
            taken.append(file)
        elif include:
            findings.append(Finding("type", path, "include asks for it, but its type may not cross the gap"))
        else:
            left_out.append(path)
    for one, other in collisions([f.path for f in taken]):
        findings.append(Finding("path", other, f"on media that ignore case it is the same file as {one}"))
    return taken, left_out, findings


def _hidden(path: str) -> bool:
    return any(part.startswith(".") for part in path.split("/"))


def _included(path: str, include: Sequence[str]) -> bool:
    return not include or any(fnmatch.fnmatchcase(path, pattern) for pattern in include)


def _path_problem(path: str) -> str:
    try:
        check_path(path)
    except TrustError:
        return "its path climbs, or has characters that are not safe everywhere"
    return ""


def _content(
    file: Entry, read: Read, tensors: dict[str, frozenset[str]], documents: dict[str, Any]
) -> Iterator[Finding]:
    """Look into one file. Tensor names and parsed JSON are noted for the rules that see several files."""
    path, name = file.path, file.path.lower()
    if PICKLE.search(path) or PYTHON.search(path):
        return
    if name.endswith(WEIGHTS):
        try:
            start = safetensors.start_size(read(path, 8), file.size, path)
            tensors[path] = safetensors.check(io.BytesIO(read(path, start)), file.size, path)
        except TrustError as error:
            yield Finding("safetensors", path, error.what)
        return
    if CODE_MAGIC.match(first := read(path, 8)):
        yield Finding("pickle", path, "its content is a pickle, an archive or a program, whatever its name says")
    elif re.search(r"\.model(\.v\d+)?$", name) and not first.startswith(SENTENCEPIECE):
        yield Finding("pickle", path, "it is named like a SentencePiece tokenizer and is none")
    elif name.endswith(".json"):
        yield from _json(file, read, documents)
    elif name.endswith((".jinja", ".jinja2")):
        yield from _template_file(file, read)


def _template_file(file: Entry, read: Read) -> Iterator[Finding]:
    try:
        fault = chattemplate.fault(read(file.path, TEXT_LIMIT).decode())
    except UnicodeDecodeError:
        fault = "the chat template is not UTF-8"
    if fault:
        yield Finding("chat-template", file.path, fault)


def _json(file: Entry, read: Read, documents: dict[str, Any]) -> Iterator[Finding]:
    if file.size > JSON_LIMIT:
        yield Finding("json", file.path, f"it has more than {JSON_LIMIT} bytes")
        return
    pairs: list[tuple[str, Any]] = []

    def watch(table: list[tuple[str, Any]]) -> dict[str, Any]:
        # Seen pair by pair, so that a key that stands twice hides nothing.
        pairs.extend((k, v) for k, v in table if k in ("auto_map", "chat_template"))
        return dict(table)

    raw = read(file.path, file.size)
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > JSON_PARTS:
        yield Finding("json", file.path, f"it has more than {JSON_PARTS} parts")
        return
    try:
        documents[file.path] = json.loads(raw, object_pairs_hook=watch)
    except (ValueError, RecursionError) as error:
        yield Finding("json", file.path, f"it is not JSON: {error}")
        return
    # A number under such a key is a word of a tokenizer's vocabulary.
    if any(key == "auto_map" and not isinstance(value, int | float) for key, value in pairs):
        yield Finding("auto-map", file.path, "auto_map makes a loader run the model's own code")
    for key, value in pairs:
        if key == "chat_template":
            yield from (
                Finding("chat-template", file.path, why) for t in _templates(value) if (why := chattemplate.fault(t))
            )


def _templates(value: Any) -> Iterator[str]:
    """A template, or several: a list of tables with name and template, or a table by name."""
    waiting = [value]
    while waiting:
        match waiting.pop():
            case str(template):
                yield template
            case list(entries):
                waiting += entries
            case dict(entries):
                waiting += entries.values()


def _indexes(documents: dict[str, Any], tensors: dict[str, frozenset[str]]) -> Iterator[Finding]:
    """Every shard that an index names is there and holds the tensors said to be in it."""
    for path, index in documents.items():
        if not path.lower().endswith(INDEX):
            continue
        shards = index.get("weight_map") if isinstance(index, dict) else None
        if not isinstance(shards, dict) or not all(isinstance(s, str) for s in shards.values()):
            yield Finding("index", path, "it has no weight_map from tensors to files")
            continue
        below = posixpath.dirname(path)
        for shard in sorted(set(shards.values())):
            if "/" in shard or not shard.lower().endswith(WEIGHTS):
                yield Finding("index", path, f"it names {shard[:80]!a}, which is no shard beside it")
            elif (there := tensors.get(posixpath.join(below, shard))) is None:
                yield Finding("index", path, f"it names {shard[:80]!a}, which is not there or not sound")
            elif missing := sorted(t for t, s in shards.items() if s == shard and t not in there):
                yield Finding(
                    "index", path, f"it looks for {missing[0][:80]!a} in {shard[:80]!a}, which does not have it"
                )
