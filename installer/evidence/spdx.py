"""Licences in the words of their suppliers, as SPDX has them. Pure.

Only what can mean one thing is translated. "BSD" may be two licences, "Apache Software License" three, "GPL" many: such words stay
as they are unless a recognised text decides (``settled``).
"""

from __future__ import annotations

import difflib
import re

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

MAX_SAID = 2000  # characters; the longest real expressions have some hundred
# Words that say nothing about which licence it is. What is left of a name is looked up below.
FILLERS = frozenset(
    {"the", "license", "licence", "licensed", "version", "v", "osi", "approved", "under", "terms", "of"}
)
NAMES = {
    "mit": "MIT", "expat": "MIT", "mit expat": "MIT",
    "apache 2.0": "Apache-2.0", "apache 2": "Apache-2.0", "apache software 2.0": "Apache-2.0", "apache software 2": "Apache-2.0",
    "asl 2.0": "Apache-2.0", "asl 2": "Apache-2.0", "http www.apache.org licenses license 2.0": "Apache-2.0",
    "https www.apache.org licenses license 2.0": "Apache-2.0",
    "bsd 3 clause": "BSD-3-Clause", "3 clause bsd": "BSD-3-Clause", "new bsd": "BSD-3-Clause", "modified bsd": "BSD-3-Clause",
    "revised bsd": "BSD-3-Clause", "bsd 3": "BSD-3-Clause", "three clause bsd": "BSD-3-Clause", "bsd 3 clause new or revised": "BSD-3-Clause",
    "bsd 2 clause": "BSD-2-Clause", "2 clause bsd": "BSD-2-Clause", "simplified bsd": "BSD-2-Clause", "bsd 2": "BSD-2-Clause",
    "two clause bsd": "BSD-2-Clause",
    "isc": "ISC", "isc iscl": "ISC",
    "mozilla public 2.0": "MPL-2.0", "mozilla public 2.0 mpl 2.0": "MPL-2.0", "mpl 2.0": "MPL-2.0", "mpl 2": "MPL-2.0",
    "python software foundation 2.0": "PSF-2.0", "psf 2.0": "PSF-2.0",
    "boost software 1.0": "BSL-1.0", "boost software 1.0 bsl 1.0": "BSL-1.0",
    "unlicense": "Unlicense", "unlicense unlicense": "Unlicense", "zlib": "Zlib", "mit no attribution": "MIT-0", "0bsd": "0BSD",
    "gnu general public 2 or later gplv2+": "GPL-2.0-or-later", "gnu general public 3 or later gplv3+": "GPL-3.0-or-later",
    "gnu lesser general public 2 or later lgplv2+": "LGPL-2.0-or-later",
    "gnu lesser general public 3 or later lgplv3+": "LGPL-3.0-or-later",
    "gnu affero general public 3 or later agplv3+": "AGPL-3.0-or-later",
    "gplv2+": "GPL-2.0-or-later", "gplv3+": "GPL-3.0-or-later", "lgplv2.1+": "LGPL-2.1-or-later", "lgplv3+": "LGPL-3.0-or-later",
}  # fmt: skip
# What may be meant by words that mean more than one licence, of those whose texts are recognised.
MAY_BE = {
    "bsd": frozenset({"BSD-2-Clause", "BSD-3-Clause"}),
    "bsd style": frozenset({"BSD-2-Clause", "BSD-3-Clause"}),
    "apache": frozenset({"Apache-2.0"}),
    "apache software": frozenset({"Apache-2.0"}),
    "mozilla public": frozenset({"MPL-2.0"}),
    "mpl": frozenset({"MPL-2.0"}),
}


def normalise(declared: str) -> str:
    """The SPDX expression that these words mean; empty where they are none, or may mean several.

    Alternatives and lists are put in order, so that two spellings of one expression are the same.
    """
    said = declared.strip()
    if not said or len(said) > MAX_SAID:
        return ""
    if expression := _canonical(said):
        return _ordered(expression)
    if name := NAMES.get(_key(said)):
        return name
    operators = set(re.findall(r" (AND|OR) ", said))
    if len(operators) == 1:
        operator = f" {operators.pop()} "
        parts = [normalise(p) for p in said.split(operator)]
        return _ordered(operator.join(parts)) if all(parts) else ""
    return ""


def fault(said: str) -> str:
    """Why words that a person wrote as an SPDX expression are none, with what may be meant; empty where they are one, or nothing. Pure."""
    if not said.strip() or (len(said) <= MAX_SAID and _canonical(said.strip())):
        return ""
    near = normalise(said) or next(iter(difflib.get_close_matches(said, sorted(set(NAMES.values())), 1)), "")
    meant = f"did you mean {near}?" if near else "a licence without a name there is LicenseRef-NAME"
    return f"not an SPDX expression ({meant})"


def settled(declared: str, text: str) -> str:
    """``text``, the licence whose text was recognised, where ``declared`` may mean it and others; else empty."""
    return text if text in MAY_BE.get(_key(declared), ()) else ""


def single(expression: str) -> tuple[str, ...]:
    """The licences that an expression names, each once and in order; an exception stays with its licence."""
    parts = re.split(r"\s+(?:AND|OR)\s+", expression.replace("(", " ").replace(")", " "))
    return tuple(sorted({p.strip() for p in parts if p.strip()}))


def _canonical(text: str) -> str:
    try:
        return str(canonicalize_license_expression(text))
    except (InvalidLicenseExpression, RecursionError, MemoryError):
        return ""  # the library evaluates what is in the text's shape of an expression, which may be nested too deep


def _ordered(expression: str) -> str:
    """The parts of an expression that has one operator alone, each once and in order."""
    operators = set(re.findall(r" (AND|OR) ", expression))
    if len(operators) != 1 or "(" in expression:
        return expression
    operator = f" {operators.pop()} "
    return operator.join(sorted(set(expression.split(operator))))


def _key(text: str) -> str:
    """The words that tell one licence from another, without repetition one after the other: `The MIT License (MIT)` is `mit`."""
    words = [re.sub(r"^v(?=[0-9])", "", w).strip(".") for w in re.findall(r"[a-z0-9.+]+", text.lower()[:300])]
    kept = [w for w in words if (w and w not in FILLERS) or (w == "license" and "apache.org" in text.lower())]
    return " ".join(w for n, w in enumerate(kept) if n == 0 or w != kept[n - 1])
