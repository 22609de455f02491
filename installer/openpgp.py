"""The OpenPGP key that signs the apt repository: made, shown and used by gpg in a home that lives for one call.

apt is the only reader of these signatures. Trust in the bundle does not rest on this key but on TUF; the key is there
because a node's apt must never be told to accept an unsigned source.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from engine import durable
from engine.bounds import Bounds
from engine.errors import ApplianceError, InputError, ResourceError
from engine.process import ProcessError, run

KEY_FILE = "apt-signing-key.asc"
TIMEOUT_S = 120  # a key or a signature takes well under a second; more means gpg waits for something
READING = Bounds(memory=1 << 30, file=64 << 20, time_s=60.0)


def create(directory: Path, name: str, passphrase: str) -> Path:
    """Make an Ed25519 signing key without expiry and write it armored and passphrase-protected, mode 0600.

    Args:
        name: user ID of the key, for example ``Example site apt repository``.

    Returns:
        ``directory/apt-signing-key.asc``.

    Raises:
        InputError: the passphrase is empty or has a line break, or a key is there already.
    """
    path = directory / KEY_FILE
    if not passphrase or "\n" in passphrase or "\r" in passphrase:
        raise InputError("the passphrase of the apt key must be one line that is not empty", remedy="Choose another.")
    if path.exists():
        raise InputError(
            "there is an apt signing key already",
            where=str(path),
            remedy="Keep using it, or move it away when nodes shall trust a new one.",
        )
    with _home() as home:
        secret = passphrase + "\n"
        home.gpg("--quick-generate-key", "--", name, "ed25519", "sign", "never", stdin=secret)
        durable.write(path, home.gpg("--armor", "--export-secret-keys", stdin=secret), mode=0o600)
    return path


def public(key: Path) -> bytes:
    """The armored public half of a secret key file; needs no passphrase.

    Raises:
        InputError: the file does not hold exactly one secret key.
    """
    with _home() as home:
        fingerprint = home.load(key).fingerprint
        return home.gpg("--armor", "--export-options", "export-minimal", "--export", fingerprint).encode()


def clearsign(key: Path, passphrase_file: Path, data: bytes, epoch: int) -> bytes:
    """``data`` with an inline signature dated ``epoch`` (seconds since 1970), the same bytes every time.

    A signature older than its key is invalid for every verifier, so an earlier ``epoch`` counts as the moment the key
    was made.

    Raises:
        InputError: the passphrase does not open the key, or others can read its file.
    """
    mode = _mode(passphrase_file)
    if mode & 0o077:
        raise InputError(
            "others can read the passphrase of the apt key",
            where=str(passphrase_file),
            remedy=f"Run: chmod 600 {passphrase_file}",
        )
    with _home() as home:
        loaded = home.load(key)
        plain = home.path / "data"
        plain.write_bytes(data)
        try:
            signed = home.gpg(
                "--passphrase-file", passphrase_file, "--faked-system-time", f"{max(epoch, loaded.created)}!",
                "--digest-algo", "SHA512", "--local-user", loaded.fingerprint, "--output", "-", "--clearsign", plain,
            )  # fmt: skip
        except ProcessError as error:
            if "bad passphrase" in error.stderr.lower():
                raise InputError(
                    "the passphrase does not open the apt key",
                    where=str(key),
                    remedy=f"Put the right one into {passphrase_file}.",
                ) from error
            raise
    return signed.encode()


def primary_keys(data: bytes) -> tuple[str, ...]:
    """Fingerprints of the primary keys of a keyring, armored or not; empty when it holds none.

    Raises:
        BoundsError: gpg took more than reading a keyring takes.
    """
    with _home() as home:
        file = home.path / "keyring"
        file.write_bytes(data)
        listing = run(
            ["gpg", "--homedir", home.path, "--batch", "--no-options", "--with-colons", "--show-keys", file],
            inherit=False, ok=(0, 2), package="gnupg", bounds=READING,
        ).stdout  # fmt: skip
    found, primary = [], False
    for row in (line.split(":") for line in listing.splitlines()):
        if row[0] in ("pub", "sub"):
            primary = row[0] == "pub"
        elif row[0] == "fpr" and primary:
            found.append(row[9])
    return tuple(sorted(set(found)))


@dataclass(frozen=True)
class _Loaded:
    """A secret key in a home: ``created`` in seconds since 1970, the youngest of key and subkeys."""

    fingerprint: str
    created: int


class _Home:
    """A private GNUPGHOME."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def gpg(self, *args: str | Path, stdin: str = "") -> str:
        """Run gpg; a passphrase goes to ``stdin`` as one line. Returns standard output."""
        fd = ["--passphrase-fd", "0"] if stdin else []
        return run(
            ["gpg", "--homedir", self.path, "--batch", "--yes", "--quiet", "--no-options", "--pinentry-mode", "loopback",
             "--cert-digest-algo", "SHA512", *fd, *args],
            inherit=False, stdin=stdin or None, timeout_s=TIMEOUT_S, package="gnupg",
        ).stdout  # fmt: skip

    def load(self, key: Path) -> _Loaded:
        """Import the one secret key of a file."""
        _mode(key)
        try:
            self.gpg("--import", key)
            listing = self.gpg("--with-colons", "--list-secret-keys")
        except ProcessError as error:
            raise _not_a_key(key) from error
        rows = [line.split(":") for line in listing.splitlines()]
        primary = [row for row in rows if row[0] == "sec"]
        fingerprints = [row[9] for row in rows if row[0] == "fpr"]
        if len(primary) != 1:
            raise _not_a_key(key)
        return _Loaded(fingerprints[0], max(int(row[5]) for row in rows if row[0] in ("sec", "ssb")))


def _not_a_key(key: Path) -> InputError:
    return InputError(
        "this is not a file with exactly one OpenPGP secret key",
        where=str(key),
        remedy="Give the file that `appliance keys init` made.",
    )


def _mode(path: Path) -> int:
    try:
        return stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        raise InputError(
            f"cannot read a file of the apt key: {error.strerror}",
            where=str(path),
            remedy="Give the right path, or run `appliance keys init`.",
        ) from error


@contextlib.contextmanager
def _home() -> Iterator[_Home]:
    """A GNUPGHOME that is gone afterwards, with the agent gpg started for it, whatever happened."""
    path = Path(tempfile.mkdtemp(prefix="gpg-", dir=_short_directory()))  # mkdtemp makes it 0700
    try:
        yield _Home(path)
    finally:
        for action in (["--kill", "all"], ["--remove-socketdir"]):
            with contextlib.suppress(ApplianceError):  # a home that never had an agent has nothing to end
                run(["gpgconf", "--homedir", path, *action], inherit=False, timeout_s=TIMEOUT_S, package="gnupg")
        shutil.rmtree(path, ignore_errors=True)  # the agent takes its sockets away at the same time


def _short_directory() -> Path:
    """A directory for a home. A socket's path has 107 bytes at most, so TMPDIR may be too long for the agent's."""
    for path in (Path(f"/run/user/{os.getuid()}"), Path("/dev/shm"), Path("/tmp")):  # noqa: S108  mkdtemp is safe there
        if path.is_dir() and os.access(path, os.W_OK | os.X_OK):
            return path
    raise ResourceError(
        "there is no directory for temporary keys",
        remedy="Make /dev/shm writable for this user.",
    )
