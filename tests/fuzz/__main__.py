"""`./run fuzz`: every target under atheris (coverage-guided, libFuzzer below), one process each, one JSON line each."""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

CORPUS = Path(".cache/fuzz")
LIMIT_MB = 2048  # resident memory of a target, libFuzzer and Python included
HANG_S = 10  # one input


def child(name: str, options: list[str]) -> None:
    """Run one target; does not return: libFuzzer ends the process."""
    import atheris

    with atheris.instrument_imports(include=["engine", "installer", "tuf"]):
        from tests.fuzz.all import TARGETS
    for i, seed in enumerate(TARGETS[name].seeds()):
        (CORPUS / name / f"seed-{i}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *options], TARGETS[name].run)
    atheris.Fuzz()


def drive(name: str, seconds: int) -> dict[str, str | int]:
    """Run a target in a process of its own and read libFuzzer's account of it."""
    corpus = CORPUS / name
    corpus.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="appliance-fuzz-run-") as scratch:
        options = [
            f"-max_total_time={seconds}", f"-rss_limit_mb={LIMIT_MB}", f"-timeout={HANG_S}", "-print_final_stats=1",
            f"-artifact_prefix={corpus.resolve()}/finding-", "-max_len=65536", str(corpus),
        ]  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz", "--child", name, *options],
            env={"TMPDIR": scratch, "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
    log = done.stderr + done.stdout
    (CORPUS / f"{name}.log").write_text(log)
    stats = dict(re.findall(r"stat::(\w+):\s+(\d+)", log))
    features = re.findall(r"\bft: (\d+)", log)
    finding = re.search(r"Uncaught Python exception: ===\n(.*)", log) or re.search(r"ERROR: libFuzzer: (.*)", log)
    return {
        "target": name, "engine": "atheris", "executions": int(stats.get("number_of_executed_units", 0)),
        "features": int(features[-1]) if features else 0, "peak_rss_mib": int(stats.get("peak_rss_mb", 0)),
        "findings": 0 if done.returncode == 0 else 1,
        "first": "" if done.returncode == 0 else finding[1] if finding else log[-200:],
    }  # fmt: skip


def main() -> int:
    if sys.argv[1:2] == ["--child"]:
        child(sys.argv[2], sys.argv[3:])
    parser = argparse.ArgumentParser(prog="./run fuzz", description="Fuzz what reads hostile input.")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    options = parser.parse_args()
    from tests.fuzz.all import TARGETS

    if unknown := set(options.targets) - set(TARGETS):
        parser.error(f"no target {sorted(unknown)[0]}; there are {', '.join(TARGETS)}")
    rows = []
    for name in options.targets or TARGETS:
        rows.append(drive(name, options.seconds))
        print(json.dumps(rows[-1]), flush=True)
    return 1 if any(r["findings"] for r in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
