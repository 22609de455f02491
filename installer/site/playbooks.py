"""Run one of our playbooks through ansible-runner."""

from __future__ import annotations

import os
import signal
import sysconfig
import tempfile
import threading
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from engine import durable
from engine.errors import InputError
from engine.process import surviving_directory
from installer import product
from installer.site import ansiblelist
from installer.site.events import Tracker
from installer.site.inventory import Inventory


@dataclass
class Playbooks:
    """The playbooks of one install: they share variables, a log and what is known of every node.

    Attributes:
        run_dir: gets ``ansible.log`` with the output of all of them, and ansible-runner's own files.
        variables: of the whole site; nothing secret, for they are written to a file.
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
        private = self.run_dir / f"runner-{self._runs}"
        private.mkdir(mode=0o700)
        arguments = [*(["--check"] if self.check else []), *(["--diff"] if self.diff else [])]
        # Connections are shared within this run only; the directory's name is short because a socket's path must be.
        if place := surviving_directory():
            os.chdir(place)  # the runner asks where it is; what the operator gave as a relative path has failed by now
        with tempfile.TemporaryDirectory(prefix="appl-") as connections, interruptible() as interrupted:
            try:
                result = ansible_runner.run(
                    private_data_dir=str(private),
                    playbook=str(playbooks / name),
                    inventory=str(self.inventory.path.resolve()),
                    extravars=dict(self.variables),
                    limit=",".join(nodes),
                    cmdline=" ".join(arguments) or None,
                    envvars={
                        "ANSIBLE_CONFIG": str(playbooks / "ansible.cfg"),
                        "PATH": f"{sysconfig.get_path('scripts')}:{os.environ.get('PATH', '')}",
                        "ANSIBLE_SSH_CONTROL_PATH_DIR": connections,
                        "ANSIBLE_LOCAL_TEMP": f"{connections}/local",  # the home directory may be read-only
                        # ansible-runner turns the check off unless it is named here.
                        "ANSIBLE_HOST_KEY_CHECKING": "True",
                        "PYTHONPATH": str(product.PACKAGE.parent),
                        **ansiblelist.LOCALE,
                        **ansiblelist.not_hosts(self.inventory.path),
                        **self.inventory.vault,
                    },
                    event_handler=self.tracker.handle,
                    cancel_callback=interrupted,
                    quiet=True,
                )
            finally:
                if interrupted():
                    end_left(connections)
        said = Path(result.config.artifact_dir) / "stdout"
        log = self.run_dir / "ansible.log"
        before = log.read_bytes() if log.exists() else b""
        durable.write(log, before + (said.read_bytes() if said.exists() else b""), mode=0o600)
        if result.rc != 0 and not self.tracker.failures:
            lines = log.read_text(errors="replace").strip().splitlines()
            raise InputError(
                f"Ansible stopped before it reached a node: {' '.join(lines[-3:])[-600:]}",
                where=str(log),
                remedy="Mend what it names.",
            )


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
    before = {n: signal.signal(n, lambda _number, _frame: asked.set()) for n in numbers} if main else {}
    try:
        yield asked.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if asked.is_set():
        raise KeyboardInterrupt
