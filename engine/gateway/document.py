"""YAML that people or roles write, checked against a model so that every complaint names file, line and key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError

from engine.errors import InputError

MAX_BYTES = 16 << 20
Model = TypeVar("Model", bound=BaseModel)
Key = tuple[str | int, ...]

WORDS = {
    "extra_forbidden": "unknown key",
    "missing": "required key is missing",
    "string_type": "must be text; put it in quotes",
    "string_pattern_mismatch": "must match {pattern}",
    "literal_error": "must be {expected}",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
}


@dataclass(frozen=True)
class Document:
    """A parsed file and the line (counted from 1) of each key."""

    path: Path
    data: Any
    lines: dict[Key, int]

    def line(self, key: Key) -> int:
        """The line of ``key`` or of its nearest ancestor that is in the file."""
        while key and key not in self.lines:
            key = key[:-1]
        return self.lines.get(key, 1)

    def fault(self, key: Key, what: str) -> str:
        """One complaint about ``key``, with file and line."""
        return f"{self.path}:{self.line(key)}: {'.'.join(str(k) for k in key) or 'document'}: {what}"


def load(path: Path) -> Document:
    """Read one YAML document.

    Raises:
        InputError: it cannot be read, is not YAML, is too large, has a duplicate key or an alias.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read: {error.strerror}", where=str(path), remedy="Check the name.") from error
    if len(raw) > MAX_BYTES:
        raise InputError(f"larger than {MAX_BYTES >> 20} MiB", where=str(path), remedy="Make it smaller.")
    lines: dict[Key, int] = {}
    try:
        loader = yaml.CSafeLoader(raw)
        try:
            node = loader.get_single_node()
            _index(path, node, (), lines, set())
            data = loader.construct_document(node) if node is not None else None  # type: ignore[no-untyped-call]
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise InputError(
            f"not valid YAML: {error.problem}", where=f"{path}:{line}", remedy="Fix the syntax."
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise InputError(f"not valid YAML: {error}", where=str(path), remedy="Fix the syntax.") from error
    return Document(path, data, lines)


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
            line = name.start_mark.line + 1
            if not isinstance(name, yaml.ScalarNode):
                raise InputError("a key must be text", where=f"{path}:{line}", remedy="Write the key as text.")
            if name.value in names:
                raise InputError(f"duplicate key {name.value!r}", where=f"{path}:{line}", remedy="Remove one of them.")
            names.add(name.value)
            lines[(*key, name.value)] = line
            _index(path, value, (*key, name.value), lines, seen)
    elif isinstance(node, yaml.SequenceNode):
        for i, value in enumerate(node.value):
            _index(path, value, (*key, i), lines, seen)


def parse(document: Document, model: type[Model]) -> Model:
    """Check a document against a model.

    Raises:
        InputError: one line per fault, each naming file, line and key.
    """
    try:
        return model.model_validate(document.data if document.data is not None else {})
    except ValidationError as error:
        names = {k[-1] for k in document.lines if k}
        faults = []
        for fault in error.errors(include_url=False, include_input=False):
            key = tuple(k for k in fault["loc"] if isinstance(k, int) or k in names or fault["type"] == "missing")
            context = fault.get("ctx", {})
            said = (
                WORDS[fault["type"]].format(**context)
                if fault["type"] in WORDS
                else str(fault["msg"]).removeprefix("Value error, ")
            )
            faults.append(document.fault(key, said))
        raise InputError("\n".join(faults), remedy="Correct it there; nothing was changed.") from None
