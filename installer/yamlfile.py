"""YAML that people write, read so that every complaint names file, line and key."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from engine import inputfile
from engine.errors import InputError

MAX_BYTES = 16 << 20
MAX_VALUES = 1_000_000  # of a file, its aliases written out; each takes about 500 bytes of memory
MAX_WRITTEN_OUT = 200_000  # values of a file that another reader writes out, which takes more of each
MAX_DEPTH = 100
NOT_YAML = "not valid YAML"
Model = TypeVar("Model", bound=BaseModel)
Key = tuple[str | int, ...]


class Loader(yaml.CSafeLoader):
    """libyaml's loader within bounds. Its own recursion is in C, so that a file of 100 000 brackets ends the process.

    PyYAML calls both methods for each node that it makes, before and after what is below it.

    Raises:
        RecursionError: deeper than ``MAX_DEPTH``.
        TooManyError: more than ``MAX_VALUES`` values.
    """

    def __init__(self, raw: bytes) -> None:
        super().__init__(raw)
        self._depth = self._values = 0

    def descend_resolver(self, current_node: yaml.Node | None, current_index: Any) -> None:
        self._depth += 1
        self._values += 1
        if self._depth > MAX_DEPTH:
            raise RecursionError
        if self._values > MAX_VALUES:
            raise TooManyError

    def ascend_resolver(self) -> None:
        self._depth -= 1


def _placed(construct: Callable[[Any, yaml.ScalarNode], Any]) -> Callable[[Any, yaml.ScalarNode], Any]:
    """A constructor of PyYAML whose complaints name the line: a date or a number that is none is a bare ValueError."""

    def constructed(loader: Loader, node: yaml.ScalarNode) -> Any:
        try:
            return construct(loader, node)
        except ValueError as error:
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from error

    return constructed


PLACED = tuple(f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "timestamp"))
for _tag in PLACED:
    Loader.add_constructor(_tag, _placed(Loader.yaml_constructors[_tag]))


class TooManyError(ValueError):
    """A document has more values than anybody writes."""


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
    raw = inputfile.read(path, MAX_BYTES)
    inputfile.decoded(path, raw)  # libyaml would take UTF-16, too
    lines: dict[Key, int] = {}
    with faults(path, raw), without_collector():
        loader = Loader(raw)
        try:
            node = loader.get_single_node()
            _index(path, node, (), lines, set())
            data = loader.construct_document(node) if node is not None and values else None  # type: ignore[no-untyped-call]
        finally:
            loader.dispose()
    return Document(path, data, lines)


def require_sound(path: Path, raw: bytes) -> None:
    """Refuse YAML of another reader's (Ansible's) that it would take for ever over, or whose faults it does not place.

    Tags are not looked at. Aliases are allowed, as long as what they stand for does not grow without end.

    Raises:
        InputError: not YAML, not a mapping (or empty), a key twice in one mapping, nested too deeply, or more than ``MAX_WRITTEN_OUT`` values.
    """
    inputfile.decoded(path, raw)
    with faults(path, raw), without_collector():
        loader = Loader(raw)
        try:
            while loader.check_node():  # a file of several documents is its reader's to refuse
                _require_plain(path, loader, loader.get_node())
        finally:
            loader.dispose()


def _require_plain(path: Path, loader: Loader, node: yaml.Node | None) -> None:
    """The rules of ``require_sound`` for one document."""
    if node is None or (isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"):
        return
    if not isinstance(node, yaml.MappingNode):
        raise InputError(
            "must be a mapping, keys with values",
            where=f"{path}:{node.start_mark.line + 1}",
            remedy="Write KEY: VALUE.",
        )
    _count(path, node, {})
    for scalar in _scalars(node):
        if scalar.tag in PLACED:
            loader.construct_object(scalar)  # type: ignore[no-untyped-call]


@contextmanager
def faults(path: Path, raw: bytes) -> Iterator[None]:
    """What is wrong with the text of a YAML file, as a sentence that names file and line.

    Raises:
        InputError: reading it within the block failed.
    """
    try:
        yield
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        text = raw.splitlines()[line - 1 : line] or [b""]
        indent = text[0][: len(text[0]) - len(text[0].lstrip())]
        problem = "a tab begins the line; YAML takes spaces alone" if b"\t" in indent else error.problem
        raise InputError(f"{NOT_YAML}: {problem}", where=f"{path}:{line}", remedy="Fix the syntax there.") from error
    except RecursionError as error:
        raise InputError(f"nested more than {MAX_DEPTH} deep", where=str(path), remedy="Flatten it.") from error
    except yaml.reader.ReaderError as error:
        position = error.position if isinstance(error.position, int) else 0
        line = raw.count(b"\n", 0, position) + 1
        raise InputError(
            f"{NOT_YAML}: a character that is not text: {error.reason}",
            where=f"{path}:{line}", remedy="Save the file as UTF-8 text.",
        ) from error  # fmt: skip
    except TooManyError as error:
        raise InputError(
            f"more than {MAX_VALUES} values", where=str(path), remedy="Name the right file, or split it."
        ) from error
    except yaml.YAMLError as error:
        raise InputError(f"{NOT_YAML}: {error}", where=str(path), remedy="Fix the syntax.") from error


def _count(path: Path, node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node is once its aliases are written out; each is looked at once. ``known`` has 0 for those in work."""
    if id(node) in known:
        if found := known[id(node)]:
            return found
        raise InputError(
            "an alias (*name) stands for what it is part of", where=f"{path}:{node.start_mark.line + 1}",
            remedy="Write the value out.",
        )  # fmt: skip
    known[id(node)] = 0
    total = 1
    if isinstance(node, yaml.MappingNode):
        names: set[str] = set()
        for name, value in node.value:
            if not isinstance(name, yaml.ScalarNode):
                raise InputError(
                    "a key must be text", where=f"{path}:{name.start_mark.line + 1}",
                    remedy='Write the key as text, and a template in quotes: "{{ name }}".',
                )  # fmt: skip
            if name.value != "<<":  # of which a mapping may have several
                _once(path, name, names)
            total += 1 + _count(path, value, known)
    elif isinstance(node, yaml.SequenceNode):
        total += sum(_count(path, inner, known) for inner in node.value)
    if total > MAX_WRITTEN_OUT:
        raise InputError(
            f"more than {MAX_WRITTEN_OUT} values, aliases (*name) written out", where=f"{path}:{node.start_mark.line + 1}",
            remedy="Give fewer values, and do not repeat aliases within aliases.",
        )  # fmt: skip
    known[id(node)] = total
    return total


def _scalars(node: yaml.Node) -> Iterator[yaml.ScalarNode]:
    """Every scalar of a document, once."""
    waiting, seen = [node], {id(node)}
    while waiting:
        found = waiting.pop()
        if isinstance(found, yaml.ScalarNode):
            yield found
            continue
        inner = [n for pair in found.value for n in pair] if isinstance(found, yaml.MappingNode) else found.value
        waiting += [n for n in inner if id(n) not in seen]
        seen.update(map(id, inner))


def _once(path: Path, name: yaml.ScalarNode, names: set[str]) -> None:
    """Note a key of a mapping.

    Raises:
        InputError: it is noted already.
    """
    if name.value in names:
        raise InputError(
            f"duplicate key {name.value!r}",
            where=f"{path}:{name.start_mark.line + 1}",
            remedy="Remove one of them.",
        )
    names.add(name.value)


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
            _once(path, name, names)
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
    "finite_number": "must be a finite number",
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
