"""The hardening of the operating system: admins, records, time."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from engine.rules.fault import Fault, Key, Rule

KEY = re.compile(
    r"(ssh-ed25519|sk-ssh-ed25519@openssh\.com|ecdsa-sha2-nistp\d+|sk-ecdsa-sha2-nistp256@openssh\.com|ssh-rsa) [A-Za-z0-9+/=]+( .*)?"
)
NAME = re.compile(r"[a-z][a-z0-9_-]{0,30}")
HASH = re.compile(r"\$(y|gy|7|6|2b)\$[./A-Za-z0-9$=,]{20,200}")
ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9.:-]{0,250}")
SIZE = re.compile(r"[1-9]\d{0,5}[KMGT]")
LOG_HOST = re.compile(r"https://[A-Za-z0-9.:\[\]-]+")
SHORTEST_CONFIRM_S = 15


def baseline(given: Mapping[str, Any], known: Collection[str]) -> Iterator[Fault]:
    """What is wrong with the variables of the baseline; any may be missing.

    Args:
        given: enable, admins, root_login, time_servers, log_host, journal_max, journal_keep_free, confirm_timeout_s, banner.
        known: ids of all controls.
    """
    for i, control in enumerate(given.get("enable") or []):
        if control not in known:
            what = f"names {control}, which is not a control"
            yield Fault(Rule.BASELINE_CONTROL, ("enable", i), what, "docs/baseline.md lists the ids", "enable")
    yield from _admins(list(given.get("admins") or []), str(given.get("root_login", "")))
    for i, server in enumerate(given.get("time_servers") or []):
        if not ADDRESS.fullmatch(str(server)):
            what = f"has {server!r}, which is not an address or name"
            yield Fault(Rule.BASELINE_TIME_SERVER, ("time_servers", i), what, "write it like 192.0.2.5", "time_servers")
    for name in ("journal_max", "journal_keep_free"):
        if name in given and not SIZE.fullmatch(str(given[name])):
            yield Fault(Rule.BASELINE_SIZE, (name,), f"is {given[name]!r}", "write a size like 1G")
    if given.get("log_host") and not LOG_HOST.fullmatch(str(given["log_host"])):
        yield Fault(
            Rule.BASELINE_LOG_HOST, ("log_host",), f"is {given['log_host']!r}", "write it like https://192.0.2.7:19532"
        )
    seconds = given.get("confirm_timeout_s", SHORTEST_CONFIRM_S)
    if not str(seconds).isdigit() or int(seconds) < SHORTEST_CONFIRM_S:
        what = f"is {seconds}, too short to connect again"
        yield Fault(Rule.BASELINE_CONFIRM, ("confirm_timeout_s",), what, f"use at least {SHORTEST_CONFIRM_S}")
    banner = str(given.get("banner", "authorised"))
    if re.search(r"\\|Debian|Ubuntu", banner) or not re.search(r"authori[sz]ed", banner):
        what = "does not say who is authorised, or has backslashes or the system's name"
        yield Fault(
            Rule.BASELINE_BANNER,
            ("banner",),
            what,
            "it must say who is authorised, without backslashes and without the system's name",
        )


def lets_in(
    user: str, admins: Iterable[Mapping[str, Any]], ssh_users: Iterable[str], root_login: str
) -> Iterator[Fault]:
    """Whether sshd would still let in the account that installs."""
    if user in {a.get("name") for a in admins} or user in set(ssh_users) or (user == "root" and root_login != "no"):
        return
    what = f"do not name {user}, as whom this run logs in and whom sshd would not let in any more"
    remedy = f"name {user} in admins or ssh_users, or log in as an admin (ansible_user)"
    yield Fault(Rule.BASELINE_LOGIN, ("admins",), what, remedy)


def _admins(admins: list[Mapping[str, Any]], root_login: str) -> Iterator[Fault]:
    names = [a.get("name") for a in admins]
    for i, admin in enumerate(admins):
        yield from _admin(("admins", i), f"admins entry {admin.get('name')!r}", admin)
        if admin.get("name") in names[:i]:
            yield Fault(
                Rule.BASELINE_ADMIN_TWICE,
                ("admins", i, "name"),
                f"names {admin.get('name')} twice",
                "keep one entry",
                "admins",
            )
    if root_login == "no" and not any(a.get("sudo", "password") != "none" for a in admins):
        yield Fault(
            Rule.BASELINE_ROOT, ("root_login",), "is no and no admin may act as root", "name an admin with sudo first"
        )


def _admin(key: Key, subject: str, admin: Mapping[str, Any]) -> Iterator[Fault]:
    name = str(admin.get("name"))
    if not NAME.fullmatch(name) or name == "root":
        remedy = "use a login name of lower-case letters, digits, dashes and underscores, and not root"
        yield Fault(Rule.BASELINE_ADMIN, (*key, "name"), f"has the name {name!r}", remedy, subject)
    if not admin.get("keys"):
        yield Fault(
            Rule.BASELINE_NO_KEYS, (*key, "keys"), "has no keys and could not log in", "give public keys", subject
        )
    for i, public in enumerate(admin.get("keys") or []):
        if not KEY.fullmatch(str(public)):
            # A private key pasted here by mistake is not repeated.
            shown = "which is a private key" if "PRIVATE" in str(public) else f"{str(public)[:40]!r}"
            remedy = "give a public key as ssh-keygen writes it, without options"
            yield Fault(Rule.BASELINE_KEY, (*key, "keys", i), f"has the key {shown}", remedy, subject)
    if admin.get("password") and not HASH.fullmatch(str(admin["password"])):
        what = "has a password that is not a strong crypt hash"
        yield Fault(
            Rule.BASELINE_PASSWORD, (*key, "password"), what, "make one with `mkpasswd --method=yescrypt`", subject
        )
