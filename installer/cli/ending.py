"""How every command ends: an exit code, and one message where it failed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from engine.errors import ApplianceError, Exit
from installer.cli.screen import Screen


def run(screen: Screen, command: Callable[[], int]) -> NoReturn:
    """Run a command and exit with its code; every failure ends in one message."""
    os.umask(0o022)  # a bundle is read by other users; what is secret gets its mode where it is made
    try:
        sys.exit(command())
    except ApplianceError as error:
        screen.error(error)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        screen.say("Interrupted. The same command continues where it stopped.")
        sys.exit(Exit.INTERRUPTED)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader left; nothing more to say
        sys.exit(Exit.FAILED)
    except Exception as error:
        if os.environ.get("APPLIANCE_DEBUG"):
            raise
        screen.error(
            ApplianceError(
                f"internal error: {type(error).__name__}: {error}",
                remedy="Run again with APPLIANCE_DEBUG=1 and report what it prints.",
            )
        )
        sys.exit(Exit.FAILED)
