"""The builder's own pip configuration, which uv does not read."""

from __future__ import annotations

import ast
import shutil
import sys
from dataclasses import dataclass

from engine.process import ProcessError, run


@dataclass(frozen=True)
class PipConfig:
    """Where this machine gets its wheels from; empty means the tools' own defaults."""

    index: str = ""
    extra_indexes: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()


def read() -> PipConfig:
    """Ask pip; a machine without pip has no pip configuration."""
    argv = (
        [shutil.which("pip3"), "config", "list"]
        if shutil.which("pip3")
        else [sys.executable, "-m", "pip", "config", "list"]
    )
    try:
        text = run([a for a in argv if a]).stdout
    except ProcessError:
        return PipConfig()
    return parse(text)


def parse(text: str) -> PipConfig:
    """`pip config list` prints ``section.option='value'`` lines; several values are separated by white space."""
    values: dict[str, list[str]] = {}
    for line in text.splitlines():
        name, _, quoted = line.partition("=")
        option = name.rsplit(".", 1)[-1]
        if option in ("index-url", "extra-index-url", "find-links"):
            value = str(ast.literal_eval(quoted)).split()
            values[option] = list(dict.fromkeys([*values.get(option, []), *value]))
    index = values.get("index-url", [""])[-1]
    return PipConfig(index, tuple(values.get("extra-index-url", ())), tuple(values.get("find-links", ())))
