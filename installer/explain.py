"""What a key of a file means: its type, default, limits and description, read from the JSON Schemas. Pure.

The schemas are made from the models that read the files (installer.schema), so that nothing here can differ from what is accepted.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

from engine.errors import InputError
from installer.schema import SCHEMAS
from installer.yamlfile import close_to

FILES = ("definition", "site")  # those that people write
ANY_ENTRY = "*"
LEFT_OUT = object()  # no default: a required key, or one whose keys have defaults of their own

Schema = Mapping[str, Any]
NOUNS = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "object": "mapping",
}
PLURALS = {"whole number": "whole numbers", "number": "numbers", "mapping": "mappings", "date": "dates"}


@dataclass(frozen=True)
class Explanation:
    """One key.

    Attributes:
        path: FILE.KEY.KEY, as it is asked for.
        type: in words.
        default: what counts when the key is left out, as JSON has it; LEFT_OUT where there is none.
        values: the only values that are allowed; empty where others are, too.
        limits: other limits on the value, each a phrase.
        keys: those below this one; empty where they were not asked for.
    """

    path: str
    type: str
    description: str
    required: bool
    default: Any
    values: tuple[Any, ...] = ()
    limits: tuple[str, ...] = ()
    keys: tuple[Explanation, ...] = ()

    @property
    def name(self) -> str:
        return self.path.rpartition(".")[2]

    def data(self) -> dict[str, Any]:
        """For --json; ``default`` is there only where the key has one."""
        return {
            "path": self.path, "type": self.type, "description": self.description, "required": self.required,
            **({} if self.default is LEFT_OUT else {"default": self.default}),
            "values": list(self.values), "limits": list(self.limits), "keys": [k.data() for k in self.keys],
        }  # fmt: skip


def explain(path: str, *, recursive: bool = False) -> Explanation:
    """What the key at ``path`` means, with the keys below it.

    Args:
        path: FILE.KEY.KEY, where FILE is one of ``FILES``. Lists are passed through without a word for their entries; a
            number or ``*`` may stand for one, and any name for an entry of a mapping whose names are the reader's own.
        recursive: also the keys below those, to the end.

    Raises:
        InputError: there is no such file or key; it names the one that was probably meant.
    """
    file, *words = path.split(".")
    if file not in FILES:
        near = close_to(file, FILES)
        raise InputError(
            f"no file is called {file!r} here{_meant(near)}",
            where=path,
            remedy=f"Begin with one of: {', '.join(FILES)}; for example `appliance explain site.gateway`.",
        )
    schema = _schema(file)
    definitions = schema.get("$defs", {})
    here, required, at = _whole(schema, definitions), True, file
    for word in words:
        found, needed = _below(here, definitions, word, path, at)
        required = needed if needed is not None else required
        here, at = found, f"{at}.{word}"
    return _explanation(at, here, definitions, required, depth=-1 if recursive else 1)


@cache
def _schema(file: str) -> Schema:
    return SCHEMAS[file]()


def _meant(near: str) -> str:
    return f" (did you mean {near}?)" if near else ""


def _whole(schema: Schema, definitions: Schema) -> Schema:
    """A schema with what it refers to; what stands beside the reference goes before it."""
    if reference := schema.get("$ref"):
        return {**definitions[reference.rpartition("/")[2]], **{k: v for k, v in schema.items() if k != "$ref"}}
    return schema


def _branches(schema: Schema, definitions: Schema) -> list[Schema]:
    """The kinds of value that are allowed, without null, which people write by leaving the key out."""
    several = [_whole(s, definitions) for s in schema.get("anyOf", ())]
    return [s for s in several if s.get("type") != "null"] or [schema]


def _values_of(schema: Schema) -> Schema | None:
    """What a mapping with names of the reader's own holds; None for any other value."""
    patterns = schema.get("patternProperties")
    if patterns:
        found: Schema = next(iter(patterns.values()))
        return found
    further = schema.get("additionalProperties")
    if schema.get("type") != "object" or "properties" in schema or further is False:
        return None
    return further if isinstance(further, Mapping) else {}


def _entries(schema: Schema, definitions: Schema) -> Iterator[tuple[str, Schema]]:
    """What lies within a list or a mapping with names of the reader's own, with ``list`` or ``mapping``."""
    for branch in _branches(schema, definitions):
        if branch.get("type") == "array":
            yield "list", _whole(branch.get("items", {}), definitions)
        elif (values := _values_of(branch)) is not None:
            yield "mapping", _whole(values, definitions)


def _keyed(schema: Schema, definitions: Schema) -> Schema | None:
    """The mapping with fixed keys that a value is, or that the entries of a list or mapping are."""
    for branch in _branches(schema, definitions):
        if "properties" in branch:
            return branch
    return next((k for _, entry in _entries(schema, definitions) if (k := _keyed(entry, definitions))), None)


