"""One way to run a process."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine.errors import ApplianceError, ResourceError


class ProcessError(ApplianceError):
    """A process exited with a code that the caller did not allow.

    ``stderr`` holds the last lines it wrote, for callers that recognise a cause.
    """

    def __init__(self, argv: Sequence[str], code: int, stderr: str) -> None:
        tail = "\n".join(stderr.strip().splitlines()[-15:])
        super().__init__(
            f"`{' '.join(argv[:4])}{' …' if len(argv) > 4 else ''}` exited with {code}: {tail or 'no output'}",
            remedy="Fix what it names, and run the same command again.",
        )
        self.code = code
        self.stderr = stderr


def which(tool: str) -> str | None:
    """Where a tool is, as ``run`` finds it; None where it is not installed."""
    return shutil.which(tool, path=search_path())


def search_path() -> str:
    """PATH, and where tools for administrators are, which are not on the path of every session."""
    return f"{os.environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"


def surviving_directory() -> str | None:
    """None, which leaves a child where this process is; the root where that place was deleted, for many tools end there at once."""
    try:
        Path.cwd()
    except OSError:
        return "/"
    return None


def run(
    argv: Sequence[str | Path],
    *,
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
    stdin: str | None = None,
    ok: Sequence[int] = (0,),
    timeout_s: float | None = None,
    package: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run ``argv`` without a shell, capture its output, and raise unless it exits with a code in ``ok``.

    Args:
        cwd: where it runs; this process's current directory when left out.
        env: variables added to this process's environment. Secrets go here or to ``stdin``, never into ``argv``.
        package: what to install when the tool is not there; becomes the remedy.

    Raises:
        ResourceError: the tool is not installed, or this machine cannot start it.
        ProcessError: it ran and exited with another code.
        ApplianceError: it did not end within ``timeout_s`` seconds.
    """
    args = [str(a) for a in argv]
    path = search_path()
    if shutil.which(args[0], path=path) is None:
        raise ResourceError(f"{args[0]} is not installed", remedy=f"Install it: apt-get install {package or args[0]}")
    try:
        done = subprocess.run(
            args,
            cwd=cwd or surviving_directory(),
            env={**os.environ, "PATH": path, **(env or {})},
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ApplianceError(f"`{args[0]}` did not end within {timeout_s:.0f} s") from None
    except OSError as error:
        raise ResourceError(
            f"cannot start `{args[0]}`: {error.strerror}",
            where=str(error.filename or ""),
            remedy="Raise this user's limits (ulimit -a) or end other programs.",
        ) from error
    if done.returncode not in ok:
        raise ProcessError(args, done.returncode, done.stderr or done.stdout)
    return done
