"""Where a passphrase comes from: a private file, the environment or the keyboard; never the command line."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from engine import inputfile
from engine.errors import InputError

VARIABLE = "APPLIANCE_PASSPHRASE_FILE"
MIN_LENGTH = 12
MAX_BYTES = 4096
PIPE_S = 300.0  # a program behind <(…) may ask a person for a password of its own


def passphrase(file: Path | None, *, purpose: str, confirm: bool = False) -> str:
    """The passphrase for ``purpose``.

    Args:
        file: file that holds it; None takes the one named by APPLIANCE_PASSPHRASE_FILE, else asks at the terminal.
        confirm: ask twice, for a new key.

    Raises:
        InputError: the file is missing, empty or readable by others, or there is nobody to ask.
    """
    if file is None and os.environ.get(VARIABLE):
        file = Path(os.environ[VARIABLE])
    if file is not None:
        return _long_enough(_read(file), str(file), purpose, new=confirm)
    if not sys.stdin.isatty():
        raise InputError(
            f"no passphrase for {purpose}",
            remedy=f"Give --passphrase-file, or name a file in {VARIABLE}; it must be readable by you alone.",
        )
    secret = getpass.getpass(f"Passphrase for {purpose}: ")
    if confirm and getpass.getpass("Again: ") != secret:
        raise InputError("the two passphrases differ", remedy="Run the command again.")
    return _long_enough(secret, "", purpose, new=confirm)


def pin(file: Path | None) -> Callable[[str], str]:
    """How a token's PIN is had: from the file, else asked at the terminal, when and only when a token wants it."""

    def get(what: str) -> str:
        if file is not None:
            return _read(file)
        if not sys.stdin.isatty():
            raise InputError(
                f"a token asks for its {what}", remedy="Give --pin-file; it must be readable by you alone."
            )
        return getpass.getpass(f"Token's {what}: ")

    return get


def _read(file: Path) -> str:
    # A device is refused before its mode is looked at: that is not to be changed, as is advised below.
    given = inputfile.given(file, MAX_BYTES, "the passphrase file", "Name a file with one line.", pipe_s=PIPE_S)
    try:
        text = given.data.decode().rstrip("\n")
    except UnicodeDecodeError as error:
        raise InputError(
            "the passphrase file is not text", where=str(file), remedy="Write the passphrase there as UTF-8."
        ) from error
    if given.mode & 0o077:
        raise InputError("the passphrase file can be read by others", where=str(file), remedy=f"chmod 600 {file}")
    return text


def _long_enough(secret: str, where: str, purpose: str, *, new: bool) -> str:
    if len(secret) >= MIN_LENGTH:
        return secret
    short = f"shorter than {MIN_LENGTH} characters"
    if new:
        raise InputError(f"the passphrase for {purpose} is {short}", where=where, remedy="Use a longer one.")
    raise InputError(
        f"this is not the passphrase for {purpose}: it is {short}, and no key is made with such a one",
        where=where,
        remedy="Give the passphrase that the key was made with.",
    )


def private_copy(secret: str) -> AbstractContextManager[Path]:
    """The secret as a file for tools that read files only."""
    return nameless(secret.encode())


@contextmanager
def nameless(secret: bytes) -> Iterator[Path]:
    """A file that has no name on any file system and ends with this process, however that ends.

    Child processes open it by its descriptor; for all others its mode and the kernel's rules for looking into processes decide.
    """
    fd = os.memfd_create("appliance-secret")
    try:
        os.fchmod(fd, 0o600)
        os.write(fd, secret)
        yield Path(f"/proc/{os.getpid()}/fd/{fd}")
    finally:
        os.close(fd)
