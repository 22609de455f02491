"""How fast a bundle is verified: against the hash itself, and against the tools that everybody has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from engine.verify import verify
from tests.bench import trees
from tests.bench.measure import Claim, Pair, Run, call, command, forget, seconds
from tests.bundles import Bundle

GIB = 1 << 30
SMALL, LARGE, BYTES = 20_000, 200, 200 << 20  # the same bytes in many files and in few
CLAIMS = (
    Claim("verify-throughput", "bytes/s", "openssl speed -evp sha256 -bytes 1048576 -multi CORES", 0.90, higher=True),
    Claim("verify-2GiB", "s", "sha256sum -c", 0.12),
    Claim("verify-2GiB-against-model-signing", "s", "model_signing verify", 0.65),
    Claim("verify-8GB", "s", "sha256sum -c", 0.12),
    Claim("verify-cold", "s", "dd of the same bytes to /dev/null", 1.05),
    Claim("verify-small-files", "s", "200 files of the same bytes x 1.3 + 0.1 ms a file", 1.0),
    Claim("verify-memory-4GiB", "bytes", "the same with a file of 1 GiB", 1.05),
)
OF_2GIB = ("verify-throughput", "verify-2GiB", "verify-2GiB-against-model-signing", "verify-cold")
# Tools of the tests bring boto3 and python-pkcs11, and securesystemslib imports them where they are: 0.15 s that no user
# waits for who verifies with the product alone.
PROGRAM = "import sys; sys.modules.update(boto3=None, pkcs11=None); from installer.cli.main import main; main()"


def pairs(work: Path, only: str) -> Iterator[Pair]:
    """Files are in the page cache unless a name says cold."""
    if any(only in name for name in OF_2GIB):
        weights = trees.bundle(work / "weights", 4, GIB // 2)
        ours = _command(weights, work)
        if only in "verify-throughput":
            yield Pair("verify-throughput", lambda: 2 * GIB / _verify(weights)(), _openssl)
        if only in "verify-2GiB":
            yield Pair("verify-2GiB", ours, _sha256sum(weights, work / "2GiB.sums"))
        if only in "verify-2GiB-against-model-signing":
            yield Pair("verify-2GiB-against-model-signing", ours, _model_signing(weights, work))
        if only in "verify-cold":
            yield Pair("verify-cold", _cold(weights, _verify(weights)), _cold(weights, _dd(weights)))
        shutil.rmtree(work / "weights")
    if only in "verify-8GB":
        large = trees.bundle(work / "8GB", 16, 500_000_000)
        yield Pair("verify-8GB", _command(large, work), _sha256sum(large, work / "8GB.sums"), rounds=3)
        shutil.rmtree(work / "8GB")
    if only in "verify-small-files":
        small, few = (
            trees.bundle(work / "small", SMALL, BYTES // SMALL),
            trees.bundle(work / "few", LARGE, BYTES // LARGE),
        )
        yield Pair("verify-small-files", _verify(small), lambda: 1.3 * _verify(few)() + 0.0001 * SMALL)
    if only in "verify-memory-4GiB":
        one, four = trees.bundle(work / "1GiB", 1, GIB), trees.bundle(work / "4GiB", 1, 4 * GIB)
        yield Pair("verify-memory-4GiB", lambda: _peak(four, work), lambda: _peak(one, work), rounds=3)


def _verify(bundle: Bundle) -> Run:
    """The verification itself, without a program's start."""

    def run() -> None:
        if not verify(bundle.path, bundle.root).good:
            raise SystemExit(f"bench: {bundle.path} does not verify")

    return seconds(run)


def _argv(bundle: Bundle, work: Path) -> list[str]:
    root = trees.root(bundle, bundle.path.parent)
    return [sys.executable, "-c", PROGRAM, "verify", str(bundle.path), "--root", str(root), "--quiet"]


def _command(bundle: Bundle, work: Path) -> Run:
    return command(*_argv(bundle, work))


def _peak(bundle: Bundle, work: Path) -> float:
    """Peak resident memory of the command, in bytes."""
    child = subprocess.Popen(_argv(bundle, work), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"bench: {bundle.path} does not verify")
    return usage.ru_maxrss * 1024.0


def _sha256sum(bundle: Bundle, sums: Path) -> Run:
    made = subprocess.run(["sha256sum", *map(str, trees.content(bundle))], capture_output=True, check=True)
    sums.write_bytes(made.stdout)
    return command("sha256sum", "-c", "--quiet", sums)


def _model_signing(bundle: Bundle, work: Path) -> Run:
    """OpenSSF's signer of models with a key pair of its own, over the same files."""
    program = Path(sysconfig.get_path("scripts")) / "model_signing"
    private, public, signature = work / "key.pem", work / "key.pub", work / "model.sig"
    key = ec.generate_private_key(ec.SECP256R1())
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    public.write_bytes(
        key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    model = bundle.path / "content"
    call([program, "sign", "key", model, "--signature", signature, "--private_key", private])
    return command(program, "verify", "key", model, "--signature", signature, "--public_key", public)


def _cold(bundle: Bundle, run: Run) -> Run:
    def cold() -> float:
        forget(bundle.path)
        return run()

    return cold


def _dd(bundle: Bundle) -> Run:
    """One file after the other, as dd reads; both sides read the same files."""

    def run() -> None:
        for path in trees.content(bundle):
            call(["dd", f"if={path}", "of=/dev/null", "bs=1M"])

    return seconds(run)


def _openssl() -> float:
    """What all cores together hash, as openssl itself measures it: one buffer that stays in each core's cache."""
    out = subprocess.run(
        ["openssl", "speed", "-mr", "-seconds", "1", "-multi", str(os.cpu_count() or 1), "-bytes", "1048576", "-evp", "sha256"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout  # fmt: skip
    return [float(line.split(":")[-1]) for line in out.splitlines() if line.startswith("+F")][-1]
