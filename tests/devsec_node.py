"""Runs on a node, as root, with Python's standard library alone: what dev-sec's controls look at, as JSON on standard output.

Before it stands WANTED, what the table asks for (tests/devsec.py); so nothing here is imported from the future. No password hash leaves the node.
"""

import grp
import json
import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def said(*argv: str) -> str | None:
    """Standard output; nothing if the program is not there, hangs, or fails without a word."""
    program = shutil.which(argv[0], path=SEARCH)
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *argv[1:]], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout


def text(path: str) -> str:
    """A file's text, or nothing."""
    try:
        return Path(path).read_text(errors="replace")
    except OSError:
        return ""


def sysctl(keys: list[str]) -> dict[str, str | None]:
    """Key to value; null where the kernel lacks it."""
    found: dict[str, str | None] = {}
    for key in keys:
        try:
            found[key] = " ".join(Path("/proc/sys", key.replace(".", "/")).read_text().split())
        except OSError:
            found[key] = None
    return found


def sshd() -> dict[str, list[str]] | None:
    """Keyword, in small letters, to values in force; null without sshd, empty if it does not say."""
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # without it sshd says nothing; its unit makes it, too
    out = said("sshd", "-T")
    if out is None:
        return None
    found: dict[str, list[str]] = {}
    for line in out.splitlines():
        keyword, _, value = line.partition(" ")
        found.setdefault(keyword, []).append(value)
    return found


def commands(name: str) -> list[str]:
    """Command lines of the processes of this name."""
    lines = []
    for process in Path("/proc").glob("[0-9]*"):
        if text(f"{process}/comm").strip() == name:
            lines.append(text(f"{process}/cmdline").replace("\0", " ").strip())
    return sorted(lines)


def files(paths: list[str]) -> dict[str, dict[str, str] | None]:
    """Path to type, owner, group and mode; null where nothing is."""
    found: dict[str, dict[str, str] | None] = {}
    for path in paths:
        try:
            seen = Path(path).stat()
        except OSError:
            found[path] = None
            continue
        kind = "directory" if stat.S_ISDIR(seen.st_mode) else "file" if stat.S_ISREG(seen.st_mode) else "other"
        found[path] = {"type": kind, "owner": user(seen.st_uid), "group": group(seen.st_gid), "mode": f"{stat.S_IMODE(seen.st_mode):04o}"}  # fmt: skip
    return found


def user(uid: int) -> str:
    """The name of an account, or its number."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def group(gid: int) -> str:
    """The name of a group, or its number."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)


def set_ids(paths: list[str]) -> list[str]:
    """Those of the paths that take another's rights."""
    found = []
    for path in paths:
        try:
            mode = Path(path).lstat().st_mode
        except OSError:
            continue
        if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
            found.append(path)
    return found


def settings(path: str) -> dict[str, str] | None:
    """Key to value of a file of `key value` or `key = value` lines; null without the file."""
    if not Path(path).exists():
        return None
    pairs = re.findall(r"^[ \t]*([A-Za-z_]+)[ \t]*(?:=|[ \t])[ \t]*(.*?)[ \t]*$", text(path), re.MULTILINE)
    return dict(pairs)


def mounts() -> dict[str, list[str]]:
    """Where something is mounted, and how; of several at one place the last, which hides the others."""
    fields = [line.split() for line in text("/proc/self/mounts").splitlines()]
    return {f[1].replace("\\040", " "): f[3].split(",") for f in fields if len(f) > 3}


def modules() -> dict[str, str]:
    """Module to the command that is run instead of loading it."""
    # As modprobe reads them: a file of an earlier place hides those of the same name in later ones.
    chosen: dict[str, str] = {}
    for place in ("/usr/lib/modprobe.d", "/lib/modprobe.d", "/run/modprobe.d", "/etc/modprobe.d"):
        chosen |= {p.name: str(p) for p in Path(place).glob("*.conf")}
    found: dict[str, str] = {}
    for name in sorted(chosen):
        pairs = re.findall(r"^\s*install\s+(\S+)\s+(.+?)\s*$", text(chosen[name]), re.MULTILINE)
        for module, command in pairs:
            found.setdefault(module, command)
    return found


