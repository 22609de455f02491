"""The one error hierarchy. Every message says what happened, where, and how to mend it."""

from __future__ import annotations

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes of every command; documented in docs/cli.md and relied on by scripts."""

    OK = 0
    FAILED = 1  # the work was tried and did not succeed
    USAGE = 2  # the command line or an input file is wrong
    UNTRUSTED = 3  # a signature, hash, version or expiry check refused the content
    UPSTREAM = 4  # a source changed or cannot be reached
    NODE = 5  # at least one node failed or is unreachable
    RESOURCE = 6  # disk full, permission denied, tool missing
    WAITING = 7  # all that may be done now is done; nodes wait for their maintenance window
    # 128 and the number of the signal, as shells have it.
    HANGUP = 129
    INTERRUPTED = 130
    TERMINATED = 143


class ApplianceError(Exception):
    """A failure a person can act on.

    Args:
        what: one sentence of what happened, without a final full stop.
        where: file, line, node or key it happened at; empty when the sentence says it.
        remedy: one sentence of what to do.
    """

    exit_code: Exit = Exit.FAILED

    def __init__(self, what: str, *, where: str = "", remedy: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.remedy = remedy

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}. {self.remedy}" if self.remedy else text


class InputError(ApplianceError):
    """A definition, inventory, option or other input of the operator is wrong."""

    exit_code = Exit.USAGE


class TrustError(ApplianceError):
    """Content or metadata was refused before use."""

    exit_code = Exit.UNTRUSTED


class UpstreamError(ApplianceError):
    """A source outside changed, vanished or does not answer."""

    exit_code = Exit.UPSTREAM


class NodeError(ApplianceError):
    """A node failed or cannot be reached."""

    exit_code = Exit.NODE


class ResourceError(ApplianceError):
    """This machine lacks something: space, permission, a tool."""

    exit_code = Exit.RESOURCE
