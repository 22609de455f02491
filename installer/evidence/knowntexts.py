"""Licence texts that are recognised word by word: ``known/SPDX-ID.txt``. Pure, but for reading those files once.

A text is recognised when its words are exactly those of a known one. Layout, punctuation and the lines of copyright holders above it do
not count. In a known file ``<<any>>`` stands for a name, ``<<mark>>`` for the number or dot of a list's item, and what is between
``<<optional>>`` and ``<<end>>`` may be absent. A text that adds or changes a single word is not recognised: people read it.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

DIRECTORY = Path(__file__).with_name("known")
MAX_WORDS = 8000  # of a text that is looked at; the longest known one has 2 700
# A name, of holders or contributors: without words that could grant or limit something.
ANY = (
    r"(?: (?!(?:not?|is|are|except|unless|must|may|shall|only|provided|without|fee|commercial|conditions?|licen[cs]\w*|permi\w*|prohibit\w*)\b)"
    r"\w+){1,25}?"
)
MARK = r"(?: [0-9a-c]| iv| i{1,3})?"
MARKERS = {"<<any>>": ANY, "<<mark>>": MARK, "<<optional>>": "(?:", "<<end>>": ")?"}
HOLDER = re.compile(r"copyright|\(c\)|©|all rights reserved|<\S+@\S+>|^\W*(19|20)\d\d\b", re.IGNORECASE)
TERMS = re.compile(r"licen[cs]|permi(t|ssion)|condition|except|redistribut|\bterms\b", re.IGNORECASE)
ADDRESS = re.compile(r"https? (www )?(apache org licenses|opensource org licenses (mit|isc|bsd [23] clause))")
TITLE = re.compile(
    r"(the )?(mit|expat|isc|apache|mozilla public|(new |modified |simplified |revised )?((2|3|two|three) clause )?bsd( (2|3) clause)?)"
    r"( software)?( licen[cs]e)?( (mit|isc|iscl|expat|new bsd|revised|simplified))?( version 2 0)?( january 2004)?( http www apache org licenses)?"
    r"|version 2 0( january 2004)?"
)


def recognise(text: bytes) -> str:
    """The SPDX id of a known licence text; empty when the text is not word by word one of them."""
    words = _body(text.decode(errors="replace"))
    if words.count(" ") > MAX_WORDS:
        return ""
    return next((spdx for spdx, pattern in _known() if pattern.fullmatch(words)), "")


def only(texts: list[bytes]) -> str:
    """The licence that all these texts are; empty when there are none, one is unknown, or two differ.

    Two different texts say neither that both hold nor that one may be chosen.
    """
    found = {recognise(t) for t in texts}
    return found.pop() if len(found) == 1 else ""


@cache
def _known() -> tuple[tuple[str, re.Pattern[str]], ...]:
    return tuple((f.stem, _pattern(f.read_text(encoding="utf-8"))) for f in sorted(DIRECTORY.glob("*.txt")))


def _pattern(template: str) -> re.Pattern[str]:
    """A known text as an expression over words, each with the blank before it."""
    parts = re.split("(" + "|".join(MARKERS) + ")", _without_head(template))
    return re.compile("".join(MARKERS.get(p) or re.escape(_words(p)) for p in parts))


def _body(text: str) -> str:
    return _words(_without_head(text))


def _without_head(text: str) -> str:
    """Without titles and holders above the first line of the licence itself. A line that grants or limits anything stays."""
    lines = text.splitlines()
    for number, line in enumerate(lines):
        bare = _words(line).strip()
        holder = HOLDER.search(line) and not TERMS.search(line) and len(line) <= 200
        if bare and not holder and not TITLE.fullmatch(bare) and not ADDRESS.fullmatch(bare):
            return "\n".join(lines[number:])
    return ""


def _words(text: str) -> str:
    return "".join(f" {w}" for w in re.findall(r"\w+", text.lower().replace("_", " ")))