def fields(path: str, number: int) -> list[tuple[str, str]]:
    """Name and one field of each line of passwd or group."""
    lines = [line.split(":") for line in text(path).splitlines()]
    return [(parts[0], parts[number]) for parts in lines if len(parts) > number]


def twice(pairs: list[tuple[str, str]]) -> list[str]:
    """Names that share their number with another."""
    numbers = [number for _, number in pairs]
    return [name for name, number in pairs if numbers.count(number) > 1]


def here() -> list[str]:
    """Parts of the search path of root's login shell that mean where one stands."""
    try:
        done = subprocess.run(
            ["/bin/sh", "-lc", 'printf "PATH=%s\\n" "$PATH"'],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False, cwd="/",
            env={"HOME": "/root", "USER": "root", "LOGNAME": "root", "PATH": SEARCH},
        )  # fmt: skip
        lines = [line for line in done.stdout.splitlines() if line.startswith("PATH=")]
    except (OSError, subprocess.SubprocessError):
        lines = []
    if not lines:
        return ["no login shell said"]
    return [repr(part) for part in lines[-1].removeprefix("PATH=").split(":") if part in ("", ".")]


def remote_names() -> list[str]:
    """Files .rhosts and .netrc, as deep as homes are."""
    found: list[str] = []
    places = ["/"]
    for _ in range(3):
        below: list[str] = []
        for place in places:
            try:
                entries = list(os.scandir(place))
            except OSError:
                continue
            found += [e.path for e in entries if e.name.lower() in (".rhosts", ".netrc")]
            below += [e.path for e in entries if e.is_dir(follow_symlinks=False) and e.path not in ("/proc", "/sys")]
        places = below
    return sorted(found)


def primes() -> int | None:
    """Bits of the weakest prime; null without any."""
    rows = [line.split() for line in text("/etc/ssh/moduli").splitlines() if not line.startswith("#")]
    return min((int(row[4]) for row in rows if len(row) > 4 and row[4].isdigit()), default=None)


def main(wanted: dict[str, list[str]]) -> dict[str, Any]:
    """All facts."""
    flags = re.search(r"^flags\s*:\s*(.*)$", text("/proc/cpuinfo"), re.MULTILINE)
    holes = Path("/sys/devices/system/cpu/vulnerabilities").glob("*")
    ident = said("sshd", "-i")
    return {
        "container": (said("systemd-detect-virt", "--container") or "none").strip(),
        "efi": Path("/sys/firmware/efi").exists(),
        "ipv6": Path("/proc/sys/net/ipv6").exists(),
        "sysctl": sysctl(wanted["sysctl"]),
        "readonly": [k for k in wanted["sysctl"] if not os.access(f"/proc/sys/{k.replace('.', '/')}", os.W_OK)],
        "sshd": sshd(),
        "ident": None if ident is None else ident.partition("\n")[0].strip(),
        "commands": commands("sshd"),
        "primes": primes(),
        "files": files(wanted["files"]),
        "packages": sorted(re.findall(r"^ii +([^ :]+)", said("dpkg-query", "--show", "--showformat=${db:Status-Abbrev} ${Package}\n") or "", re.MULTILINE)),
        "settings": {path: settings(path) for path in wanted["settings"]},
        "mounts": mounts(),
        "set_ids": set_ids(wanted["set_ids"]),
        "modules": modules(),
        "processor": flags[1].split() if flags else [],
        "passwords_in_passwd": [name for name, word in fields("/etc/passwd", 1) if word not in ("x", "*")],
        "path_here": here(),
        "uids_twice": twice(fields("/etc/passwd", 2)),
        "gids_twice": twice(fields("/etc/group", 2)),
        "rhosts_and_netrc": remote_names(),
        "processor_vulnerable": sorted(p.name for p in holes if "vulnerable" in text(str(p)).lower()),
    }  # fmt: skip


if __name__ == "__main__":
    json.dump(main(globals()["WANTED"]), sys.stdout, indent=1)
    print()
