"""Run a playbook through ansible-runner.

Ansible gets a fixed environment, and the directory of the run keeps nothing but the log: ansible-runner's own files have the whole
environment of its process, all variables and every module's arguments and results, and go when the playbook has ended.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import sysconfig
import tempfile
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine import durable, interruption
from engine.errors import InputError
from engine.process import KEPT, search_path, surviving_directory
from installer import product
from installer.site import ansiblelist
from installer.site.events import Tracker
from installer.site.inventory import Inventory

# Beside where it may write and whose files are read (engine.process.KEPT): the SSH agent, Kerberos, GnuPG for a vault's password.
PASSED = ("GNUPGHOME", "KRB5CCNAME", "SSH_AUTH_SOCK", "TERM")
# lookup('env', 'NAME', …) and query with it, also by the plug-in's long name.
LOOKUP = re.compile(r"""(?:lookup|query|q)\(\s*['"](?:ansible\.builtin\.)?env['"]\s*,([^)]*)\)""")
NAME = re.compile(r"""['"]([A-Za-z_][A-Za-z0-9_]*)['"]""")
MAX_FILES, MAX_TEXT = 10_000, 16 << 20
# What ansible-runner takes from the environment for its own settings, and what it adds.
MERGED = ("ANSIBLE_CALLBACK_PLUGINS", "ANSIBLE_STDOUT_CALLBACK", "AWX_LIB_DIRECTORY")
ADDED = frozenset({
    "ANSIBLE_CALLBACK_PLUGINS", "ANSIBLE_STDOUT_CALLBACK", "ANSIBLE_RETRY_FILES_ENABLED", "ANSIBLE_CACHE_PLUGIN",
    "ANSIBLE_CACHE_PLUGIN_CONNECTION", "AWX_ISOLATED_DATA_DIR", "RUNNER_OMIT_EVENTS", "RUNNER_ONLY_FAILED_EVENTS",
})  # fmt: skip


@dataclass
class Playbooks:
    """The playbooks of one install: they share variables, a log and what is known of every node.

    Attributes:
        run_dir: gets ``ansible.log`` with the output of all of them; while one runs also ansible-runner's own files.
        variables: of the whole site; for the time of a playbook they are in a file that only this user can read.
    """

    inventory: Inventory
    run_dir: Path
    variables: Mapping[str, Any]
    tracker: Tracker
    check: bool = False
    diff: bool = False
    _runs: int = field(default=0, init=False)

    def run(self, name: str, nodes: Collection[str]) -> None:
        """One playbook over some nodes. What became of them is in the tracker.

        Raises:
            InputError: Ansible did not even begin.
            KeyboardInterrupt: somebody interrupted it; Ansible has ended.
        """
        import ansible_runner  # noqa: PLC0415  slow to import; --help and completion must not wait for it

        playbooks = product.data("playbooks")
        self._runs += 1
        remove_left(self.run_dir.parent)
        private = self.run_dir / f"runner-{self._runs}"
        private.mkdir(mode=0o700)
        playbook_environment = {
            **passed(os.environ, looked_up(self.inventory.path)),
            **dict.fromkeys(MERGED, ""),
            "ANSIBLE_CONFIG": str(playbooks / "ansible.cfg"),
            # ansible-runner turns the check off unless it is named here.
            "ANSIBLE_HOST_KEY_CHECKING": "True",
            "PYTHONPATH": str(product.PACKAGE.parent),
            **ansiblelist.LOCALE,
            **ansiblelist.not_hosts(self.inventory.path),
            **self.inventory.vault,
        }
        arguments = [*(["--check"] if self.check else []), *(["--diff"] if self.diff else [])]
        # Connections are shared within this run only; the directory's name is short because a socket's path must be.
        if place := surviving_directory():
            os.chdir(place)  # the runner asks where it is; what the operator gave as a relative path has failed by now
        with tempfile.TemporaryDirectory(prefix="appl-") as connections, interruptible() as interrupted:
            # The home directory may be read-only.
            own = {"ANSIBLE_SSH_CONTROL_PATH_DIR": connections, "ANSIBLE_LOCAL_TEMP": f"{connections}/local"}
            environment = playbook_environment | own
            try:
                runner = ansible_runner.interface.init_runner(
                    private_data_dir=str(private),
                    playbook=str(playbooks / name),
                    inventory=str(self.inventory.path.resolve()),
                    extravars=dict(self.variables),
                    limit=",".join(nodes),
                    cmdline=" ".join(arguments) or None,
                    envvars=dict(environment),
                    event_handler=self.tracker.handle,
                    cancel_callback=interrupted,
                    quiet=True,
                )
                runner.config.env = without_others(runner.config.env, environment)
                runner.run()
            finally:
                if interrupted():
                    end_left(connections)
                log = self._keep_log(private)
                shutil.rmtree(private, ignore_errors=True)
        if runner.rc != 0 and not self.tracker.failures:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise InputError(
                f"Ansible stopped before it reached a node: {' '.join(lines[-3:])[-600:]}",
                where=str(log),
                remedy="Correct what it names.",
            )

    def _keep_log(self, private: Path) -> Path:
        """What Ansible said, after what it said before, without values of environment variables."""
        log = self.run_dir / "ansible.log"
        before = log.read_text(errors="replace") if log.exists() else ""
        said = "".join(p.read_text(errors="replace") for p in sorted(private.glob("artifacts/*/stdout")))
        durable.write(log, before + self.inventory.conceal(said), mode=0o600)
        return log


def passed(environ: Mapping[str, str], named: Iterable[str] = ()) -> dict[str, str]:
    """What Ansible gets of this process's environment; docs/inventory.md lists it. Tokens of clouds and hubs are not among it.

    Args:
        named: variables that the inventory itself looks up.
    """
    path = f"{sysconfig.get_path('scripts')}:{search_path(environ)}"
    return {**{n: environ[n] for n in (*KEPT, *PASSED, *named) if n in environ}, "PATH": path}


def looked_up(inventory: Path) -> list[str]:
    """Names of environment variables that the files of an inventory look up with Ansible's plug-in ``env``, sorted."""
    files = [inventory] if inventory.is_file() else sorted(p for p in inventory.rglob("*") if p.is_file())
    found: set[str] = set()
    for file in files[:MAX_FILES]:
        with suppress(OSError), file.open("rb") as opened:
            text = opened.read(MAX_TEXT).decode("utf-8", "replace")
            # A quote within quotes is written twice in YAML, or after a backslash.
            for names in LOOKUP.findall(text + "\n" + text.replace("''", "'").replace('\\"', '"')):
                found.update(NAME.findall(names))
    return sorted(found)


def without_others(made: Mapping[str, str], given: Mapping[str, str]) -> dict[str, str]:
    """The environment that ansible-runner made, which begins with all of this process's, without what it was not given and did not add."""
    return {k: v for k, v in made.items() if v and (k in given or k in ADDED)}


def remove_left(runs: Path) -> None:
    """Remove ansible-runner's files of runs that were killed, and those that earlier versions kept. Only one run goes on at a time."""
    for left in runs.glob("*/runner-*"):
        shutil.rmtree(left, ignore_errors=True)


def end_left(connections: str) -> None:
    """End what an interrupted Ansible left: every process that has this run's directory of connections in its environment.

    ansible-runner kills one group of processes. Ansible's workers are in sessions of their own, and wait for ever for one who reads.
    """
    mark = f"ANSIBLE_SSH_CONTROL_PATH_DIR={connections}".encode()
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            if int(place.name) != os.getpid() and mark in (place / "environ").read_bytes().split(b"\0"):
                os.kill(int(place.name), signal.SIGKILL)


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """An interruption ends Ansible first and then this block. (ansible-runner's own handlers stay in force after it and would
    swallow every later one.)

    Raises:
        KeyboardInterrupt: at the end of the block, when there was one.
    """
    asked = threading.Event()
    # What is ignored stays so: somebody said nohup.
    numbers = [n for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP) if signal.getsignal(n) != signal.SIG_IGN]
    main = threading.current_thread() is threading.main_thread()  # no other thread may set handlers

    def ask(number: int, _frame: object) -> None:
        interruption.note(number)
        asked.set()

    before = {n: signal.signal(n, ask) for n in numbers} if main else {}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked.is_set():
        raise KeyboardInterrupt
