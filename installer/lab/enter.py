"""Started for each node: join the node's control groups, then run systemd-nspawn, again whenever the node reboots.

Runs with the bare interpreter (`python -I -S enter.py CGROUP... -- COMMAND...`), so it imports nothing of this project.
"""

import subprocess
import sys
from pathlib import Path

REBOOTED = 133  # how systemd-nspawn ends with --keep-unit when the machine inside asked for a reboot


def main(argv: list[str]) -> int:
    """Exit with the code of systemd-nspawn once the node is down for good."""
    split = argv.index("--")
    for cgroup in argv[:split]:
        (Path(cgroup) / "cgroup.procs").write_text("0")  # 0 is the writer
    while (code := subprocess.call(argv[split + 1 :])) == REBOOTED:
        pass
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
