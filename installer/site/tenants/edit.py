"""Changes of a tenants file that keep its comments and everything else as it is: text in, text out. Pure."""

from __future__ import annotations

from collections.abc import Iterator

import yaml

from engine.errors import InputError


def add_key(text: str, tenant: str, entry: str) -> str:
    """The text with an entry more under the tenant's ``keys``, before those that are there.

    Args:
        entry: a mapping in one line, as YAML.

    Raises:
        InputError: there is no such tenant.
    """
    found = _tenant(text, tenant)
    keys = _value(found, "keys")
    if keys is None:
        return (
            _insert(text, found.start_mark.index + 1, f"keys: [{entry}], ")
            if found.flow_style
            else _first(text, found, entry)
        )
    key, value = keys
    if isinstance(value, yaml.SequenceNode) and value.value:
        if value.flow_style:
            return _insert(text, value.start_mark.index + 1, f"{entry}, ")
        dash = value.start_mark
        return _insert(text, dash.index, f"- {entry}\n{' ' * dash.column}")
    if found.flow_style:
        return text[: value.start_mark.index] + f"[{entry}]" + text[value.end_mark.index :]
    # An empty list, or nothing: what is behind it on its line stays there.
    without = text[: key.end_mark.index] + ":" + text[max(value.end_mark.index, key.end_mark.index + 1) :]
    end = without.find("\n", key.end_mark.index)
    indent = " " * (key.start_mark.column + 2)
    return _insert(
        without if end >= 0 else without + "\n", end + 1 if end >= 0 else len(without) + 1, f"{indent}- {entry}\n"
    )


def remove_key(text: str, name: str) -> str:
    """The text without the key of this identifier.

    Raises:
        InputError: there is no such key.
    """
    for tenant in _tenants(text):
        keys = _value(tenant, "keys")
        if keys is None or not isinstance(keys[1], yaml.SequenceNode):
            continue
        for number, item in enumerate(keys[1].value):
            found = _value(item, "id") if isinstance(item, yaml.MappingNode) else None
            if found is not None and found[1].value == name:
                return _without(text, keys[0], keys[1], number)
    known = [
        i[1].value for t in _tenants(text) if (k := _value(t, "keys")) for e in k[1].value if (i := _value(e, "id"))
    ]
    raise InputError(
        f"there is no key {name!r}",
        remedy=f"The file has: {', '.join(known) or 'none'}. A tenant's keys are listed by `appliance tenants show`.",
    )


def _without(text: str, key: yaml.Node, keys: yaml.SequenceNode, number: int) -> str:
    item = keys.value[number]
    if keys.flow_style:
        begin, end = item.start_mark.index, item.end_mark.index
        if number + 1 < len(keys.value):
            end = keys.value[number + 1].start_mark.index
        elif number:
            begin = keys.value[number - 1].end_mark.index
        return text[:begin] + text[end:]
    begin = text.rfind("\n", 0, item.start_mark.index) + 1
    line_end = text.find("\n", _end(item))
    rest = text[line_end + 1 :] if line_end >= 0 else ""
    if len(keys.value) == 1:
        return text[: key.end_mark.index] + ": []" + text[key.end_mark.index + 1 : begin] + rest
    return text[:begin] + rest


def _end(node: yaml.Node) -> int:
    """Where the last thing of a node ends; a block's own mark is behind the comments after it."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style and node.value:
        return _end(node.value[-1][1])
    if isinstance(node, yaml.SequenceNode) and not node.flow_style and node.value:
        return _end(node.value[-1])
    return int(node.end_mark.index)


def _first(text: str, tenant: yaml.MappingNode, entry: str) -> str:
    """``keys`` as a new key of a tenant in block style, after its name."""
    name, value = _value(tenant, "name") or tenant.value[0]
    end = text.find("\n", _end(value))
    indent = " " * name.start_mark.column
    added = f"{indent}keys:\n{indent}  - {entry}\n"
    return _insert(text, end + 1, added) if end >= 0 else f"{text}\n{added}"


def _insert(text: str, where: int, what: str) -> str:
    return text[:where] + what + text[where:]


def _tenant(text: str, name: str) -> yaml.MappingNode:
    names = []
    for tenant in _tenants(text):
        found = _value(tenant, "name")
        if found is not None:
            names.append(found[1].value)
            if names[-1] == name:
                return tenant
    raise InputError(f"there is no tenant {name!r}", remedy=f"The file has: {', '.join(names) or 'none'}.")


def _tenants(text: str) -> Iterator[yaml.MappingNode]:
    # Not the fast reader: its marks are bytes, and these are characters.
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    tenants = _value(root, "tenants") if isinstance(root, yaml.MappingNode) else None
    if tenants is not None and isinstance(tenants[1], yaml.SequenceNode):
        yield from (t for t in tenants[1].value if isinstance(t, yaml.MappingNode))


def _value(node: yaml.MappingNode, name: str) -> tuple[yaml.Node, yaml.Node] | None:
    return next(((k, v) for k, v in node.value if k.value == name), None)
