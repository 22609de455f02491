"""Sets of firewall rules on disk: written once under the name of their digest, and one link that says which count."""

from __future__ import annotations

import hashlib
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from engine import durable
from engine.errors import InputError, TrustError

NAMES = ("inet", "netdev", "closed-inet", "closed-netdev")
KEEP = 3  # sets kept on disk beside the active one, so that an auditor sees what was in force before


@dataclass(frozen=True)
class Rules:
    """The four texts of one policy.

    ``inet`` guards sockets and ``netdev`` guards what leaves the interfaces. The ``closed`` pair lets in nothing but
    management by SSH; it is loaded when the first pair cannot be.
    """

    inet: str
    netdev: str
    closed_inet: str
    closed_netdev: str

    @classmethod
    def of(cls, files: Mapping[str, object]) -> Rules:
        """From a mapping with exactly the keys of ``NAMES``.

        Raises:
            InputError: a key is missing or unknown, or a value is no text.
        """
        if set(files) != set(NAMES) or not all(isinstance(text, str) and text.strip() for text in files.values()):
            raise InputError(
                f"a rule set needs the texts {', '.join(NAMES)}, none of them empty",
                remedy="Let the firewall role make it.",
            )
        return cls(*(str(files[name]) for name in NAMES))

    def files(self) -> dict[str, str]:
        """The texts by their file name without ``.nft``."""
        return dict(zip(NAMES, (self.inet, self.netdev, self.closed_inet, self.closed_netdev), strict=True))

    @property
    def digest(self) -> str:
        """SHA-256 over names, lengths and texts; the name of the set."""
        total = hashlib.sha256()
        for name, text in self.files().items():
            raw = text.encode()
            total.update(f"{name} {len(raw)}\n".encode() + raw)
        return total.hexdigest()


class Shelf:
    """``rules/DIGEST/NAME.nft`` and the link ``active`` below one directory."""

    def __init__(self, etc: Path) -> None:
        self.etc = etc
        self.sets = etc / "rules"
        self.active = etc / "active"

    def active_digest(self) -> str:
        """Digest of the confirmed set, empty when none was ever confirmed."""
        return self.active.readlink().name if self.active.is_symlink() else ""

    def put(self, rules: Rules) -> None:
        """Write a set durably. Texts already there are written again, which mends a damaged file."""
        for name, text in rules.files().items():
            durable.write(self.sets / rules.digest / f"{name}.nft", text, mode=0o600)
        durable.sync_dir(self.sets)

    def text(self, digest: str, name: str) -> str:
        """One text of a set, unchecked: for the closed rules, which are better than none even when edited."""
        return (self.sets / digest / f"{name}.nft").read_text()

    def read(self, digest: str) -> Rules:
        """A whole set, checked against its name.

        Raises:
            TrustError: there is no such set, or a file of it is not what was confirmed.
        """
        try:
            rules = Rules.of({name: self.text(digest, name) for name in NAMES}) if digest else None
        except (OSError, UnicodeDecodeError, InputError) as error:
            raise TrustError(f"the confirmed rules cannot be read: {error}", where=str(self.sets / digest)) from error
        if rules is None:
            raise TrustError("no firewall rules were ever confirmed", where=str(self.active))
        if rules.digest != digest:
            raise TrustError("the rules are not the ones that were confirmed", where=str(self.sets / digest))
        return rules

    def activate(self, digest: str) -> None:
        """Make ``digest`` the set that boot loads; a crash leaves the old one or the new one."""
        temporary = self.etc / f".active.{secrets.token_hex(4)}.tmp"
        with durable.disk_errors(self.active):
            temporary.symlink_to(Path("rules") / digest)
            temporary.replace(self.active)
        durable.sync_dir(self.etc)

    def prune(self) -> None:
        """Remove all but the active set and the ``KEEP`` newest others."""
        if not self.sets.is_dir():
            return
        others = [path for path in self.sets.iterdir() if path.is_dir() and path.name != self.active_digest()]
        for path in sorted(others, key=lambda path: path.stat().st_mtime_ns, reverse=True)[KEEP:]:
            shutil.rmtree(path)
