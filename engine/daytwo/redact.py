"""Take secrets out of text before anybody else sees it. Pure.

Two passes. The first knows shapes: private keys, vault blocks, headers, addresses with passwords, values behind names such as
``password``, tokens of known makers. What it takes out it remembers; the second pass looks for these values everywhere else, in
the forms in which they travel (base64, URL, hexadecimal, JSON), for a secret that stands in one file behind its name turns up in a log
without it. What was taken out is counted by kind and never shown.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import ClassVar
from urllib.parse import quote, unquote

LONGEST_LINE = 8192  # characters; what stands beyond is dropped, for nobody reads it and every pattern would
SEQUENCE = 0x30  # the tag of a sequence in DER
SHORTEST = 6  # characters of a value that is looked for elsewhere; shorter ones would take words along
PLAIN = frozenset(
    [
        "true",
        "false",
        "yes",
        "no",
        "none",
        "null",
        "on",
        "off",
        "default",
        "required",
        "optional",
        "enabled",
        "disabled",
        "present",
        "absent",
        "auto",
        "root",
        "admin",
        "string",
        "changeme",
        "unused",
        "example",
        "localhost",
        "system",
        "public",
        "private",
    ]
)
PART = 12  # characters; a shorter part of a value may be a word that others use
# Names whose values are secrets. Plurals of "token" count things; "key" alone is one only before something that looks like a key.
_NAME = (
    r"[\w.-]{0,40}(?:pass(?:word|wd|phrase|code)|secret|(?<![a-z])token(?!s\b|iz|_?count|s?_per)|api[_.-]?keys?|private[_.-]?key|privkey|"
    r"access[_.-]?key|account[_.-]?key|encryption[_.-]?key|signing[_.-]?key|shared[_.-]?key|master[_.-]?key|host[_.-]?key|preshared|credential|"
    r"recovery[_.-]?key|luks[_.-]?key|unlock[_.-]?key|become[_.-]?pass|bearer|authorization|cookie|session[_.-]?id|jwt|(?<![a-z])psk|(?<![a-z])pin(?![a-z])|"
    r"community|otp[_.-]?seed|totp|webhook|dsn|keytab|license[_.-]?key|licence[_.-]?key)[\w.-]{0,40}"
)
_VALUE = r"""(?P<quote>["'])(?P<quoted>(?:\\.|(?!(?P=quote)).)*)(?P=quote)|(?P<bare>[^\s"',;{}\[\]][^\s,;{}]*)"""
_PATH = re.compile(r"/(?:etc|var|run|opt|usr|root|home|srv|dev|proc|sys|tmp|media|mnt|lib|boot)(?:/[\w.@:+-]+)*/?")
_NUMBER = re.compile(r"-?\d{1,5}(?:\.\d+)?[smhdkKMG%]?")
KINDS = (
    "private key", "ansible vault", "header", "login in an address", "prompt", "disk key", "credential of a unit", "value behind a name",
    "value behind an option", "value behind a word", "directive", "key", "value in a list or block", "token of a known maker",
    "password hash", "long opaque text", "seen elsewhere",
)  # fmt: skip
# What was taken out, while the patterns run: one private character a kind, which none of them takes for a part of anything.
_FIRST = 0xE100
_MARK = re.compile(f"[{chr(_FIRST)}-{chr(_FIRST + len(KINDS) - 1)}]")
_SHOWN = re.compile(r"\[removed: ([a-z ]+)\]")
_BASE64 = re.compile(r"[A-Za-z0-9+/]{16,}={0,2}|[A-Za-z0-9_-]{16,}={0,2}")


class Redactor:
    """Remembers what it took out of the texts of one host."""

    def __init__(self) -> None:
        self.found: Counter[str] = Counter()
        self._values: set[str] = set()
        self._sweeper: re.Pattern[str] | None = None

    # -- first pass ---------------------------------------------------------------------------------
    def learn(self, text: str) -> str:
        """``text`` without what has the shape of a secret."""
        for kind, pattern, keep in self._SHAPES:
            text = pattern.sub(self._taking(kind, keep), text)
        text = "\n".join(self._blocks(text.split("\n")))
        for kind, pattern in self._NAMED:
            text = pattern.sub(self._value(kind), text)
        for kind, pattern, keep in self._TOKENS:
            text = pattern.sub(self._taking(kind, keep), text)
        return text

    # -- second pass --------------------------------------------------------------------------------
    def sweep(self, text: str) -> str:
        """``text`` without the values that the first pass took out anywhere."""
        if self._sweeper is None:
            forms = sorted({f for v in self._values for f in _forms(v)}, key=lambda f: (-len(f), f))
            self._sweeper = re.compile("|".join(map(re.escape, forms)) or r"(?!)")
        return self._sweeper.sub(lambda _: self._mark("seen elsewhere"), text)

    # -- how ----------------------------------------------------------------------------------------
    def _remember(self, value: str) -> None:
        # Quoted text inside quoted text: what was taken may hold the end of the quote and what follows.
        parts = (p for p in re.split(r"[\\\"'\s,;{}\[\]]+", value) if len(p) >= PART)
        for one in {value, value.strip("\"'"), unquote(value), *_inside(value), *parts}:
            if (
                not _MARK.search(one)
                and len(one) >= SHORTEST
                and one.lower() not in PLAIN
                and not _PATH.fullmatch(one)
                and not one.isspace()
            ):
                self._values.add(one)
                self._sweeper = None

    def _mark(self, kind: str) -> str:
        self.found[kind] += 1
        return chr(_FIRST + KINDS.index(kind))

    def _taking(self, kind: str, keep: str) -> Callable[[re.Match[str]], str]:
        """Replace the group ``secret`` (or everything) and keep the rest of the match."""

        def replace(match: re.Match[str]) -> str:
            if keep != "whole":
                secret = match["secret"]
                if _MARK.match(secret):
                    return match[0]
                self._remember(secret)
                begin, end = (p - match.start() for p in match.span("secret"))
                return match[0][:begin] + self._mark(kind) + match[0][end:]
            for line in match[0].splitlines():  # a key's lines may stand elsewhere one by one
                if len(line) >= 20 and "-----" not in line and "ANSIBLE" not in line:
                    self._remember(line.strip())
            return self._mark(kind)

        return replace

    def _value(self, kind: str) -> Callable[[re.Match[str]], str]:
        def replace(match: re.Match[str]) -> str:
            group = "quoted" if match["quoted"] is not None else "bare"
            value = match[group]
            if not value or _MARK.fullmatch(value) or _harmless(match["name"], value):
                return match[0]
            if kind == "key" and not _like_a_key(value):
                return match[0]
            self._remember(value)
            begin, end = (p - match.start() for p in match.span(group))
            return match[0][:begin] + self._mark(kind) + match[0][end:]

        return replace

    def _blocks(self, lines: list[str]) -> Iterable[str]:
        """YAML whose value stands on the lines below a secret's name: block texts and lists."""
        inside = -1
        for line in lines:
            depth = len(line) - len(line.lstrip(" "))
            if inside >= 0 and line.strip():
                item = line.lstrip(" ")
                if depth > inside or (depth == inside and item.startswith("- ")):
                    value = item.removeprefix("- ").strip()
                    if ":" in value and not value.startswith(("'", '"')) and re.match(r"[\w.-]+:\s", value):
                        yield line  # a table of its own, whose names speak for themselves
                        continue
                    if value and not _MARK.match(value):
                        self._remember(value)
                        yield (
                            " " * depth
                            + ("- " if item.startswith("- ") else "")
                            + self._mark("value in a list or block")
                        )
                        continue
                else:
                    inside = -1
            if self._OPENS.fullmatch(line):
                inside = depth
            yield line

    _OPENS: ClassVar = re.compile(rf"\s*(?:- )?[\"']?{_NAME}[\"']?\s*:\s*(?:[|>][+-]?\d?)?\s*", re.IGNORECASE)
    _SHAPES: ClassVar[list[tuple[str, re.Pattern[str], str]]] = [
        ("private key", re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?:.*?-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----|(?:\n[^\n]+)*)", re.DOTALL), "whole"),
        ("private key", re.compile(r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?:\\[rn]|[A-Za-z0-9+/=])+(?:-----END [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----)?"), "whole"),
        ("ansible vault", re.compile(r"\$ANSIBLE_VAULT;[^\n]*(?:\n\s*[0-9a-fA-F]{16,})*"), "whole"),
        ("header", re.compile(r"\b(?:authorization|proxy-authorization)[\"']?\s*[:= ]\s*[\"']?(?:bearer|basic|token|digest|negotiate|apikey)\s+(?P<secret>[^\s\"',;]+)", re.IGNORECASE), ""),
        ("header", re.compile(r"\b(?:bearer|basic)\s+(?P<secret>[A-Za-z0-9._~+/=-]{8,})", re.IGNORECASE), ""),
        ("header", re.compile(r"\b(?:set-)?cookie[\"']?\s*:\s*(?P<secret>[^\n]+)", re.IGNORECASE), ""),
        ("login in an address", re.compile(r"\b[a-z][a-z0-9+.-]*://(?P<secret>[^\s/@\"'<>]*:[^\s/@\"'<>]*|[^\s/@:\"'<>]{8,})@", re.IGNORECASE), ""),
        ("login in an address", re.compile(r"(?:--user|--proxy-user|\s-u)[ =][\"']?(?P<secret>[^\s:\"']+:[^\s\"']+)"), ""),
        ("prompt", re.compile(r"[\"']?\b(?:prompt|messages|prompt_token_ids)[\"']?\s*[:=]\s*(?P<secret>[^\n]+)", re.IGNORECASE), ""),
        ("disk key", re.compile(r"\b(?P<secret>\d{6}(?:-\d{6}){5,7})\b"), ""),
        ("disk key", re.compile(r"\b(?P<secret>[cbdefghijklnrtuv]{8}(?:-[cbdefghijklnrtuv]{8}){7})\b"), ""),
        ("credential of a unit", re.compile(r"\bSetCredential(?:Encrypted)?=[^:\s]+:\s*(?P<secret>[^\n]+)"), ""),
    ]  # fmt: skip
    _NAMED: ClassVar[list[tuple[str, re.Pattern[str]]]] = [
        ("value behind a name", re.compile(rf"(?<![\w/])[\"']?(?P<name>{_NAME})\\?[\"']?\s*(?:=>|:=|=|:(?!//))\s*\\?(?:{_VALUE})", re.IGNORECASE)),
        ("value behind an option", re.compile(rf"(?P<name>--?{_NAME})[ ]+(?:{_VALUE})", re.IGNORECASE)),
        ("value behind a word", re.compile(rf"\b(?P<name>password|passwd|passphrase|passcode|requirepass|masterauth|sshpass -p|identified by|pin is|secret is|token is|key is)\s+(?:is\s+|was\s+)?(?:{_VALUE})", re.IGNORECASE)),
        ("directive", re.compile(rf"(?m)^\s*(?:set\s+\$|proxy_set_header\s+|fastcgi_param\s+|add_header\s+)?(?P<name>{_NAME})\s+(?:{_VALUE})(?=\s*;)", re.IGNORECASE)),
        ("key", re.compile(rf"(?<![\w/])[\"']?(?P<name>[\w.-]{0,40}(?:key|seed|salt|hmac|cipher|signature|auth)[\w.-]{0,40})[\"']?\s*(?:=|:|\s)\s*(?:{_VALUE})", re.IGNORECASE)),
    ]  # fmt: skip
    _TOKENS: ClassVar[list[tuple[str, re.Pattern[str], str]]] = [
        ("token of a known maker", re.compile(
            r"(?P<secret>\b(?:sk-[A-Za-z0-9_-]{12,}|hf_[A-Za-z0-9]{12,}|gh[pousr]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{16,}|"
            r"xox[abprs]-[A-Za-z0-9-]{10,}|(?:AKIA|ASIA)[A-Z0-9]{16}|AIza[A-Za-z0-9_-]{30,}|nvapi-[A-Za-z0-9_-]{20,}|npm_[A-Za-z0-9]{30,}|"
            r"pypi-[A-Za-z0-9_-]{20,}|dckr_pat_[A-Za-z0-9_-]{16,}|hv[sb]\.[A-Za-z0-9_-]{16,}|AGE-SECRET-KEY-1[A-Z0-9]{20,}|"
            r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*))"), ""),
        ("password hash", re.compile(r"(?P<secret>\$(?:1|2[aby]|5|6|7|y|gy|apr1|argon2id?|scrypt)\$[A-Za-z0-9./$,=+-]{8,})"), ""),
        ("long opaque text", re.compile(r"(?<![\w/+.-])(?P<secret>(?=[\w+/-]*[A-Z])(?=[\w+/-]*[a-z])(?=[\w+/-]*\d)[A-Za-z0-9+/_-]{40,}={0,2})(?![\w/.])"), ""),
    ]  # fmt: skip


_PUBLIC = re.compile(
    r"(-----BEGIN (?:CERTIFICATE|X509 CRL|CERTIFICATE REQUEST|PUBLIC KEY)-----(?:[A-Za-z0-9+/=\s]|\\[rn])*-----END [A-Z0-9 ]+-----)"
)


def certificates_apart(text: str) -> list[tuple[bool, str]]:
    """The text in pieces, with whether each is a public certificate or list, which is long base64 and no secret.

    Also one within a quoted string, whose line breaks are written as ``\\n``.
    """
    return [(number % 2 == 1 and _is_public(piece), piece) for number, piece in enumerate(_PUBLIC.split(text))]


def _is_public(block: str) -> bool:
    """Whether a block holds what its first line says: anything else could be put behind such a line, and would leave with it.

    All of these are a DER sequence of the length that it names, which begins with another sequence; a private key begins with a number.
    """
    lines = block.replace("\\r", "\n").replace("\\n", "\n").split("-----")
    try:
        der = base64.b64decode("".join(lines[2].split()), validate=True)
    except (binascii.Error, ValueError):
        return False
    if len(der) < 4 or der[0] != SEQUENCE:
        return False
    wide = der[1] - 0x80 if der[1] >= 0x80 else 0  # bytes of the length, where it does not fit into the one
    head = 2 + wide
    length = int.from_bytes(der[2:head], "big") if wide else der[1]
    return len(der) > head and len(der) == head + length and der[head] == SEQUENCE


def redacted(texts: Mapping[str, str], also: Iterable[str] = ()) -> tuple[dict[str, str], dict[str, dict[str, int]]]:
    """All texts without secrets, and what was taken out of each, by kind.

    Args:
        also: more texts to learn from, which are not kept: files that hold secrets and are not collected themselves.
    """
    redactor = Redactor()
    for text in also:
        for public, piece in certificates_apart(_cut(text)):
            if not public:
                redactor.learn(piece)
    counts: dict[str, Counter[str]] = {}
    first: dict[str, list[tuple[bool, str]]] = {}
    for name, text in texts.items():
        redactor.found = counts[name] = Counter()
        first[name] = [
            (public, piece if public else redactor.learn(piece)) for public, piece in certificates_apart(_cut(text))
        ]
    clean: dict[str, str] = {}
    for name, pieces in first.items():
        redactor.found = counts[name]
        swept = "".join(piece if public else redactor.sweep(piece) for public, piece in pieces)
        clean[name] = _MARK.sub(lambda m: f"[removed: {KINDS[ord(m[0]) - _FIRST]}]", swept)
    return clean, {name: dict(sorted(found.items())) for name, found in counts.items() if found}


def _cut(text: str) -> str:
    """Without the ends of long lines; what was taken out before is marked as such again."""
    text = _SHOWN.sub(lambda m: chr(_FIRST + KINDS.index(m[1])) if m[1] in KINDS else m[0], _MARK.sub("?", text))
    if len(text) <= LONGEST_LINE:
        return text
    return "\n".join(x if len(x) <= LONGEST_LINE else f"{x[:LONGEST_LINE]} [cut]" for x in text.split("\n"))


def _harmless(name: str, value: str) -> bool:
    """A setting that only sounds secret: a path, a switch, a small number, a variable's name."""
    path = _PATH.fullmatch(value) or _PATH.fullmatch(value.partition(":")[2])
    if path or value.lower() in PLAIN or value.startswith(("$", "{{", "%{")):
        return not value.startswith(("$6$", "$y$", "$2", "$5$", "$1$", "$apr1$", "$argon"))
    counted = _NUMBER.fullmatch(value) is not None
    return counted and not re.search(r"pass|pin|secret|code", name, re.IGNORECASE)


def _like_a_key(value: str) -> bool:
    """Long base64 or hexadecimal, which a path or a word is not."""
    return _BASE64.fullmatch(value) is not None and (any(c.isdigit() for c in value) or "=" in value)


def _inside(value: str) -> list[str]:
    """The parts of ``user:password`` and of base64, which may stand alone elsewhere."""
    parts = []
    if ":" in value and "/" not in value:
        parts.append(value.partition(":")[2])
    if _BASE64.fullmatch(value):
        try:
            plain = base64.b64decode(
                value + "=" * (-len(value) % 4), altchars=b"-_" if set("-_") & set(value) else None
            )
            text = plain.decode()
        except (binascii.Error, ValueError):
            return parts
        if text.isprintable() and len(text) >= SHORTEST:
            parts += [text, *_inside(text)]
    return parts


def _forms(value: str) -> set[str]:
    """How a value looks when it travels: as it is, escaped, in hexadecimal, and in base64 at each of the three positions."""
    raw = value.encode()
    found = {value, json.dumps(value)[1:-1], quote(value, safe=""), quote(value), raw.hex(), raw.hex().upper()}
    for shift in range(3):
        padded = base64.b64encode(b"\0" * shift + raw)
        # What surrounds the value changes the first characters and the last; only those between are the value's own.
        begin = (shift * 8 + 5) // 6
        end = (shift + len(raw)) * 8 // 6
        core = padded[begin:end].decode()
        if len(core) >= 8:
            found |= {core, core.replace("+", "-").replace("/", "_")}
    return {f for f in found if len(f) >= SHORTEST}
