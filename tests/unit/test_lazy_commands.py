"""A command loads what it needs, and the help loads no library that only work needs."""

from __future__ import annotations

import subprocess
import sys

import pytest

from installer.cli.commands import COMMANDS

HEAVY = {"tuf", "yaml", "cryptography", "urllib3", "numpy", "ansible", "huggingface_hub", "jinja2"}


def modules(*argv: str) -> set[str]:
    """What a command has imported when it ends."""
    script = (
        "import sys; from installer.cli.main import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: print('modules', *sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", script, *argv], capture_output=True, text=True, check=True).stdout
    return set(out.partition("modules ")[2].split())


@pytest.mark.parametrize("argv", [["--help"], ["--version"], ["depot", "--help"]])
def test_help_loads_no_library_that_only_work_needs(argv: list[str]) -> None:
    assert not HEAVY & modules(*argv)


@pytest.mark.parametrize("name", ["verify", "certs", "lab"])
def test_a_command_imports_no_other_command_s_module(name: str) -> None:
    loaded = {m.removeprefix("installer.cli.") for m in modules(name, "--help") if m.startswith("installer.cli.")}
    own = {target.partition(":")[0] for target in COMMANDS.values()}
    assert loaded & own <= {COMMANDS[name].partition(":")[0], "compat"}, loaded & own


@pytest.mark.parametrize("name", ["install", "plan", "preflight", "rollback", "uninstall", "doctor"])
def test_a_command_without_its_inventory_says_so(name: str) -> None:
    done = subprocess.run([sys.executable, "-m", "installer", name], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "Missing option '--inventory'" in done.stderr, done.stderr
