"""The form of the audit log. Pure; writer and verifier agree here.

A record is one line of JSON. It names its number ``n`` and the SHA-256 of the line before (``prev``), so that a line that was edited,
moved, removed or put in again does not fit. A *checkpoint* is a record with an Ed25519 signature over number and hash of the record
before it; the same statement is exported as a small file, which leaves the host: whoever owns the disk can rebuild a chain, but not
one that holds an exported checkpoint. Segments are files of whole records. Old ones are deleted from the front, after a record
``dropped`` said so.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

SCHEMA = 1
NOTHING = "0" * 64  # what the first record has instead of a hash of the one before
MAX_LINE = 64 << 10
Record = dict[str, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A signed statement: record ``n`` of the chain has this hash."""

    chain: str
    n: int
    hash: str
    time: str
    signature: str

    def statement(self) -> bytes:
        return f"appliance gateway checkpoint\n{self.chain}\n{self.n}\n{self.hash}\n{self.time}\n".encode()

    def signed(self, key: Ed25519PrivateKey) -> Checkpoint:
        """The same with the key's signature (hex)."""
        return Checkpoint(self.chain, self.n, self.hash, self.time, key.sign(self.statement()).hex())

    def holds(self, key: Ed25519PublicKey) -> bool:
        """Whether the signature is the key's."""
        try:
            key.verify(bytes.fromhex(self.signature), self.statement())
        except (InvalidSignature, ValueError):
            return False
        return True

    def dump(self) -> bytes:
        """As an exported file."""
        return orjson.dumps(self.__dict__, option=orjson.OPT_SORT_KEYS) + b"\n"


def checkpoint_of(found: Any) -> Checkpoint:
    """A checkpoint from JSON.

    Raises:
        ValueError: it is not one.
    """
    names = Checkpoint.__dataclass_fields__
    if not isinstance(found, dict) or any(type(found.get(name)) is not (int if name == "n" else str) for name in names):
        raise ValueError("this is not a checkpoint")
    return Checkpoint(**{name: found[name] for name in names})


def line_of(record: Record) -> bytes:
    """The one form of a record as a line, without its end."""
    return orjson.dumps(record, option=orjson.OPT_SORT_KEYS)


def digest(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def parse(line: bytes) -> Record:
    """A record.

    Raises:
        ValueError: the line is not one.
    """
    if len(line) > MAX_LINE:
        raise ValueError("the line is too long")
    found = orjson.loads(line)
    if not isinstance(found, dict) or any(
        type(found.get(k)) is not t for k, t in (("n", int), ("kind", str), ("prev", str))
    ):
        raise ValueError("it is not a record")
    return found
