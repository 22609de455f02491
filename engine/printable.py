"""Text that is safe to show."""

from __future__ import annotations


def printable(text: str, keep: str = "\n\t") -> str:
    """``text`` without characters that would steer a terminal: names on a medium may be made to hide what is said of them.

    Args:
        keep: control characters that stay; none in a single name, whose line break would forge a line.

    Surrogates, which stand for bytes that are no UTF-8, are shown as ``\\udc..``.
    """
    return "".join(c if c in keep or c.isprintable() else c.encode("unicode_escape").decode() for c in text)
