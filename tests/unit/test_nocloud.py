"""No command waits for cloud libraries that happen to be installed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.demo import TREE

SIGNING = ("tuf", "securesystemslib")


def _imports(path: Path) -> list[str]:
    """Modules imported when ``path`` is, in their order."""
    found = []
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            found += [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append(node.module or "")
    return found


def _late(path: Path) -> bool:
    """Whether tuf or securesystemslib comes before what hides the cloud libraries from them."""
    names = [*_imports(path.parent / "__init__.py"), *_imports(path)]
    first = next((i for i, n in enumerate(names) if n.split(".")[0] in SIGNING), None)
    return first is not None and "engine.nocloud" not in names[:first]


def test_whoever_imports_tuf_hides_the_cloud_libraries_first() -> None:
    paths = [p for d in ("engine", "installer") for p in (TREE / d).rglob("*.py") if p.name != "nocloud.py"]
    assert sum(any(n.split(".")[0] in SIGNING for n in _imports(p)) for p in paths) > 5
    assert [str(p.relative_to(TREE)) for p in paths if _late(p)] == []


@pytest.mark.parametrize("module", ["engine.verify", "installer.site.install"])
def test_they_stay_out(module: str) -> None:
    pytest.importorskip("boto3", reason="only where it is installed can it be seen to stay out")
    said = subprocess.run(
        [sys.executable, "-c", f"import sys, {module}; print('boto3' in sys.modules)"],
        cwd=TREE, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert said.stdout == "False\n"
