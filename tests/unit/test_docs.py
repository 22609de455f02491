"""What is written about the product is what the product does."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import pytest
import yaml

import engine
import installer
from installer.cli.reference import render

TREE = Path(__file__).resolve().parents[2]
ROLES = sorted(p.name for p in (TREE / "roles").iterdir() if (p / "tasks").is_dir())


def test_the_command_reference_is_up_to_date() -> None:
    assert (TREE / "docs" / "cli.md").read_text() == render(), "run ./run docs"


def test_every_document_that_the_readme_names_exists() -> None:
    for link in re.findall(r"\]\(([^)#:]+)\)", (TREE / "README.md").read_text()):
        assert (TREE / link).exists(), link


def test_every_task_of_run_that_the_readme_names_exists() -> None:
    tasks = set(re.findall(r"\./run (\w+)", (TREE / "README.md").read_text()))
    script = (TREE / "run").read_text()
    assert tasks
    for task in tasks:
        assert f"\n  {task})" in script, task


def test_engine_never_imports_installer() -> None:
    for path in (TREE / "engine").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
            assert not any(n.split(".")[0] == "installer" for n in names), path


def test_one_version_everywhere() -> None:
    top, node = (tomllib.loads((TREE / p).read_text())["project"] for p in ("pyproject.toml", "engine/pyproject.toml"))
    assert top["version"] == node["version"] == installer.__version__ == engine.__version__
    assert f"appliance-engine=={node['version']}" in top["dependencies"]


@pytest.mark.parametrize("role", ROLES)
def test_every_variable_of_a_role_is_documented_and_every_default_is_one_of_them(role: str) -> None:
    specs = yaml.safe_load((TREE / "roles" / role / "meta/argument_specs.yml").read_text())["argument_specs"]
    options = {name: option for entry in specs.values() for name, option in entry["options"].items()}
    defaults = set(yaml.safe_load((TREE / "roles" / role / "defaults/main.yml").read_text()) or {})
    assert defaults <= set(options)
    assert all(name.startswith(f"appliance_{role}_") for name in options)
    assert all(option.get("description") for option in options.values())
    required = {name for name, option in options.items() if option.get("required")}
    assert set(options) - defaults <= required | {n for n, o in options.items() if "default" not in o}


def test_no_file_names_a_package_registry() -> None:
    words = [
        "py" + "pi.org",
        "python" + "hosted.org",
        "deb." + "debian.org",
        "security." + "debian.org",
        "registry." + "npmjs.org",
    ]
    for path in TREE.rglob("*"):
        parts = path.relative_to(TREE).parts
        if (
            path.is_file()
            and parts[0] not in (".git", ".venv", "build", "dist")
            and not path.name.endswith(".lock.yml")
            and path.stat().st_size < 1 << 20
        ):
            text = path.read_text(errors="ignore")
            assert not any(w in text for w in words), path


def test_every_check_of_preflight_is_documented_and_every_documented_one_exists() -> None:
    calls = [
        node
        for path in (*(TREE / "engine" / "preflight").glob("judge*.py"), TREE / "installer/site/preflight.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("good", "warn", "fail", "say")
    ]
    made = {c.args[0].value for c in calls if c.args and isinstance(c.args[0], ast.Constant)}
    table = re.findall(r"^\| `([a-z-]+)` \|", (TREE / "docs/preflight.md").read_text(), re.MULTILINE)
    assert made | {"state"} == set(table) and len(table) == len(set(table))
