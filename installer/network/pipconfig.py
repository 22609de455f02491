"""The builder's own pip configuration, which uv does not read: where wheels come from, and a proxy and CA of pip's own."""

from __future__ import annotations

import ast
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from engine.errors import InputError
from engine.process import ProcessError, fixed, run

# What pip is told of the caller's environment: the options read here, and where its files are.
OPTIONS = ("index-url", "extra-index-url", "find-links", "no-index", "proxy", "cert")
FILES = ("PIP_CONFIG_FILE", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS")
SECTIONS = ("global", "install", ":env:")  # what `pip install` reads, the weakest first; a stronger one replaces


@dataclass(frozen=True)
class PipConfig:
    """Where this machine gets its wheels from; empty means the tools' own defaults."""

    index: str = ""
    extra_indexes: tuple[str, ...] = ()
    find_links: tuple[str, ...] = ()
    no_index: bool = False
    proxy: str = ""
    cert: str = ""


def read(environ: Mapping[str, str] | None = None) -> PipConfig:
    """Ask pip. A machine without pip has the variables alone.

    Raises:
        InputError: pip cannot read its own configuration.
    """
    given = os.environ if environ is None else environ
    spoken = {f"PIP_{o.replace('-', '_').upper()}": o for o in OPTIONS}
    told = {name: given[name] for name in (*spoken, *FILES) if given.get(name)}
    pip = shutil.which("pip3", path=given.get("PATH"))
    try:
        text = run(
            [*([pip] if pip else [sys.executable, "-m", "pip"]), "config", "list", "--disable-pip-version-check"],
            env={**fixed(given), **told}, inherit=False, package="python3-pip",
        ).stdout  # fmt: skip
    except ProcessError as error:
        if "No module named pip" in error.stderr:
            return parse("".join(f":env:.{spoken[n]}={v!r}\n" for n, v in told.items() if n in spoken))
        raise InputError(
            "pip cannot read its configuration, which says where wheels come from",
            where=given.get("PIP_CONFIG_FILE", "pip.conf"),
            remedy="Run `pip3 config list`, which names the file, and correct it.",
        ) from None  # pip repeats the line, and a password may be in it
    return parse(text)


def parse(text: str) -> PipConfig:
    """`pip config list` prints ``section.option='value'`` lines; several values are separated by white space."""
    values: dict[str, list[str]] = {}
    rank: dict[str, int] = {}
    for line in text.splitlines():
        name, _, quoted = line.partition("=")
        section, _, option = name.rpartition(".")
        if option not in OPTIONS or section not in SECTIONS or SECTIONS.index(section) < rank.get(option, 0):
            continue
        try:
            value = str(ast.literal_eval(quoted)).split()
        except (ValueError, SyntaxError):
            continue  # a line of a remark, not of a value
        rank[option], values[option] = SECTIONS.index(section), list(dict.fromkeys(value))

    def one(option: str) -> str:
        return (values.get(option) or [""])[-1]

    return PipConfig(
        one("index-url"), tuple(values.get("extra-index-url", ())), tuple(values.get("find-links", ())),
        one("no-index").lower() in ("1", "true", "yes", "on", "t", "y"), one("proxy"), one("cert"),
    )  # fmt: skip
