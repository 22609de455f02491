"""One module opens files below metadata/; whoever needs their bytes asks it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TREE = Path(__file__).parents[2]
READER = TREE / "engine/metadata.py"


def paths_into_metadata(source: str) -> Iterator[int]:
    """Lines that join a path with ``metadata``: by ``/``, or as the text that a function which opens files gets."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Div) and _leads_in(node.right):
            yield node.lineno
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in {"open", "open_beneath", "Path", "joinpath", "PurePosixPath", "join"} and any(
                map(_leads_in, node.args)
            ):
                yield node.lineno


def _leads_in(node: ast.expr) -> bool:
    if isinstance(node, ast.JoinedStr):
        return bool(node.values) and _leads_in(node.values[0])
    if isinstance(node, ast.FormattedValue):
        return _leads_in(node.value)
    if isinstance(node, ast.Attribute):
        return node.attr == "DIRECTORY" and getattr(node.value, "id", "") == "metadata"
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.partition("/")[0] == "metadata"


@pytest.mark.parametrize(
    "line",
    [
        'bundle / "metadata" / "targets.json"', 'open(bundle / "metadata/targets.json")', 'bundle / f"metadata/{role}.json"',
        'tree.open_beneath(bundle, f"metadata/{name}")', "bundle / metadata.DIRECTORY", 'open_beneath(b, f"{metadata.DIRECTORY}/x")',
    ],
)  # fmt: skip
def test_a_path_into_metadata_is_seen(line: str) -> None:
    assert list(paths_into_metadata(line)) != []


def test_only_the_reader_opens_files_below_metadata() -> None:
    others = [p for top in ("engine", "installer") for p in (TREE / top).rglob("*.py") if p != READER]
    assert len(others) > 100
    found = [f"{p.relative_to(TREE)}:{line}" for p in others for line in paths_into_metadata(p.read_text())]
    assert found == [], "use engine.metadata"
