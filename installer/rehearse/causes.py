"""What a node said when it failed, turned into what the definition lacks. Pure.

Services run with the hub's offline variables set, so a request to a hub shows as an exception and not as a packet; these are the words of
those exceptions, of the dynamic linker, of Python and of apt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from engine.report import printable

MAX_LINE = 300  # characters of the line that is shown


@dataclass(frozen=True)
class Cause:
    """``what`` happened, ``remedy`` for the definition, and the ``line`` it is read from."""

    what: str
    remedy: str
    line: str


@dataclass(frozen=True)
class _Pattern:
    match: re.Pattern[str]
    what: str
    remedy: str


def _pattern(match: str, what: str, remedy: str) -> _Pattern:
    return _Pattern(re.compile(match), what, remedy)


_NAME = r"['\"]?([A-Za-z0-9][\w.+-]*(?:/[\w.+-]+)?)['\"]?"
# More telling ones first; a text gives each cause once.
_PATTERNS = (
    _pattern(
        r"No package matching ['\"]([a-z0-9][a-z0-9.+-]+)['\"]|Unable to locate package ([a-z0-9][a-z0-9.+-]+)",
        "the bundle lacks the package {0}",
        "Add {0} to debs in the definition, with the profile of this node.",
    ),
    _pattern(
        r"([\w.+-]+\.so[\w.]*): cannot open shared object file",
        "the shared library {0} is missing",
        "Add the package that holds {0} to debs in the definition (on a machine like the node: apt-file search {0}).",
    ),
    _pattern(
        r"Cannot find an appropriate cached snapshot folder|Cannot reach https?://([\w.-]+)\S*: offline mode is enabled|couldn't connect to ['\"]?https?://([\w.-]+)",
        "something was asked of the hub {0}, which is not inside",
        "Add what it asked for (next lines) to models in the definition, and name it in the service's args by its directory.",
    ),
    _pattern(
        r"Can't load (?:the )?tokenizer for ['\"]?([^'\"\s]+)|Couldn't instantiate the backend tokenizer",
        "a tokenizer is missing{of}",
        "Add the tokenizer's files (tokenizer.json, tokenizer_config.json) to the model in the definition; look at `include` of the model.",
    ),
    _pattern(
        rf"Repo id must be in the form .*?: {_NAME}|{_NAME} is not a local folder and is not a valid model identifier",
        "{0} is looked for on a hub, which is not inside",
        "Add {0} to models in the definition, and name it in the service's args by its directory.",
    ),
    _pattern(
        r"(\S+) does not appear to have a file named ([\w.-]*\w)",
        "{0} lacks the file {1}",
        "Add {1} to the model in the definition; look at `include` of the model.",
    ),
    _pattern(
        rf"No module named {_NAME}",
        "the Python module {0} is missing",
        "Add the distribution that brings it to requirements of the wheel set, or take it out of `exclude`.",
    ),
    _pattern(
        r"Because (\S+) was not found in the provided package locations|no matching distribution found for (\S+)",
        "the bundle lacks the wheel {0}",
        "Lock the definition again and build it; the wheel set does not hold its own closure.",
    ),
    _pattern(
        r"Failed to find C compiler|InvalidCxxCompiler|No working C\+\+ compiler|(?:gcc|g\+\+|cc): (?:command )?not found",
        "a compiler is missing on the node",
        "Add gcc, g++ and python3-dev to debs and appliance_vllm_packages, or set enforce-eager in the service's args.",
    ),
    _pattern(
        r"Could not find nvcc|fatal error: (Python\.h)",
        "something is compiled at run time and its tools are not on the node",
        "Add wheels with compiled kernels to `direct` of the wheel set, or the compiler's packages to debs.",
    ),
    _pattern(
        r"(?i)gaierror|Name or service not known|Temporary failure in name resolution",
        "a name was looked up, and there is no name server inside",
        "Add what it fetches to the definition; the attempts named beside this say what was looked up.",
    ),
)  # fmt: skip


def causes(text: str) -> tuple[Cause, ...]:
    """Known causes in what a node said, each once, in the order of the list above."""
    found: dict[tuple[str, str], Cause] = {}
    for pattern in _PATTERNS:
        for line in text.splitlines():
            if match := pattern.match.search(line):
                words = [printable(g, keep="") for g in match.groups() if g]
                of = f" for {words[0]}" if words else ""
                padded = [*words, "", ""]
                what = " ".join(pattern.what.format(*padded, of=of).split()).replace(" ,", ",")
                cause = Cause(what, pattern.remedy.format(*padded, of=of), printable(line.strip()[-MAX_LINE:], keep=""))
                found.setdefault((cause.what, cause.remedy), cause)
    return tuple(found.values())
