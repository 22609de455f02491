"""Started for each node: join the node's control groups, then become systemd-nspawn.

Runs with the bare interpreter (`python -I -S enter.py CGROUP... -- COMMAND...`), so it imports nothing of this project.
The command line already names the node's directory, so a process is recognised as the lab's before it becomes nspawn.
"""

import os
import sys
from pathlib import Path


def main(argv: list[str]) -> None:
    split = argv.index("--")
    for cgroup in argv[:split]:
        (Path(cgroup) / "cgroup.procs").write_text(str(os.getpid()))
    command = argv[split + 1 :]
    os.execvp(command[0], command)  # noqa: S606 - replacing this process is its purpose


if __name__ == "__main__":
    main(sys.argv[1:])
