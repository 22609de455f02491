"""YAML that people write, read so that every complaint names file, line and key."""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from engine.errors import InputError

MAX_BYTES = 16 << 20
NOT_YAML = "not valid YAML"
Model = TypeVar("Model", bound=BaseModel)
Key = tuple[str | int, ...]


@dataclass(frozen=True)
class Document:
    """A parsed file and the line on which each key stands (counted from 1)."""

    path: Path
    data: Any
    lines: dict[Key, int]

    def line(self, key: Key) -> int:
        """The line of ``key`` or of its nearest ancestor that is in the file."""
        while key and key not in self.lines:
            key = key[:-1]
        return self.lines.get(key, 1)

    def error(self, key: Key, what: str, remedy: str = "") -> InputError:
        """An error that points at ``key``."""
        dotted = ".".join(str(k) for k in key)
        return InputError(f"{dotted}: {what}" if dotted else what, where=f"{self.path}:{self.line(key)}", remedy=remedy)


def load(path: Path) -> Document:
    """Read one YAML document.

    Raises:
        InputError: no such file, not YAML, a key twice, or an alias (a file of ours never needs one).
    """
    return _read(path, values=True)


def _read(path: Path, *, values: bool) -> Document:
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", where=str(path), remedy="Check the name.") from error
    if len(raw) > MAX_BYTES:
        raise InputError(f"larger than {MAX_BYTES >> 20} MiB", where=str(path), remedy="Split the definition.")
    lines: dict[Key, int] = {}
    try:
        with without_collector():
            loader = yaml.CSafeLoader(raw)
            try:
                node = loader.get_single_node()
                _index(path, node, (), lines, set())
                data = loader.construct_document(node) if node is not None and values else None  # type: ignore[no-untyped-call]
            finally:
                loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        text = raw.splitlines()[line - 1 : line] or [b""]
        indent = text[0][: len(text[0]) - len(text[0].lstrip())]
        problem = "a tab begins the line; YAML takes spaces alone" if b"\t" in indent else error.problem
        raise InputError(f"{NOT_YAML}: {problem}", where=f"{path}:{line}", remedy="Fix the syntax there.") from error
    except RecursionError as error:
        raise InputError("nested too deeply", where=str(path), remedy="Flatten it.") from error
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date or a number that is none
        raise InputError(f"{NOT_YAML}: {error}", where=str(path), remedy="Fix the syntax.") from error
    return Document(path, data, lines)


def positions(path: Path) -> Document:
    """The lines of a document of which another reader has the values: tags are not looked at, and ``data`` is None.

    Raises:
        InputError: as ``load``.
    """
    return _read(path, values=False)


@contextmanager
def without_collector() -> Iterator[None]:
    """No search for garbage while a document is read or written: it has none, and looking through 20 000 entries again and again
    took two thirds of reading them."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _index(path: Path, node: yaml.Node | None, key: Key, lines: dict[Key, int], seen: set[int]) -> None:
    if node is None:
        return
    lines.setdefault(key, node.start_mark.line + 1)
    if id(node) in seen:
        raise InputError(
            "aliases (*name) are not supported",
            where=f"{path}:{node.start_mark.line + 1}",
            remedy="Write the value out.",
        )
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        names: set[str] = set()
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode):
                raise InputError(
                    "a key must be text", where=f"{path}:{name.start_mark.line + 1}", remedy="Write the key as text."
                )
            if name.value in names:
                raise InputError(
                    f"duplicate key {name.value!r}",
                    where=f"{path}:{name.start_mark.line + 1}",
                    remedy="Remove one of them.",
                )
            names.add(name.value)
            lines[(*key, name.value)] = name.start_mark.line + 1
            _index(path, value, (*key, name.value), lines, seen)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            _index(path, value, (*key, i), lines, seen)


# pydantic's words by kind of fault, for people who never heard of it; what is in braces it says beside.
WORDS = {
    "extra_forbidden": "unknown key",
    "missing": "required key is missing",
    "string_type": "must be text; put it in quotes",
    "string_pattern_mismatch": "must match {pattern}",
    "literal_error": "must be {expected}",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be a mapping, keys with values",
    "model_type": "must be a mapping, keys with values",
    "greater_than_equal": "must be at least {ge}",
    "greater_than": "must be more than {gt}",
    "less_than_equal": "must be at most {le}",
    "less_than": "must be less than {lt}",
}


def said(fault: Mapping[str, Any]) -> str:
    """What one fault is, in a sentence; pydantic's own where there is no better. Pure."""
    kind, context = fault["type"], fault.get("ctx", {})
    if kind in WORDS:
        return WORDS[kind].format(**context)
    if kind in ("too_long", "too_short", "string_too_long", "string_too_short"):
        bound, number = ("most", "max_length") if kind.endswith("long") else ("least", "min_length")
        limit, given = context[number], context.get("actual_length")
        if kind.startswith("string"):
            return f"must have at {bound} {limit} character{'' if limit == 1 else 's'}"
        what = f"at {bound} {limit} {'entry is' if limit == 1 else 'entries are'} {'allowed' if bound == 'most' else 'needed'} here"
        return what if given is None else f"{what}, {given or 'none'} {'is' if given in (0, 1) else 'are'} given"
    return str(fault["msg"]).removeprefix("Value error, ")


