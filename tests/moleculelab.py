"""Boot a scenario's lab, or take it down: one process, where a playbook's modules would start a dozen.

python -m tests.moleculelab up NAME PLATFORM … --release R --bind-ro SRC:DST … --known-hosts FILE --instances FILE
python -m tests.moleculelab down NAME --known-hosts FILE --instances FILE
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from engine import durable
from engine.errors import ApplianceError
from installer.lab.lab import Lab, down, up


def instances(lab: Lab, platforms: list[str]) -> str:
    """Molecule's instance_config: which node is which platform, in their order, and how to log in."""
    return json.dumps(
        [
            {"instance": platform, "address": node.address, "user": "root", "port": 22, "identity_file": str(lab.key)}
            for platform, node in zip(platforms, lab.nodes, strict=True)
        ],
        indent=1,
    )


def main() -> int:
    """Returns the exit code of the error's kind, 0 without one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=["up", "down"])
    parser.add_argument("name")
    parser.add_argument("platforms", nargs="*")
    parser.add_argument("--release", default="bookworm")
    parser.add_argument("--bind-ro", action="append", default=[])
    parser.add_argument("--known-hosts", type=Path, required=True)
    parser.add_argument("--instances", type=Path, required=True)
    args = parser.parse_args()
    try:
        # What an earlier, broken run left goes as well.
        if down(args.name):
            print(f"{args.name} is down")
        if args.verb == "down":
            args.known_hosts.unlink(missing_ok=True)
            durable.write(args.instances, "[]\n")
            return 0
        lab = up(args.name, nodes=len(args.platforms), release=args.release, bind_ro=args.bind_ro)
    except ApplianceError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    durable.write(args.known_hosts, lab.known_hosts.read_text())
    durable.write(args.instances, instances(lab, args.platforms))
    return 0


if __name__ == "__main__":
    sys.exit(main())
