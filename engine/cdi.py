"""`appliance-engine cdi`: the description of GPUs that containers are given (CDI), kept true to the driver and the devices.

NVIDIA's own unit (nvidia-cdi-refresh) writes it late at boot and after an update of the driver, not after MIG was changed and
not when the kernel gave devices other numbers. A container that starts from an old description gets devices that are not
there, or another's. So this runs before every start of a container with a GPU: it compares what nvidia-smi and /dev say with
what they said when the description was made, and makes it anew when they differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import stat
import sys
from dataclasses import dataclass
from pathlib import Path

from engine import durable
from engine.errors import InputError, ResourceError
from engine.process import ProcessError, run

SPEC = Path("/var/run/cdi/nvidia.yaml")  # where NVIDIA's unit writes, too: two files would describe every device twice
SEEN = Path("/var/lib/appliance/cdi.json")
LIMIT = 16 << 20  # bytes of a description; 8 GPUs with all MIG instances are a few hundred kB
TIMEOUT_S = 120  # a driver that just loaded answers slowly
KIND = "nvidia.com/gpu="


@dataclass(frozen=True)
class State:
    """``stale`` says why the description cannot be used; empty when it can."""

    stale: str
    devices: tuple[str, ...] = ()


def facts(devices: Path = Path("/dev")) -> str:
    """What a description depends on, as one digest: driver, GPUs, MIG instances, numbers of device files.

    Raises:
        ResourceError: the driver does not answer.
    """
    try:
        driver = run(["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], timeout_s=TIMEOUT_S).stdout
        gpus = run(["nvidia-smi", "-L"], timeout_s=TIMEOUT_S).stdout  # names MIG instances below their GPUs
    except (ProcessError, ResourceError) as error:
        raise ResourceError(
            f"the driver does not answer: {error.what}",
            where="nvidia-smi",
            remedy="Load the driver (nvidia-smi must list the GPUs), then run the same command again.",
        ) from error
    numbers = []
    for path in sorted((*devices.glob("nvidia*"), *devices.glob("nvidia-caps/*"))):
        status = path.lstat()
        if stat.S_ISCHR(status.st_mode):
            numbers.append(f"{path.relative_to(devices)} {os.major(status.st_rdev)}:{os.minor(status.st_rdev)}")
    return hashlib.sha256("\n".join([driver, gpus, *numbers]).encode()).hexdigest()


def check(spec: Path, seen: Path, now: str, wanted: tuple[str, ...]) -> State:
    """Compare the description with ``now``, the digest of ``facts``.

    Args:
        wanted: devices that must be described, ``nvidia.com/gpu=0`` for instance.
    """
    try:
        with spec.open("rb") as file:
            data = file.read(LIMIT + 1)
    except OSError as error:
        return State(f"there is no description: {error.strerror}")
    try:
        before = json.loads(seen.read_bytes()[:LIMIT])
        made_of, sha256 = str(before["facts"]), str(before["sha256"])
    except (OSError, ValueError, KeyError, TypeError):
        return State("nobody knows for which driver and devices the description was made")
    if made_of != now:
        return State("driver, GPUs, MIG instances or device numbers have changed since it was made")
    if hashlib.sha256(data).hexdigest() != sha256:
        return State("somebody else has written the description")
    have = described()
    lacking = [d for d in wanted if d not in have]
    return State(f"it lacks {', '.join(lacking)}" if lacking else "", have)


def described() -> tuple[str, ...]:
    """The devices that containers may name now."""
    listed = run(["nvidia-ctk", "cdi", "list"], timeout_s=TIMEOUT_S, package="nvidia-container-toolkit-base").stdout
    return tuple(word for word in listed.split() if word.startswith(KIND))


def refresh(spec: Path, seen: Path, wanted: tuple[str, ...], *, dry_run: bool = False) -> tuple[State, bool]:
    """Make the description anew if it is stale; returns what is there now, and whether anything changed.

    Raises:
        ResourceError: the driver or NVIDIA's toolkit does not answer.
        InputError: a wanted device does not exist even in a fresh description.
    """
    now = facts()
    state = check(spec, seen, now, wanted)
    if not state.stale or dry_run:
        return state, bool(state.stale)
    spec.parent.mkdir(parents=True, exist_ok=True)
    run(
        ["nvidia-ctk", "cdi", "generate", f"--output={spec}"],
        timeout_s=TIMEOUT_S,
        package="nvidia-container-toolkit-base",
    )
    sha256 = hashlib.sha256(spec.read_bytes()).hexdigest()
    durable.write(seen, json.dumps({"facts": now, "sha256": sha256}) + "\n")
    after = check(spec, seen, facts(), wanted)
    if after.stale:
        raise InputError(
            f"the description of the GPUs cannot be used although it is fresh: {after.stale}",
            where=str(spec),
            remedy="Compare the container's devices with `nvidia-ctk cdi list` and `nvidia-smi -L`.",
        )
    return after, True


def main(argv: list[str]) -> int:
    """`appliance-engine cdi`: prints one JSON document; `check` ends with 1 when the description is stale."""
    parser = argparse.ArgumentParser(
        prog="appliance-engine cdi",
        description="Keep the description of GPUs for containers (CDI) true to the driver and the devices.",
        epilog="example: appliance-engine cdi refresh --device nvidia.com/gpu=0",
    )
    parser.add_argument("action", choices=["check", "refresh"])
    parser.add_argument(
        "--device", action="append", default=[], help="a device that must be described; may be repeated"
    )
    parser.add_argument("--spec", type=Path, default=SPEC)
    parser.add_argument("--seen", type=Path, default=SEEN, help="where it is kept what the description was made for")
    parser.add_argument("--dry-run", action="store_true", help="say what would change")
    options = parser.parse_args(argv)
    wanted = tuple(options.device)
    if options.action == "check":
        state, changed = check(options.spec, options.seen, facts(), wanted), False
    else:
        state, changed = refresh(options.spec, options.seen, wanted, dry_run=options.dry_run)
    sys.stdout.write(json.dumps({"changed": changed, "stale": state.stale, "devices": state.devices}) + "\n")
    return 1 if options.action == "check" and state.stale else 0
