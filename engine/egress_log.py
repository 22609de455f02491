"""The evidence of egress proofs on a node's disk: appended to, sealed, rotated, never rewritten."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from engine import durable
from engine.egress_chain import NOTHING, Head, Record, digest, head_of, line_of, parse, seal_statement, signed
from engine.errors import ApplianceError, InputError, TrustError

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
UPTIME = Path("/proc/uptime")
STATE = Path("/var/lib/appliance/egress")


@dataclass(frozen=True)
class Bounds:
    """How much is kept: segments of so many bytes, so many of them, and a seal after so many records."""

    segment_bytes: int = 1 << 20
    segments: int = 64
    seal_every: int = 12


@dataclass(frozen=True)
class Tail:
    """The last whole record on disk. ``torn`` says whether half a line follows it."""

    segment: Path
    size: int
    record: Record
    hash: str


class EvidenceLog:
    """One node's evidence below ``directory``: key.pem, head.json, log/NNNNNN.jsonl. For root alone."""

    def __init__(
        self,
        directory: Path = STATE,
        bounds: Bounds = Bounds(),
        *,
        node: str = "",
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.directory, self.bounds, self.node, self.clock = directory, bounds, node, clock
        self.log = directory / "log"
        self._head = directory / "head.json"
        self._key = directory / "key.pem"

    # -- the key ------------------------------------------------------------------------------
    def ensure_key(self) -> bool:
        """Make the node's signing key (0600) unless there is one; returns whether it was made.

        The first proof and the role may ask at the same time: both must end with the same key.
        """
        if self._key.exists():
            return False
        with self._lock():
            if self._key.exists():
                return False
            key = Ed25519PrivateKey.generate()
            durable.write(self._key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)
        return True

    def has_key(self) -> bool:
        return self._key.exists()

    def public(self) -> Ed25519PublicKey:
        return self._private().public_key()

    def _private(self) -> Ed25519PrivateKey:
        remedy = (
            "Run the firewall role again. A new key starts new evidence: keep the old and say so in your change record."
        )
        try:
            if self._key.stat().st_mode & 0o077:
                raise TrustError(
                    "others could read the key that signs the evidence", where=str(self._key), remedy=remedy
                )
            key = load_pem_private_key(self._key.read_bytes(), None)
        except (OSError, ValueError, TypeError) as error:
            raise ApplianceError(
                f"cannot read the signing key: {error}", where=str(self._key), remedy=remedy
            ) from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ApplianceError("the signing key is not Ed25519", where=str(self._key), remedy=remedy)
        return key

    # -- reading ------------------------------------------------------------------------------
    def segments(self) -> list[Path]:
        """Oldest first."""
        return sorted(self.log.glob("[0-9]*.jsonl")) if self.log.is_dir() else []

    def lines(self) -> Iterator[tuple[str, list[bytes]]]:
        """Every segment with its lines, for ``egress_chain.verify``."""
        for path in self.segments():
            yield path.name, path.read_bytes().splitlines()

    def head(self) -> Head | None:
        try:
            return head_of(self._head.read_bytes())
        except (OSError, ValueError):
            return None

    # -- writing ------------------------------------------------------------------------------
    def append(self, kind: str, body: dict[str, Any], *, seal: bool = False) -> Record:
        """Write one record down for good, and what belongs to it: the beginning, a new segment, a seal.

        Args:
            seal: seal at once, because this record matters.

        Raises:
            ResourceError: the disk is full; what was there before is as it was.
        """
        with self._lock(), durable.disk_errors(self.log):
            key = self._private()
            head = self._resume(key)
            if head is None:
                start = {
                    "chain": secrets.token_hex(8),
                    "node": self.node,
                    "key": key.public_key().public_bytes_raw().hex(),
                }
                head, _ = self._write(key, Head(start["chain"], 0, NOTHING, "", 0), "start", start, new=True)
            elif self.segments()[-1].stat().st_size >= self.bounds.segment_bytes:
                head = self._rotate(key, head, {})
            day = head.time[:10]
            head, record = self._write(key, head, kind, body)
            if seal or head.n - head.sealed >= self.bounds.seal_every or day != head.time[:10]:
                head = self._seal(key, head)
            self._drop(key, head)
            return record

    def _resume(self, key: Ed25519PrivateKey) -> Head | None:
        """Where to go on: at the head, or after it when the node stopped before that was signed. None: nothing there yet."""
        head, tail = self.head(), self._tail()
        if head is None and tail is None:
            return None
        if tail and head is None:
            chain = self._chain_of()
            return self._sign(key, Head(chain, tail.record["n"], tail.hash, tail.record["time"], 0))
        assert head is not None  # noqa: S101 - both cases without it are above
        if tail and tail.record["n"] == head.n and tail.hash == head.hash:
            return head
        if tail and tail.record["n"] > head.n:
            return self._sign(key, replace(head, n=tail.record["n"], hash=tail.hash, time=tail.record["time"]))
        # The disk holds less than was signed. Go on from what was signed, in a segment of its own, so that the gap stays.
        return self._rotate(key, head, {"found": "the last record on disk is not the one that was signed"})

    def _chain_of(self) -> str:
        for path in self.segments():
            with path.open("rb") as file:
                return str(parse(file.readline().rstrip(b"\n")).get("chain", ""))
        return ""

    def _tail(self) -> Tail | None:
        """The last whole record. Half a line at the end, which a stopped machine leaves, is cut away."""
        for path in reversed(self.segments()):
            raw = path.read_bytes()
            whole = raw[: raw.rfind(b"\n") + 1]
            if len(whole) < len(raw):
                with path.open("r+b") as file:
                    file.truncate(len(whole))
                    durable.sync_file(file)
            if not whole:
                path.unlink()  # a segment that was begun and got no record
                continue
            line = whole[:-1].rsplit(b"\n", 1)[-1]
            try:
                return Tail(path, len(whole), parse(line), digest(line))
            except ValueError:
                return None
        return None

    def _rotate(self, key: Ed25519PrivateKey, head: Head, body: dict[str, Any]) -> Head:
        """Begin a segment; a seal right after its first record vouches for it when those before are gone."""
        head, _ = self._write(key, head, "segment", {"chain": head.chain, **body}, new=True)
        return self._seal(key, head)

    def _seal(self, key: Ed25519PrivateKey, head: Head) -> Head:
        signature = signed(key, seal_statement(head.chain, head.n + 1, head.hash))
        sealed, _ = self._write(key, replace(head, sealed=head.n + 1), "seal", {"signature": signature})
        return sealed

    def _drop(self, key: Ed25519PrivateKey, head: Head) -> None:
        """Remove what is too old, after a record says so."""
        for old, following in zip(self.segments(), self.segments()[1:], strict=False):
            if len(self.segments()) <= self.bounds.segments:
                return
            with following.open("rb") as file:
                through = parse(file.readline().rstrip(b"\n"))["n"] - 1
            head, _ = self._write(key, head, "dropped", {"through": through, "segment": old.name})
            old.unlink()
            durable.sync_dir(self.log)

    def _write(
        self, key: Ed25519PrivateKey, head: Head, kind: str, body: dict[str, Any], *, new: bool = False
    ) -> tuple[Head, Record]:
        now = self.clock().astimezone(UTC).isoformat(timespec="seconds")
        record: Record = {
            **body,
            "n": head.n + 1, "kind": kind, "prev": head.hash, "time": now,
            "boot": BOOT_ID.read_text().strip(), "uptime_s": float(UPTIME.read_text().split()[0]),
        }  # fmt: skip
        if head.time and now < head.time:
            record["clock_back_s"] = int(
                (datetime.fromisoformat(head.time) - datetime.fromisoformat(now)).total_seconds()
            )
        line = line_of(record)
        self.log.mkdir(parents=True, exist_ok=True, mode=0o700)
        present = self.segments()
        number = (int(present[-1].stem) + 1 if present else 1) if new else 0
        path = self.log / f"{number:06}.jsonl" if new else present[-1]
        _append(path, line + b"\n")
        return self._sign(key, Head(head.chain, record["n"], digest(line), now, head.sealed)), record

    def _sign(self, key: Ed25519PrivateKey, head: Head) -> Head:
        done = replace(head, signature=signed(key, replace(head, signature="").statement()))
        durable.write(self._head, json.dumps(asdict(done)) + "\n", mode=0o600)
        return done

    @contextmanager
    def _lock(self) -> Iterator[None]:
        with durable.disk_errors(self.directory):
            self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle = (self.directory / ".lock").open("w")
        with handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def _append(path: Path, data: bytes) -> None:
    """All of it durably, or nothing: a full disk must not leave half a line."""
    fresh = not path.exists()
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        size = os.fstat(fd).st_size
        try:
            written = 0
            while written < len(data):
                written += os.write(fd, data[written:])
            os.fsync(fd)
        except OSError:
            os.ftruncate(fd, size)
            os.fsync(fd)
            raise
    finally:
        os.close(fd)
    if fresh:
        durable.sync_dir(path.parent)


def public_key(text: str, where: str) -> Ed25519PublicKey:
    """A public key from its 64 hexadecimal digits.

    Raises:
        InputError: these are none.
    """
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text.strip()))
    except ValueError as error:
        raise InputError(f"this is no Ed25519 public key: {error}", where=where, remedy="Collect it again.") from error
