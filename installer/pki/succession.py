"""One authority takes over from another while certificates of both are in use.

Three directories side by side: the authority that signs (CA), the one that will (CA-next), the one that did (CA-previous). The
stages, each safe to stop in:

    none      one authority
    trust     CA-next exists; nodes are told to trust both; CA still signs
    clients   CA-next has become CA; clients get new certificates, and with them the new authority to trust
    leaves    every node has a certificate of the new authority
    none      nodes trust the new one alone; the old key is destroyed, its register kept

The change of places is one system call (renameat2 with RENAME_EXCHANGE), so there is never a moment without an authority.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
from datetime import datetime
from pathlib import Path
from typing import Literal

from cryptography.hazmat.primitives.serialization import Encoding

from engine import durable
from engine.errors import InputError, ResourceError
from installer.pki.authority import OWN_CLIENT, Authority, Issued

Stage = Literal["none", "trust", "clients", "leaves"]
RECORD = "rotation.json"
_EXCHANGE = 2  # RENAME_EXCHANGE, linux/fs.h
_HERE = -100  # AT_FDCWD


class Succession:
    """The authority in ``directory`` and those beside it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.next = directory.with_name(directory.name + "-next")
        self.previous = directory.with_name(directory.name + "-previous")

    @property
    def stage(self) -> Stage:
        """Where the succession stands; a change of places that was killed half-way is completed first.

        Raises:
            InputError: the record cannot be read.
        """
        record = self.directory / RECORD
        if not record.is_file():
            return "trust" if Authority(self.next).exists() else "none"
        if self.next.is_dir() and not self.previous.exists():
            self.next.rename(self.previous)
            durable.sync_dir(self.directory.parent)
        try:
            stage: Stage = json.loads(record.read_text())["stage"]
        except (OSError, ValueError, KeyError) as error:
            raise InputError(
                "the record of the rotation cannot be read", where=str(record), remedy="Restore it from a backup."
            ) from error
        return stage

    def begin(self, passphrase: str, now: datetime) -> None:
        """Make the next authority. It signs nothing yet. The passphrase must open the present one: it will open both."""
        present = Authority(self.directory)
        present.unlock(passphrase)
        Authority(self.next).create(_next_name(present.itself().name), passphrase, now=now)

    def trust(self) -> tuple[bytes, bytes]:
        """What nodes trust at this stage: certificates of all authorities in use, and their revocation lists."""
        if self.stage == "trust":
            both = Authority(self.directory), Authority(self.next)
            return b"".join(map(_own, both)), b"".join(a.crl_path.read_bytes() for a in both)
        present = Authority(self.directory)
        return present.certificate_path.read_bytes(), present.crl_path.read_bytes()

    def alone(self) -> tuple[bytes, bytes]:
        """The same when the old authority is out."""
        present = Authority(self.directory)
        return _own(present), present.own_crl()

    def activate(self, now: datetime) -> None:
        """The next authority becomes the one that signs. Call it when all nodes trust both.

        Raises:
            ResourceError: the file system cannot exchange two directories.
        """
        old, new = Authority(self.directory), Authority(self.next)
        durable.write(new.certificate_path, _own(new) + _own(old))
        durable.write(new.crl_path, new.own_crl() + old.own_crl())
        durable.write(self.next / RECORD, _record("clients", now))
        _exchange(self.directory, self.next)
        assert self.stage == "clients"  # noqa: S101 - and it renamed what is the previous one now

    def advance(self, now: datetime) -> None:
        """Every node has a certificate of the new authority."""
        durable.write(self.directory / RECORD, _record("leaves", now))

    def finish(self, now: datetime) -> Path:
        """Forget the old authority, whose key is destroyed; returns where its register is kept."""
        certificate, revoked = self.alone()
        present = Authority(self.directory)
        durable.write(present.certificate_path, certificate)
        durable.write(present.crl_path, revoked)
        retired = self.directory.with_name(f"{self.directory.name}-retired-{now:%Y%m%dT%H%M%SZ}")
        if self.previous.is_dir():
            (self.previous / "ca.key").unlink(missing_ok=True)
            self.previous.rename(retired)
        (self.directory / RECORD).unlink()
        durable.sync_dir(self.directory.parent)
        return retired

    def hanging(self, now: datetime) -> list[Issued]:
        """Clients that have nothing but certificates of the old authority: neither reissued, nor revoked, nor expired."""
        if not self.previous.is_dir():
            return []
        again = {e.name for e in Authority(self.directory).register() if e.kind == "client" and not e.revoked}
        return [
            e
            for e in Authority(self.previous).register()
            if e.kind == "client" and e.name not in (*again, OWN_CLIENT) and not e.revoked
            and datetime.fromisoformat(e.not_after) > now
        ]  # fmt: skip


def _own(authority: Authority) -> bytes:
    return authority.certificate().public_bytes(Encoding.PEM)


def _next_name(name: str) -> str:
    """Another name than the old one's, so that no library mixes the two up: ``site CA``, ``site CA 2``, ``site CA 3``."""
    found = re.fullmatch(r"(.*) (\d+)", name)
    return f"{found[1]} {int(found[2]) + 1}" if found else f"{name} 2"


def _record(stage: Stage, now: datetime) -> str:
    return json.dumps({"stage": stage, "since": now.isoformat(timespec="seconds")}) + "\n"


def _exchange(one: Path, other: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE):
        number = ctypes.get_errno()
        raise ResourceError(
            f"the two authorities cannot change places: {os.strerror(number)}",
            where=str(one.parent),
            remedy="Keep both on one file system that is no mount point itself (ext4, XFS, Btrfs).",
        )
    durable.sync_dir(one.parent)
