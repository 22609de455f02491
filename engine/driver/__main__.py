"""``python -m engine.driver VERB``: JSON on standard output, words on standard error, an exit code."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from engine.driver import modules
from engine.driver.names import GLOBS, KERNEL_IMAGE, OTHER_GLOBS, is_pinned
from engine.driver.plan import Simulation, Want, plan, read_index, read_installed, read_simulation
from engine.driver.state import state
from engine.errors import ApplianceError, InputError
from engine.process import ProcessError, run

APT = (
    "-o", "Dir::Etc::preferences=/dev/null", "-o", "Dir::Etc::preferencesparts=/dev/null",  # pins of the set that is being left
    "--quiet", "--simulate", "--no-install-recommends", "--allow-change-held-packages", "--allow-downgrades", "--ignore-hold",
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    parser = argparse.ArgumentParser(prog="python -m engine.driver", description="NVIDIA's driver on this node.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    look = verbs.add_parser("plan", help="what the node runs, and what the wanted set would change")
    look.add_argument("--repository", type=Path, required=True, help="the bundle's apt repository")
    look.add_argument("--apt-config", required=True, help="apt's configuration that sees it alone")
    look.add_argument("--version", required=True, help="NVIDIA's version")
    look.add_argument("--kernel", required=True, help="what uname -r will say")
    look.add_argument("--package", action="append", default=[], help="of the driver; may be repeated")
    look.add_argument("--support", action="append", default=[], help="what builds modules; may be repeated")
    make = verbs.add_parser("build", help="build the kernel modules of a package aside")
    make.add_argument("--package", type=Path, required=True)
    make.add_argument("--kernel", required=True)
    put = verbs.add_parser("install", help="install what was built")
    put.add_argument("--kernel", required=True)
    verbs.add_parser("state", help="what the node runs")
    asked = parser.parse_args(argv)
    try:
        result = _do(asked)
    except ApplianceError as error:
        sys.stderr.write(f"{error}\n")
        return int(error.exit_code)
    sys.stdout.write(json.dumps(result, sort_keys=True) + "\n")
    return 0


def _do(asked: argparse.Namespace) -> dict[str, Any]:
    match asked.verb:
        case "build":
            return asdict(modules.build(asked.package, asked.kernel))
        case "install":
            return asdict(modules.install(asked.kernel))
        case "state":
            return asdict(state())
    return _plan(asked)


def _plan(asked: argparse.Namespace) -> dict[str, Any]:
    packages = asked.repository / "Packages"
    try:
        index = read_index(packages.read_text())
    except OSError as error:
        raise InputError(
            f"the bundle's package index cannot be read: {error.strerror}",
            where=str(packages),
            remedy="Run the role content first; the whole install does.",
        ) from error
    here = run(["dpkg-query", "--show", "--showformat", "${db:Status-Abbrev}\t${Package}\t${Version}\n"]).stdout
    installed = read_installed(here)
    kernel = (f"linux-image-{asked.kernel}", *([f"linux-headers-{asked.kernel}"] if asked.support else []))
    want = Want(asked.version, asked.kernel, tuple(asked.package), (*kernel, *asked.support))

    def simulate(packages: Sequence[str]) -> Simulation:
        try:
            done = run(["apt-get", *APT, "install", *packages], env={"APT_CONFIG": asked.apt_config, "LC_ALL": "C"})
        except ProcessError as error:
            lines = [x.strip() for x in error.stderr.splitlines() if x.strip()]
            return Simulation(error=" ".join(lines)[-600:])
        return read_simulation(done.stdout)

    made = plan(want, index, installed, simulate)
    return {
        **asdict(made),
        "globs": GLOBS,
        "other_globs": OTHER_GLOBS,
        "files": {n: next(iter(index[n].values())) for n in made.pins},
        "installed": {n: p.version for n, p in installed.items() if n in made.pins},
        "kernel_packages": {n: p.version for n, p in installed.items() if KERNEL_IMAGE.fullmatch(n)},
        "held": [n for n, p in installed.items() if p.held and is_pinned(n)],
        "state": asdict(state()),
    }


if __name__ == "__main__":
    sys.exit(main())
