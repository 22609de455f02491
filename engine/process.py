"""One way to run a process."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from engine import bounds as bounded
from engine.bounds import Bounds
from engine.errors import ApplianceError, ResourceError

# Of the caller's variables, all that a tool with a fixed environment sees: where it may write and whose files are read.
KEPT = ("HOME", "USER", "LOGNAME", "TMPDIR", "XDG_CACHE_HOME", "XDG_RUNTIME_DIR")
FIXED = {"LC_ALL": "C.UTF-8", "TZ": "UTC"}
# What puts code into any program or changes how a tool works without a word on its command line. No child sees these,
# unless the caller of `run` names them.
BENDING = ("LD_", "PYTHON", "PERL5", "BASH_FUNC_", "GIT_", "PIP_", "UV_")
BENDING_NAMES = frozenset({"BASH_ENV", "ENV", "IFS", "CDPATH", "GCONV_PATH"})


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
    return shutil.which(tool, path=search_path(os.environ))


def search_path(environ: Mapping[str, str]) -> str:
    """PATH with the places of tools for administrators, which are not on the path of every session."""
    return f"{environ.get('PATH', os.defpath)}:/usr/local/sbin:/usr/sbin:/sbin"


def fixed(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of tools whose result is content: a list of what they see, so that no other variable has a say."""
    given = os.environ if environ is None else environ
    return {"PATH": search_path(given), **FIXED, **{name: given[name] for name in KEPT if name in given}}


def inherited(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The caller's environment for tools that act for a person (ssh and its agent, Ansible), without what bends programs."""
    given = os.environ if environ is None else environ
    kept = {k: v for k, v in given.items() if not k.startswith(BENDING) and k not in BENDING_NAMES}
    return {**kept, "PATH": search_path(given)}


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
    inherit: bool = True,
    stdin: str | None = None,
    ok: Sequence[int] = (0,),
    timeout_s: float | None = None,
    package: str = "",
    bounds: Bounds | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``argv`` without a shell, capture its output, and raise unless it exits with a code in ``ok``.

    Args:
        cwd: where it runs; this process's current directory when left out.
        env: variables added to the environment. Secrets go here or to ``stdin``, never into ``argv``.
        inherit: start from this process's environment (`inherited`); otherwise from the same one everywhere (`fixed`).
        package: what to install when the tool is not there; becomes the remedy.
        bounds: what it may use, for tools that read what others made; ``timeout_s`` has no meaning then.

    Raises:
        ResourceError: the tool is not installed, or this machine cannot start it.
        BoundsError: it went beyond ``bounds``.
        ProcessError: it ran and exited with another code.
        ApplianceError: it did not end within ``timeout_s`` seconds.
    """
    args = [str(a) for a in argv]
    environment = {**(inherited() if inherit else fixed()), **(env or {})}
    if shutil.which(args[0], path=environment["PATH"]) is None:
        raise ResourceError(f"{args[0]} is not installed", remedy=f"Install it: apt-get install {package or args[0]}")
    try:
        if bounds is not None:
            ended = bounded.call(args, environment, bounds, cwd=cwd or surviving_directory(), stdin=stdin)
            return _allowed(subprocess.CompletedProcess(args, ended.code, ended.stdout, ended.stderr), ok)
        done = subprocess.run(
            args,
            cwd=cwd or surviving_directory(),
            env=environment,
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
    except FileNotFoundError as error:
        raise _missing(error, args[0], cwd) from error
    except OSError as error:
        raise ResourceError(
            f"cannot start `{args[0]}`: {error.strerror}",
            where=str(error.filename or ""),
            remedy="Raise this user's limits (ulimit -a) or end other programs.",
        ) from error
    return _allowed(done, ok)


def _missing(error: FileNotFoundError, tool: str, cwd: Path | None) -> ResourceError:
    """A file that the start needs is not there: one that sets bounds, the directory to run in, or the interpreter of a script."""
    missing = str(error.filename or "")
    if missing in bounded.TOOLS:
        return ResourceError(f"{missing} is not installed", remedy="Install it: apt-get install util-linux")
    if cwd is not None and missing == str(cwd):
        return ResourceError(
            f"cannot start `{tool}`: the directory to run it in is not there", where=missing, remedy="Create it."
        )
    return ResourceError(
        f"cannot start `{tool}`: it, or the interpreter that its first line names, is not there", where=missing,
        remedy="Install it again.",
    )  # fmt: skip


def _allowed(done: subprocess.CompletedProcess[str], ok: Sequence[int]) -> subprocess.CompletedProcess[str]:
    if done.returncode not in ok:
        raise ProcessError(done.args, done.returncode, done.stderr or done.stdout)
    return done
