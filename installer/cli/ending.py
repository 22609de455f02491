"""How every command ends: an exit code, and one message where it failed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from engine import refusals
from engine.errors import ApplianceError, Exit
from installer.cli import streams
from installer.cli.screen import Screen

CONTINUES = "The same command continues where it stopped."


class StoppedError(ApplianceError):
    """Somebody ended the command; what --json prints of it."""

    exit_code = Exit.INTERRUPTED


def run(screen: Screen, command: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its code; every failure ends in one message."""
    os.umask(0o022)  # a bundle is read by other users; what is secret gets its mode where it is made
    streams.settle()
    code = _code(screen, command)
    streams.abandon()
    sys.exit(code)


def _code(screen: Screen, command: Callable[[], int]) -> int:
    try:
        code = command()
        with streams.results():
            pass  # what is still in the buffer arrives, or the command has failed
        return code
    except ApplianceError as error:
        return _failed(screen, error)
    except KeyboardInterrupt:
        if screen.json_output:
            return _failed(screen, StoppedError("interrupted", remedy=CONTINUES))
        screen.say(f"Interrupted. {CONTINUES}")
        return Exit.INTERRUPTED
    except BrokenPipeError:
        return Exit.FAILED  # the reader left; nothing more to say
    except Exception as error:
        return _unexpected(screen, error)


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
