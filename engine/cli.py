"""`appliance-engine`: what Ansible and units call on a node. Each verb is a module with its own ``main``."""

from __future__ import annotations

import importlib
import json
import signal
import sys
from contextlib import nullcontext
from typing import NoReturn

from engine import interruption, outlet, refusals
from engine.errors import ApplianceError, Exit

# Loaded on use: a verb that needs only the standard library must not wait for the others' imports.
VERBS = {
    "verify": ("engine.verify_cli", "check a bundle against a pinned root of trust"),
    "fetch": ("engine.fetch", "bring verified content from the depot"),
    "store": ("engine.store.cli", "verify the content that this node holds"),
    "images": ("engine.images", "load the bundle's container images into podman"),
    "cdi": ("engine.cdi", "keep the description of GPUs for containers true"),
    "relay": ("engine.relay", "serve what this node has of a release to its neighbours"),
    "keys": ("engine.keys", "make the node's key and certificate request"),
    "firewall": ("engine.firewall_cli", "apply, confirm, roll back or show the firewall"),
    "baseline": ("engine.baseline.cli", "compare the node with its hardening baseline"),
    "egress": ("engine.egress", "try to get out and prove that it is refused"),
    "probe": ("engine.probe", "ask a served model for one token"),
    "generation": ("engine.generation.cli", "keep, compare and switch what releases wrote on this node"),
    "why": ("engine.why", "say why a served model does not run"),
    "diagnose": ("engine.diagnose", "keep what this node knows about its own trouble"),
    "gate": ("engine.gate", "measure served models, and compare with an earlier measurement"),
    "sshd": ("engine.sshguard", "change sshd, to be confirmed or taken back"),
    "devices": ("engine.gpu.cli", "make the device files of the GPUs"),
    "nvml": ("engine.nvml_record", "show what NVML says of the GPUs, or record it"),
    "placement": ("engine.placement.cli", "decide which GPUs and CPUs each served model gets"),
}

# What works once and makes temporary files. Servers and timers have handlers of their own, or nothing to clean up.
ENDS_IN_ORDER = ("verify", "fetch", "images", "diagnose")
CODES = {signal.SIGHUP: Exit.HANGUP, signal.SIGTERM: Exit.TERMINATED}


def main() -> None:
    """Run a verb; a failure ends as one JSON document on standard error and an exit code."""
    if len(sys.argv) < 2 or sys.argv[1] not in VERBS:
        lines = "".join(f"  {verb:<11}{about}\n" for verb, (_, about) in VERBS.items())
        outlet.tell(f"usage: appliance-engine VERB …\n{lines}")
        sys.exit(0 if sys.argv[1:] in (["--help"], ["-h"]) else Exit.USAGE)
    module, _ = VERBS[sys.argv[1]]
    with interruption.heeded() if sys.argv[1] in ENDS_IN_ORDER else nullcontext():
        try:
            sys.exit(importlib.import_module(module).main(sys.argv[2:]))
        except KeyboardInterrupt:
            _stopped()
        except ApplianceError as error:
            if interruption.received():  # told by whoever waited for a process that was ended
                _stopped()
            _fail(error)
        except OSError as error:
            if (found := refusals.explained(error)) is None:
                raise  # a fault of the program
            _fail(found)


def _stopped() -> NoReturn:
    number = interruption.received() or signal.SIGINT
    error = ApplianceError(f"ended by {signal.Signals(number).name}", remedy="Run the same command again.")
    error.exit_code = CODES.get(signal.Signals(number), Exit.INTERRUPTED)
    _fail(error)


def _fail(error: ApplianceError) -> NoReturn:
    body = {"what": error.what, "where": error.where, "remedy": error.remedy}
    outlet.tell(json.dumps({"error": body}) + "\n")
    sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
