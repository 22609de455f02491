"""Addresses, and what in them must not be shown, logged or locked."""

from __future__ import annotations

import re
from urllib.parse import unquote, urlsplit

# Parameters of an address that open what is behind it: signatures of S3, Azure and Google, tokens, keys, passwords.
SECRET_PARAMETER = re.compile(
    r"(x-(amz|goog)-(signature|credential|security-token)|sig(nature)?|policy|key-pair-id|googleaccessid|awsaccesskeyid|"
    r".*token|.*passw(or)?d|pwd|.*secret|(api|access|private|subscription)?[-_]?key|auth(orization)?|jwt|credentials?)",
    re.IGNORECASE,
)
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


def public(url: str) -> str:
    """The URL without user, password and query, fit for messages and locks."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    if parts.port:
        host += f":{parts.port}"
    return parts._replace(netloc=host, query="", fragment="").geturl()
