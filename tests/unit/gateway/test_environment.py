"""The gateway's environment is its own: nothing of it reaches GPU nodes, and its lock has what it imports."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from pathlib import Path

TREE = Path(__file__).resolve().parents[3]
GATEWAY = TREE / "engine/gateway"
MODULES = {"yaml": "pyyaml"}  # by distribution, where the names differ


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def _locked(name: str) -> set[str]:
    return {
        m[1].lower()
        for m in re.finditer(r"^([A-Za-z0-9_.-]+)==", (TREE / "requirements" / name).read_text(), re.MULTILINE)
    }


def test_nothing_else_of_the_engine_imports_the_gateway() -> None:
    for path in (TREE / "engine").rglob("*.py"):
        if GATEWAY not in path.parents:
            assert not [m for m in _imports(path) if m.startswith("engine.gateway")], path


def test_all_that_it_imports_is_in_its_lock() -> None:
    outside = (
        {m.partition(".")[0] for path in GATEWAY.rglob("*.py") for m in _imports(path)}
        - set(sys.stdlib_module_names)
        - {"engine"}
    )
    assert outside
    assert {MODULES.get(m, m) for m in outside} <= _locked("gateway.txt")


def test_gpu_nodes_install_nothing_more() -> None:
    project = tomllib.loads((TREE / "engine/pyproject.toml").read_text())["project"]
    extra = {entry.partition("==")[0] for entry in project["optional-dependencies"]["gateway"]}
    assert not extra & {entry.partition("==")[0] for entry in project["dependencies"]}
    assert not extra & _locked("node.txt")
    assert extra <= _locked("gateway.txt") & _locked("dev.txt")


def test_the_locks_agree_on_versions() -> None:
    def versions(name: str) -> dict[str, str]:
        return dict(re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", (TREE / "requirements" / name).read_text(), re.MULTILINE))

    gateway, dev = versions("gateway.txt"), versions("dev.txt")
    assert {k: v for k, v in gateway.items() if dev.get(k) != v} == {}
