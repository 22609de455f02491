"""Who may log in, and what a login gets."""

from __future__ import annotations

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.baseline.outcome import Outcome, not_applicable, of_faults
from engine.process import run

PASSWD, SHADOW, LOGIN_DEFS = Path("/etc/passwd"), Path("/etc/shadow"), Path("/etc/login.defs")
NO_SHELLS = ("/usr/sbin/nologin", "/sbin/nologin", "/bin/false", "/usr/bin/false")
HIGHEST_SYSTEM_UID = 999
PEOPLE = range(1000, 60000)


@dataclass(frozen=True)
class Account:
    """A line of passwd. ``password`` is the field that counts (passwd(5)): that of shadow only where passwd says ``x``.

    ``shadowed`` is false where everybody can read the password's hash, or there is no field for it in shadow.
    """

    name: str
    uid: int
    shell: str
    password: str
    shadowed: bool = True

    @property
    def locked(self) -> bool:
        return self.password.startswith(("!", "*"))


def read() -> list[Account]:
    """All local accounts.

    Raises:
        OSError: not run as root.
    """
    shadow = {line.split(":")[0]: line.split(":")[1] for line in SHADOW.read_text().splitlines() if ":" in line}
    rows = [line.split(":") for line in PASSWD.read_text().splitlines() if line.count(":") == 6]
    return [
        Account(
            row[0],
            int(row[2]),
            row[6],
            shadow.get(row[0], "x") if row[1] == "x" else row[1],
            row[1] == "x" and row[0] in shadow,
        )
        for row in rows
    ]


def system_accounts(want: Mapping[str, Any]) -> Outcome:
    """No system account has a password or a shell, but for ``want.kept``."""
    faults = []
    for account in read():
        if account.name == "root" or account.uid > HIGHEST_SYSTEM_UID or account.name in want.get("kept", []):
            continue
        if not account.locked:
            faults.append(f"{account.name} has a password")
        if account.shell not in NO_SHELLS:
            faults.append(f"{account.name} has the shell {account.shell}")
    return of_faults(faults, "system accounts have neither password nor shell")


def root_account(_: Mapping[str, Any]) -> Outcome:
    """Root has no password and is the only account with number 0."""
    rows = read()
    faults = [f"{a.name} has the number 0, too" for a in rows if a.uid == 0 and a.name != "root"]
    faults += [f"the password of {a.name} is not locked" for a in rows if a.name == "root" and not a.locked]
    return of_faults(faults, "root is the only 0, its password is locked")


def empty_passwords(_: Mapping[str, Any]) -> Outcome:
    """Nobody has an empty password, or one outside shadow."""
    faults = [f"{a.name} has an empty password" for a in read() if not a.password]
    faults += [f"the password of {a.name} is not in shadow" for a in read() if a.password and not a.shadowed]
    return of_faults(faults, "none is empty")


def login_defs(want: Mapping[str, Any]) -> Outcome:
    """``want``: key of login.defs to its value."""
    found = dict(re.findall(r"^\s*([A-Z_]+)\s+(\S+)", LOGIN_DEFS.read_text(), re.MULTILINE))
    faults = [f"{k} is {found.get(k, 'not set')}, wanted {v}" for k, v in want.items() if found.get(k) != str(v)]
    return of_faults(faults, "; ".join(f"{k} {v}" for k, v in want.items()))


def ageing(want: Mapping[str, Any]) -> Outcome:
    """Every account with a password has to change it within ``want.most_days`` days."""
    faults, n = [], 0
    for line in SHADOW.read_text().splitlines():
        name, password, _, _, most, *_rest = line.split(":")
        if password.startswith(("!", "*")) or not password:
            continue
        n += 1
        if not most or int(most) > want["most_days"]:
            faults.append(f"{name} may keep its password for {most or 'ever'} days")
    return of_faults(faults, f"{n} accounts have passwords, each ages", f"at most {want['most_days']} days")


def login_shell(want: Mapping[str, Any]) -> Outcome:
    """What a login shell starts with: ``want.umask``, ``want.timeout_s``, ``want.core`` (blocks)."""
    script = 'umask; echo "${TMOUT:-0}"; ulimit -H -c'
    said = run(
        ["env", "-i", "HOME=/root", "/bin/bash", "--login", "-c", script], timeout_s=30, package="bash"
    ).stdout.split()
    umask, timeout_s, core = said[-3:]
    faults = []
    if "umask" in want and int(umask, 8) & int(str(want["umask"]), 8) != int(str(want["umask"]), 8):
        faults.append(f"umask {umask}, wanted {want['umask']}")
    if "timeout_s" in want and not 0 < int(timeout_s) <= want["timeout_s"]:
        faults.append(f"an idle shell ends after {timeout_s} s, wanted {want['timeout_s']}")
    if "core" in want and core != str(want["core"]):
        faults.append(f"core dumps up to {core}, wanted {want['core']}")
    return of_faults(faults, f"umask {umask}, TMOUT {timeout_s}, core {core}")


def homes(want: Mapping[str, Any]) -> Outcome:
    """The home of every account that is not of the system has no bit beyond ``want.mode`` for group and others."""
    faults, n = [], 0
    for line in PASSWD.read_text().splitlines():
        name, _, uid, _, _, home, _ = line.split(":")
        if int(uid) not in PEOPLE or len(home) < 2:
            continue
        try:
            mode = stat.S_IMODE(Path(home).stat().st_mode)
        except OSError:
            continue
        n += 1
        if mode & 0o077 & ~int(want["mode"], 8):
            faults.append(f"{home} of {name} has mode {mode:04o}, at most {want['mode']}")
    return of_faults(faults, f"{n} homes")


def pam(want: Mapping[str, Any]) -> Outcome:
    """``want.stacks``: file below /etc/pam.d to the modules it must use; ``want.settings``: file to lines it must have."""
    faults = []
    for stack, modules in want.get("stacks", {}).items():
        text = (Path("/etc/pam.d") / stack).read_text()
        faults += [
            f"{stack} without {m}" for m in modules if not re.search(rf"^[^#\n]*\b{re.escape(m)}\b", text, re.MULTILINE)
        ]
    for name, lines in want.get("settings", {}).items():
        try:
            text = Path(name).read_text()
        except OSError:
            faults.append(f"{name} is not there")
            continue
        have = {re.sub(r"\s*=\s*", " = ", line.strip()) for line in text.splitlines()}
        faults += [f"{name} without `{line}`" for line in lines if line not in have]
    if not Path("/etc/pam.d/common-auth").exists():
        return not_applicable("there is no PAM")
    return of_faults(faults, "in force")


CHECKS = {
    "system_accounts": system_accounts, "root_account": root_account, "empty_passwords": empty_passwords,
    "login_defs": login_defs, "ageing": ageing, "login_shell": login_shell, "pam": pam, "homes": homes,
}  # fmt: skip