def parse(document: Document, model: type[Model], *, schema: str) -> Model:
    """Check a document against a model.

    Args:
        schema: what `appliance schema` calls the model; empty for one that it does not know.

    Raises:
        InputError: with one line per fault, each naming file, line and key.
    """
    try:
        return model.model_validate(document.data if document.data is not None else {})
    except ValidationError as error:
        faults = []
        found = error.errors(include_url=False)
        for fault in found:
            if fault["type"] == "too_short" and any(_below(f["loc"], fault["loc"]) for f in found):
                continue  # its entries are there and wrong, each told by itself; pydantic counts the good ones
            # Union members and validators add pseudo keys (capitalised or bracketed); only real keys are kept.
            key = tuple(
                k for k in fault["loc"] if isinstance(k, int) or document_has(document, k) or fault["type"] == "missing"
            )
            dotted = ".".join(str(k) for k in key) or "document"
            message = said(fault)
            if fault["type"] == "extra_forbidden" and (near := nearest(model, key)):
                message += f" (did you mean {near}?)"
            faults.append(f"{document.path}:{document.line(key)}: {dotted}: {message}")
        remedy = f"`appliance schema {schema}` prints what is allowed." if schema else "Correct it there."
        raise InputError("\n".join(faults), remedy=remedy) from error


def _below(inner: Sequence[int | str], outer: Sequence[int | str]) -> bool:
    """Whether a place of a document is an entry of another, or below one."""
    return len(inner) > len(outer) and tuple(inner[: len(outer)]) == tuple(outer)


def nearest(model: type[BaseModel], key: Key) -> str:
    """The allowed key that an unknown one resembles most; empty where none does. Pure.

    Args:
        key: where the unknown one stands, below ``model``; the last part is its name.
    """
    models: list[type[BaseModel]] = [model]
    for part in key[:-1]:
        if isinstance(part, str):
            fields = [f for m in models for n, f in m.model_fields.items() if part in (n, f.alias)]
            models = [m for f in fields for m in _models(f.annotation)]
    allowed = {f.alias or n for m in models for n, f in m.model_fields.items()}
    return close_to(str(key[-1]), allowed)


def close_to(word: str, allowed: Iterable[str]) -> str:
    """The one of ``allowed`` that ``word`` resembles most, for "did you mean"; empty where none does. Pure."""
    import difflib  # noqa: PLC0415  only mistakes need it

    return next(iter(difflib.get_close_matches(word, sorted(allowed), 1)), "")


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models in a type such as ``list[A | B] | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for inner in get_args(annotation) for m in _models(inner)]


def document_has(document: Document, name: str) -> bool:
    """Whether any key of the document is called ``name``."""
    return any(k and k[-1] == name for k in document.lines)
