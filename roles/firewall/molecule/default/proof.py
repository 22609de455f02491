"""The continuous proof on a real node, through its own units: what it finds, what it mends, and that its evidence holds.

Prints one JSON document; an assertion says what was wrong.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

STATE = Path("/var/lib/appliance/egress")
METRICS = Path("/var/lib/appliance/metrics/egress.prom")
ENGINE = [sys.executable, "-m", "engine.egress"]


def sh(*argv: str, ok: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode in ok, (argv, done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def records() -> list[dict[str, Any]]:
    return [json.loads(line) for path in sorted((STATE / "log").iterdir()) for line in path.read_text().splitlines()]


def prove(*, good: bool) -> dict[str, Any]:
    """Run the unit, as the timer does, and return its record."""
    before = len(records())
    sh("systemctl", "start", "appliance-egress-proof.service", ok=(0,) if good else (1,))
    sh("systemctl", "reset-failed", "appliance-egress-proof.service", ok=(0, 1))
    made = [r for r in records()[before:] if r["kind"] == "proof"]
    assert len(made) == 1, made
    assert made[0]["good"] is good, made[0]
    return made[0]


def metric(name: str) -> float:
    lines = [line for line in METRICS.read_text().splitlines() if line.startswith(f"appliance_egress_{name} ")]
    assert len(lines) == 1, (name, lines)
    return float(lines[0].split()[1])


def sound() -> bool:
    done = subprocess.run([*ENGINE, "verify"], capture_output=True, text=True, check=False)
    assert done.returncode in (0, 3), done.stderr
    return done.returncode == 0


def main() -> None:
    said: dict[str, Any] = {}
    begin = time.time()
    good = prove(good=True)
    kinds = good["attempts"]
    assert set(kinds) == {"tcp", "udp", "icmp", "frame"}, kinds
    assert all(k["tried"] == k["denied"] and k["counted"] >= k["sent"] > 0 for k in kinds.values()), kinds
    assert (metric("denied"), metric("rules_as_recorded"), metric("evidence_written")) == (1, 1, 1)
    assert int(begin) <= metric("last_proof_timestamp_seconds") <= time.time() + 1
    assert oct(METRICS.stat().st_mode)[-3:] == "644"
    said["good"] = {k: v["counted"] for k, v in kinds.items()}

    # What an intruder or a mistake may do to the rules; each is found, told and mended.
    for name, command, words in (
        ("flush", ["flush", "ruleset"], "are not loaded"),
        ("second door", ["delete", "table", "netdev", "appliance"], "the table netdev appliance is not loaded"),
        ("first door", ["delete", "table", "inet", "appliance"], "the table inet appliance is not loaded"),
        ("edit", ["insert", "rule", "inet", "appliance", "output", "accept"], "not the ones that were loaded"),
    ):
        sh("nft", *command)
        bad = prove(good=False)
        assert any(words in fault for fault in bad["faults"]), (name, bad["faults"])
        assert bad["rules"]["restored"] is True, (name, bad)
        assert (metric("denied"), metric("rules_as_recorded"), metric("rules_restored")) == (0, 0, 1), name
        assert bad["attempts"], name  # after the rules were put back, so that the record says whether that helped
        assert all(k["denied"] == k["tried"] for k in bad["attempts"].values()), (name, bad)
        assert records()[-1]["kind"] == "seal", name
        told = sh("journalctl", "--unit=appliance-egress-proof.service", "--output=cat", "--no-pager", "--lines=30")
        assert words in told, (name, told)
        assert json.loads((STATE / "head.json").read_text())["hash"] in told, (name, told)
        said[name] = bad["faults"]
    # Each of these proofs saw nothing get out once the rules were back; one after the last has nothing left to find.
    prove(good=True)
    assert (metric("denied"), metric("rules_restored")) == (1, 0)

    # A policy that lets raw frames out is not shut, however it was confirmed.
    assert sound()
    tamper(said)

    # Nobody but root may ask for raw packets, and the helper sends what is its own only.
    assert oct(Path("/run/appliance-egress-raw.sock").stat().st_mode)[-3:] == "600"
    with socket.socket(socket.AF_UNIX) as line:
        line.connect("/run/appliance-egress-raw.sock")
        line.sendall(b'{"kind": "frame", "target": "192.0.2.1", "interface": "host0; reboot"}\n')
        assert line.recv(100) == b""
    said["key"] = json.loads(sh(*ENGINE, "key"))["key"]
    print(json.dumps(said))


def tamper(said: dict[str, Any]) -> None:
    """Every change of the evidence is located, and taking it back makes it sound again."""
    path = sorted((STATE / "log").iterdir())[-1]
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    middle = len(lines) // 2
    changes = {
        "edit": b"".join(lines).replace(b'"good":false', b'"good":true', 1),
        "delete": b"".join([*lines[:middle], *lines[middle + 1 :]]),
        "reorder": b"".join([*lines[:middle], lines[middle + 1], lines[middle], *lines[middle + 2 :]]),
        "truncate": b"".join(lines[:-1]),
        "replay": b"".join([*lines, lines[-1]]),
    }
    for name, changed in changes.items():
        assert changed != whole, name
        path.write_bytes(changed)
        done = subprocess.run([*ENGINE, "verify"], capture_output=True, text=True, check=False)
        assert done.returncode == 3, (name, done.stdout)
        said[f"evidence {name}"] = done.stderr.strip().splitlines()[0]
    path.write_bytes(whole)
    assert sound()
    kept = STATE.with_name("egress-kept")
    shutil.copytree(STATE, kept)
    prove(good=True)
    shutil.rmtree(STATE / "log")
    shutil.copytree(kept / "log", STATE / "log")  # an older state, but the head is the newer one
    assert not sound()
    os.replace(STATE / "head.json", kept / "newer")
    shutil.copy(kept / "head.json", STATE / "head.json")
    assert sound()  # put back whole, only who saw a later record can tell: the control host
    shutil.rmtree(kept)


if __name__ == "__main__":
    main()
