"""How fast the runtime is installed from wheels on a node: as the role does it, against plain uv and pip."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jinja2
import yaml

from engine.blobs import hash_file
from tests.bench.measure import Claim, Pair, call, seconds
from tests.demo import TREE

CLAIMS = (
    Claim("install-wheels", "s", "uv pip install --no-index --compile-bytecode, nothing checked", 1.05),
    Claim("install-wheels-against-pip", "s", "pip install --no-index", 0.2),
)
PINS = TREE / "tests/bench/wheels.pins.txt"  # some 30 wheels
UV = Path(sys.executable).with_name("uv")


def pairs(work: Path, only: str) -> Iterator[Pair]:
    """Every run installs into an empty environment with an empty cache, as on a node that has nothing yet."""
    if not any(only in c.name for c in CLAIMS):
        return
    wheels, requirements, runtime = work / "wheels", work / "requirements.txt", work / "runtime"
    locked: list[str | Path] = ["--no-deps", "--require-hashes", "-r", PINS]
    call([sys.executable, "-m", "pip", "download", "-q", "--only-binary", ":all:", "-d", wheels, *locked])
    lines = []
    for wheel in sorted(wheels.iterdir()):
        name, version = wheel.name.split("-")[:2]
        lines.append(f"{name}=={version} --hash=sha256:{hash_file(wheel)[0]}\n")
    requirements.write_text("".join(lines))
    plain = work / "plain.txt"
    plain.write_text("".join(line.split(" ")[0] + "\n" for line in lines))
    names = {
        "appliance_vllm_uv": UV, "appliance_vllm_wheels": wheels, "appliance_vllm_runtime": runtime,
        "appliance_vllm_requirements": requirements,
    }  # fmt: skip
    role = _role_s_command({k: str(v) for k, v in names.items()})
    python = runtime / "bin/python"
    offline: list[str | Path] = ["--no-index", "--no-deps", "--find-links", wheels]

    def run(*argv: str | Path) -> float:
        unpacked = runtime.with_name(runtime.name + ".unpacked")  # where the role tells uv to unpack
        for path in (runtime, unpacked):
            shutil.rmtree(path, ignore_errors=True)
        call([UV, "venv", "--quiet", "--no-config", "--python", sys.executable, runtime])
        return seconds(lambda: call(argv, env={**os.environ, "UV_CACHE_DIR": str(unpacked)}))()

    def uv() -> float:
        return run(
            UV, "pip", "install", "--quiet", "--no-config", "--offline", "--compile-bytecode", *offline, "--python", python, "-r", plain
        )  # fmt: skip

    def pip() -> float:
        return run(
            sys.executable, "-m", "pip", "--isolated", "--python", python, "install", "-q", "--no-cache-dir", "--disable-pip-version-check", *offline, "-r", plain
        )  # fmt: skip

    yield Pair("install-wheels", lambda: run(*role), uv)
    yield Pair("install-wheels-against-pip", lambda: run(*role), pip, rounds=3)


def _role_s_command(variables: dict[str, str]) -> list[str]:
    """The very words of the role's task, with its variables filled in."""
    tasks = yaml.safe_load((TREE / "roles/vllm/tasks/wheels.yml").read_text())
    found = [a for a in map(_argv, _flat(tasks)) if a[1:3] == ["pip", "install"] and "--reinstall" not in a]
    if len(found) != 1:
        raise SystemExit(f"bench: the role vllm has {len(found)} tasks that install with uv, expected one")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False)  # noqa: S701  # words of a command
    return [environment.from_string(word).render(variables) for word in found[0]]


def _flat(tasks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for task in tasks:
        yield task
        yield from _flat(task.get("block", []))


def _argv(task: dict[str, Any]) -> list[str]:
    return [str(w) for w in (task.get("ansible.builtin.command") or {}).get("argv", [])]
