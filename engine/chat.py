"""Whether a model can be talked to in messages: it has a chat template, or a tokenizer that brings its own form of a chat.

Asked of what crosses (the intake), of what is proven (the install), and on nodes (start of a service, status): clients chat, so a model
that has a template is asked for a chat, and one without it for a plain completion, which every model that generates can do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

from engine.strictjson import MAX_PARTS

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"
WITHOUT = "the model has no chat template, so a plain completion was asked for; clients cannot chat with it"
LIMIT = 64 << 20  # bytes of a JSON file that are read; the intake takes no larger one
# A template as a file of its own (transformers), or the tokenizers of mistral-common, which know how a chat is written.
_FILES = re.compile(r"chat_template\.jinja2?|tekken\.json|tokenizer\.model\.v\d+\w*")
_INSIDE = ("tokenizer_config.json", "chat_template.json", "processor_config.json")

Read = Callable[[str, int], bytes]  # path, n: the first n bytes of the file, fewer when it is shorter


def has_template(paths: Iterable[str], read: Read) -> bool:
    """Whether files at the top of a model's folder say how a chat is written.

    Args:
        paths: of the folder's files; those in folders below it do not count.
    """
    names = set(paths)
    if any(_FILES.fullmatch(name) for name in names):
        return True
    return any(_said(read(name, LIMIT)) for name in _INSIDE if name in names)


def folder_has_template(folder: Path) -> bool:
    """The same of a directory; one that is not there has none.

    Raises:
        OSError: it is there and cannot be read.
    """
    if not folder.is_dir():
        return False

    def read(name: str, n: int) -> bytes:
        with (folder / name).open("rb") as file:
            return file.read(n)

    return has_template([p.name for p in folder.iterdir()], read)


def _said(raw: bytes) -> bool:
    if raw.count(b",") + raw.count(b"[") + raw.count(b"{") > MAX_PARTS:
        return False  # a small text of brackets would become gigabytes of objects
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return isinstance(document, dict) and bool(document.get("chat_template"))
