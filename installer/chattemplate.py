"""What a chat template may not touch.

A template is a Jinja program that runs in the server for every request. The server renders it in Jinja's sandbox; this
is the check before that one: a template that names Python internals has no honest reason to, and never gets near.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from jinja2 import Environment, TemplateError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser

LIMIT = 256 << 10  # characters; the longest templates in use have a few tens of thousands
DUNDER = re.compile(r"__[A-Za-z]\w*__")


class _Generation(Extension):
    """`{% generation %}`: a tag of transformers' templates that marks the assistant's words."""

    tags = {"generation"}  # noqa: RUF012 - Jinja declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def fault(template: str) -> str:
    """Why the template is refused; empty when it is not."""
    if len(template) > LIMIT:
        return f"the chat template has more than {LIMIT} characters"
    try:
        # Parsed only, never rendered: escaping has no meaning here.
        tree = Environment(extensions=["jinja2.ext.loopcontrols", _Generation]).parse(template)  # noqa: S701
        return next(_faults(tree), "")
    except (TemplateError, ValueError) as error:  # ValueError: a number with thousands of digits
        return f"the chat template is not valid Jinja: {error}"
    except RecursionError:
        return "the chat template is nested too deeply"


def _faults(tree: nodes.Template) -> Iterator[str]:
    # Without recursion: however deep an expression is, no part of it goes unseen.
    waiting: list[tuple[nodes.Node, bool]] = [(tree, False)]
    while waiting:
        node, is_part = waiting.pop()
        if isinstance(node, nodes.Getattr) and node.attr.startswith("_"):
            yield _touches(node.attr, node)
        elif isinstance(node, nodes.Filter) and node.name == "attr":
            yield f"the chat template reads attributes by computed names (line {node.lineno})"
        elif isinstance(node, nodes.Name) and DUNDER.fullmatch(node.name):
            yield _touches(node.name, node)
        elif not is_part and (found := DUNDER.search(_text(node))):
            yield _touches(found[0], node)
        joins = isinstance(node, (nodes.Concat, nodes.Add))
        waiting += [(child, joins) for child in node.iter_child_nodes()]


def _touches(name: str, node: nodes.Node) -> str:
    return f"the chat template touches {name[:60]} (line {node.lineno})"


def _text(node: nodes.Node) -> str:
    """The text of a constant, or of joined ones, so that ``"__cl" ~ "ass__"`` hides nothing."""
    text, waiting = "", [node]
    while waiting:
        match waiting.pop():
            case nodes.Const(value=str(part)):
                text += part
            case nodes.Concat(nodes=parts):
                waiting += reversed(parts)
            case nodes.Add(left=left, right=right):
                waiting += (right, left)
    return text
