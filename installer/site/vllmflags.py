"""Flags of a service that no known vLLM has: mistyped ones are found before a node's service fails with them.

They are warnings and no faults, for a site says nothing of its release's vLLM, and another version may have other flags.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

from installer.site.rules.examples import Leftover
from installer.site.settings import Site
from installer.yamlfile import Document, close_to

LIST = Path(__file__).with_name("vllm_flags.txt")
VERSIONS = "0.32 and 0.33"


@cache
def known() -> frozenset[str]:
    """Every flag of the versions that the list was made from."""
    lines = LIST.read_text(encoding="utf-8").splitlines()
    return frozenset(line.split()[0] for line in lines if line and not line.startswith("#"))


def is_known(flag: str) -> bool:
    """Whether a vLLM has the flag, also as ``no-FLAG``. Spelled with underscores or dots it is refused elsewhere. Pure."""
    return flag in known() or flag.removeprefix("no-") in known()


def unknown(site: Site, file: Path, document: Document | None) -> Iterator[Leftover]:
    """Every unknown flag of the site's services.

    Args:
        file: names the site where ``document``, which knows the lines of its keys, is None.
    """
    for number, service in enumerate(site.services):
        for flag in service.args:
            if is_known(flag):
                continue
            key = ("services", number, "args", flag)
            where = f"{document.path}:{document.line(('appliance_site', *key))}" if document else str(file)
            near = close_to(flag, known())
            what = f"vLLM {VERSIONS} have no such flag" + (f" (did you mean {near}?)" if near else "")
            remedy = "Correct it, unless the release brings another vLLM that has it."
            yield Leftover(where, ".".join(map(str, key)), str(service.args[flag]), what, remedy)