def _below(schema: Schema, definitions: Schema, word: str, path: str, at: str) -> tuple[Schema, bool | None]:
    """One step down; whether the key is required, or None where the step goes to an entry and not to a key.

    Raises:
        InputError: there is no such key.
    """
    keyed = _keyed(schema, definitions)
    keys = keyed["properties"] if keyed else {}
    if keyed and word in keys:
        return _whole(keys[word], definitions), word in keyed.get("required", ())
    near = close_to(word, keys)
    for kind, entry in _entries(schema, definitions):
        if (
            word == ANY_ENTRY
            or (kind == "list" and word.isascii() and word.isdigit())
            or (kind == "mapping" and not near)
        ):
            return entry, None
    remedy = (
        f"{at} has: {', '.join(keys)}."
        if keys
        else f"{at} has no keys below it; `appliance explain {at}` says what it is."
    )
    raise InputError(f"{at} has no key {word!r}{_meant(near)}", where=path, remedy=remedy)


def _explanation(path: str, schema: Schema, definitions: Schema, required: bool, depth: int) -> Explanation:
    keyed = (_keyed(schema, definitions) if depth else None) or {}
    keys = tuple(
        _explanation(
            f"{path}.{name}", _whole(below, definitions), definitions, name in keyed.get("required", ()), depth - 1
        )
        for name, below in keyed.get("properties", {}).items()
    )
    default: Any = schema.get("default", LEFT_OUT)
    if any("properties" in b for b in _branches(schema, definitions)) and default is not None:
        default = LEFT_OUT  # its keys tell theirs
    elif default is LEFT_OUT and not required and schema.get("type") == "object":
        default = {}
    values = tuple(v for s in _leaves(schema, definitions) for v in _literals(s))
    limits = tuple(dict.fromkeys(_limits(schema, definitions, "")))
    description = " ".join(str(schema.get("description", "")).replace("``", "`").split())
    return Explanation(path, _words(schema, definitions), description, required, default, values, limits, keys)


def _words(schema: Schema, definitions: Schema) -> str:
    return " or ".join(dict.fromkeys(_noun(b, definitions) for b in _branches(schema, definitions)))


def _noun(schema: Schema, definitions: Schema) -> str:
    within = next(_entries(schema, definitions), None)
    if within:
        kind, entry = within
        nouns = " or ".join(PLURALS.get(noun, noun) for noun in _words(entry, definitions).split(" or "))
        return f"list of {nouns}" if kind == "list" else f"mapping from text to {nouns}"
    if schema.get("format") == "date":
        return "date"
    if literals := _literals(schema):
        return "whole number" if all(isinstance(v, int) for v in literals) else "text"
    return NOUNS.get(str(schema.get("type")), "any value")


def _leaves(schema: Schema, definitions: Schema) -> Iterator[Schema]:
    """The plain values in a value: its own kinds, and those of a list's or mapping's entries."""
    for branch in _branches(schema, definitions):
        within = [entry for _, entry in _entries(branch, definitions)]
        if not within:
            yield branch
        for entry in within:
            if "properties" not in entry:
                yield from _leaves(entry, definitions)


def _literals(schema: Schema) -> tuple[Any, ...]:
    return (schema["const"],) if "const" in schema else tuple(schema.get("enum", ()))


def _limits(schema: Schema, definitions: Schema, of: str) -> Iterator[str]:
    for branch in _branches(schema, definitions):
        yield from (f"{of}{limit}" for limit in _own_limits(branch))
        for kind, entry in _entries(branch, definitions):
            if "properties" not in entry:
                yield from _limits(entry, definitions, "each entry: " if kind == "list" else "each value: ")


def _own_limits(schema: Schema) -> Iterator[str]:
    least, most = schema.get("minimum"), schema.get("maximum")
    if least is not None and most is not None:
        yield f"{least} to {most}"
    elif least is not None:
        yield f"at least {least}"
    elif most is not None:
        yield f"at most {most}"
    for key, phrase in (("exclusiveMinimum", "more than"), ("exclusiveMaximum", "less than")):
        if key in schema:
            yield f"{phrase} {schema[key]}"
    for key, bound, unit in (
        ("minLength", "least", "character"), ("maxLength", "most", "character"), ("minItems", "least", "entr"), ("maxItems", "most", "entr"),
    ):  # fmt: skip
        if key in schema:
            ending = ("y" if schema[key] == 1 else "ies") if unit == "entr" else ("" if schema[key] == 1 else "s")
            yield f"at {bound} {schema[key]} {unit}{ending}"
    if "pattern" in schema:
        yield f"matches {schema['pattern']}"
    for pattern in schema.get("patternProperties", ()):
        yield f"names match {pattern}"
    if "pattern" in schema.get("propertyNames", {}):
        yield f"names match {schema['propertyNames']['pattern']}"
