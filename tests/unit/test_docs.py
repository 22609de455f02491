"""What is written about the product is what the product does."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.main import get_command

import engine
import installer
from engine.cli import VERBS
from installer import chattemplate, intake, safetensors
from installer.cli.main import app
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


# The command reference is generated, and decisions tell of their day.
PAGES = [TREE / "README.md", *sorted(p for p in (TREE / "docs").glob("*.md") if p.name != "cli.md")]


def shown(page: Path, program: str) -> list[list[str]]:
    """The words after ``program`` wherever a page shows a call of it: in blocks of code and between backquotes."""
    text = page.read_text()
    blocks = re.findall(r"^```[^\n]*\n(.*?)^```", text, re.DOTALL | re.MULTILINE) + re.findall(
        r"^    \S.*$", text, re.MULTILINE
    )
    lines = [line for block in blocks for line in re.sub(r"\\\n\s*", " ", block).splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE))
    calls = []
    for line in lines:
        call = re.match(rf"(?:\$ )?(?:[A-Z0-9_]+=\S+ )*{re.escape(program)} (.*)", line.strip())
        if call and " denied:" not in call[1]:  # the firewall's words in the kernel's log
            calls.append(re.split(r"\s{2,}|\s#\s|[;|&(]", call[1])[0].split())
    return calls


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_command_and_option_that_a_page_shows_exists(page: Path) -> None:
    top = get_command(app)
    for words in shown(page, "appliance"):
        command: Any = top
        context = typer.Context(top, info_name="appliance")
        options = {o for p in top.params for o in p.opts} | {"--json", "--quiet", "--help"}
        for word in words:
            if word in ("…", "--"):
                break
            if word.startswith("-"):
                known = options | {o for p in command.params for o in (*p.opts, *p.secondary_opts)}
                assert word.partition("=")[0].rstrip(",.") in known, f"{page.name}: appliance {' '.join(words)}: {word}"
            elif hasattr(command, "list_commands"):
                assert word in command.list_commands(context), f"{page.name}: appliance {' '.join(words)}: {word}"
                command = command.get_command(context, word)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_verb_of_a_node_that_a_page_shows_exists(page: Path) -> None:
    for words in shown(page, "appliance-engine"):
        assert words[0] in VERBS, f"{page.name}: appliance-engine {' '.join(words)}"


def test_enough_calls_are_found_to_be_compared() -> None:
    calls = [words for page in PAGES for words in shown(page, "appliance")]
    assert len(calls) > 100
    assert ["keys", "init"] in [words[:2] for words in calls]
    assert any("--root" in words for words in calls)


def test_the_limits_of_a_models_files_are_those_of_the_code() -> None:
    page, table = (TREE / "docs/models.md").read_text(), (TREE / "docs/fuzzing.md").read_text()
    ((json_mib, json_parts),) = re.findall(
        r"`\.json` file that is not JSON, larger than (\d+) MiB, or of more than (\d+) million parts", page
    )
    ((header_mib, header_parts),) = re.findall(
        r"^At most (\d+) MiB and (\d+) million parts, and inside the file", page, re.MULTILINE
    )
    (template,) = re.findall(r"`chat-template` \|[^|]*more than (\d+) characters", page)
    assert (int(json_mib) << 20, int(json_parts) * 1_000_000) == (intake.JSON_LIMIT, intake.JSON_PARTS)
    assert (int(header_mib) << 20, int(header_parts) * 1_000_000) == (safetensors.HEADER_LIMIT, safetensors.PARTS_LIMIT)
    assert int(template) == chattemplate.LIMIT
    assert f"| safetensors header | builder | {header_mib} MiB and {header_parts} million parts" in table
    assert (
        f"| `config.json` and other JSON of a model | builder | {json_mib} MiB and {json_parts} million parts |"
        in table
    )


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_of_the_engine_leads_to_a_program(verb: str) -> None:
    """`appliance-engine firewall confirm` is what a rollback with other rules depends on."""
    done = subprocess.run(
        [sys.executable, "-P", "-m", "engine.cli", verb, "--help"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0 and "usage:" in done.stdout, done.stderr
