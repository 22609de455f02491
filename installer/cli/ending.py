"""How every command ends: an exit code, and one message where it failed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from engine import interruption, refusals
from engine.errors import ApplianceError, Exit
from installer.cli import streams
from installer.cli.screen import Screen

CONTINUES = "The same command continues where it stopped."


CODES = {signal.SIGHUP: Exit.HANGUP, signal.SIGTERM: Exit.TERMINATED}


class StoppedError(ApplianceError):
    """A signal ended the command; what --json prints of it."""

    def __init__(self, what: str, exit_code: Exit) -> None:
        super().__init__(what, remedy=CONTINUES)
        self.exit_code = exit_code


def run(screen: Screen, command: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its code; every failure ends in one message."""
    os.umask(0o022)  # a bundle is read by other users; what is secret gets its mode where it is made
    streams.settle()
    with interruption.heeded():
        try:
            code = _code(screen, command)
        except KeyboardInterrupt:  # while something was said at the end
            code = _stopped(screen)
        received = interruption.received()
    streams.abandon()
    if received:
        os._exit(
            code
        )  # sys.exit would wait for threads whose source has not answered yet; nothing of theirs is to be cleaned up
    sys.exit(code)


def _code(screen: Screen, command: Callable[[], int]) -> int:
    try:
        code = command()
        with streams.results():
            pass  # what is still in the buffer arrives, or the command has failed
        return code
    except KeyboardInterrupt:
        return _stopped(screen)
    except Exception as error:
        if interruption.received():  # who waited for a process that was ended tells that as an error
            return _stopped(screen)
        return _told(screen, error)


def _told(screen: Screen, error: Exception) -> int:
    if isinstance(error, ApplianceError):
        return _failed(screen, error)
    if isinstance(error, BrokenPipeError):
        return Exit.FAILED  # the reader left; nothing more to say
    return _unexpected(screen, error)


def _stopped(screen: Screen) -> int:
    """One sentence of what ended the command."""
    number = interruption.received()
    code = CODES.get(signal.Signals(number), Exit.INTERRUPTED) if number else Exit.INTERRUPTED
    what = "interrupted" if code == Exit.INTERRUPTED else f"ended by {signal.Signals(number).name}"
    if screen.json_output:
        return _failed(screen, StoppedError(what, code))
    screen.say(f"{what[0].upper()}{what[1:]}. {CONTINUES}")
    return code


def _unexpected(screen: Screen, error: Exception) -> int:
    """What the system refused of a path, in a sentence; anything else is a fault of the program and shown as one."""
    if os.environ.get("APPLIANCE_DEBUG"):
        raise error
    if found := refusals.explained(error):
        return _failed(screen, found)
    said = ApplianceError(
        f"internal error: {type(error).__name__}: {error}",
        remedy="Run again with APPLIANCE_DEBUG=1 and report what it prints.",
    )
    return _failed(screen, said)


def _failed(screen: Screen, error: ApplianceError) -> int:
    screen.error(error)
    return error.exit_code
