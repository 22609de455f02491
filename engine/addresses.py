"""Addresses, and what in them must not be shown, logged or locked."""

from __future__ import annotations

import re
from contextlib import suppress
from urllib.parse import unquote, urlsplit

# Parameters of an address that open what is behind it: signatures of S3, Azure and Google, tokens, keys, passwords.
SECRET_PARAMETER = re.compile(
    r"(x-(amz|goog)-(signature|credential|security-token)|sig(nature)?|policy|key-pair-id|googleaccessid|awsaccesskeyid|"
    r".*token|.*passw(or)?d|pwd|.*secret|(api|access|private|subscription)?[-_]?key|auth(orization)?|jwt|credentials?)",
    re.IGNORECASE,
)
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# An image's digest stands behind an @, too, but in the last part of its name.
IMAGE_LOGIN = re.compile(r"docker://[^/]*@[^/]*/")


def without_login(url: str) -> str:
    """The address without user and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def lockable(url: str) -> str:
    """The address as a lock may name it: without user and password, and without parameters that open what is behind it."""
    parts = urlsplit(without_login(url))
    kept = [p for p in parts.query.split("&") if not SECRET_PARAMETER.fullmatch(unquote(p.partition("=")[0]))]
    return parts._replace(query="&".join(kept), fragment="").geturl()


def secret_in(url: str) -> str:
    """What in an address is secret, in words for people that do not repeat it; empty when nothing is."""
    parts = urlsplit(url)
    if IMAGE_LOGIN.match(url) if parts.scheme == "docker" else "@" in parts.netloc:
        return "a user or password"
    for name in (p.partition("=")[0] for p in parts.query.split("&")):
        if SECRET_PARAMETER.fullmatch(unquote(name)):
            return f"the parameter {unquote(name)}"
    return ""


def fault(url: str) -> str:
    """Why an address of http, https or a file cannot be asked, in words that repeat nothing of it; empty when it can. Pure."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "the host of the address cannot be read"
    spaced = " " in url and parts.scheme != "file"  # a path may have them
    if spaced or not url.isprintable() or CONTROL.search(unquote(url)):
        return "an address has no spaces or control characters"
    if parts.scheme == "file":
        if parts.netloc not in ("", "localhost"):
            return "a file: address names no host; write file:///PATH, or file:PATH beside the definition"
        return "" if parts.path else "a file: address needs a path"
    try:
        port = parts.port
    except ValueError:
        port = 0
    if port == 0:
        return "the port of the address is not a number from 1 to 65535"
    return "" if parts.hostname else "the address has no host"


def public(url: str) -> str:
    """The URL without user, password and query, fit for messages and locks."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that cannot be read"
    host = parts.hostname or ""
    with suppress(ValueError):  # a port that is none
        if parts.port:
            host += f":{parts.port}"
    return parts._replace(netloc=host, query="", fragment="").geturl()
