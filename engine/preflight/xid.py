"""What Xid numbers mean for a node that is about to serve.

Sources: NVIDIA, "XID Errors" (docs.nvidia.com/deploy/xid-errors), the Xid catalogue for Ampere and newer with its resolution
buckets, and the common codes explained there; NVIDIA, Health Validation, "Xid Checks", whose critical codes are fatal here;
NVIDIA, "Dynamic Page Retirement" for 48, 63 and 64. The words are ours. A code that is not in the table is a warning.

``fatal``: the GPU cannot be trusted before it was reset, or is broken. ``watch``: it works, and the code says that it ages
or was driven hard. ``software``: a program's or the driver's doing; the GPU is fine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

_RESET = "Reset the GPU (nvidia-smi --gpu-reset, all GPUs of a board with NVSwitch), or reboot; when it comes back, have it replaced."
_REBOOT = "Power the node off and on; check the seat, power cables and cooling of the GPU; when it comes back, have it replaced."
_LINK = "Reset all GPUs of the board, or reboot; when it comes back, have the link (bridge, board or GPU) replaced."
_FIRMWARE = "Reset the GPU or reboot; when it comes back, install the release's driver anew and ask NVIDIA with nvidia-bug-report.sh."
_WATCH = "Nothing now; reset the GPU when it is next idle, and watch the counts."
_APPLICATION = "Nothing, when a program was known to fail; look at that program otherwise."


@dataclass(frozen=True)
class Meaning:
    """What a code says, and what to do."""

    weight: Literal["fatal", "watch", "software"]
    what: str
    remedy: str


XIDS: dict[int, Meaning] = {
    8: Meaning("software", "the GPU stopped processing a program's work", _APPLICATION),
    13: Meaning("software", "an exception in a program on the GPU", _APPLICATION),
    31: Meaning("software", "a program touched memory that is not its own", _APPLICATION),
    32: Meaning("software", "a corrupted command stream", _APPLICATION),
    38: Meaning("software", "the driver's firmware ran into an error", _FIRMWARE),
    43: Meaning("software", "a program's work was stopped after an error of its own", _APPLICATION),
    45: Meaning("software", "work was cleared away after an earlier error or the end of a program", _APPLICATION),
    46: Meaning("fatal", "the GPU stopped processing", _RESET),
    48: Meaning("fatal", "an uncorrectable memory error", _RESET),
    54: Meaning("fatal", "the auxiliary power is not connected", _REBOOT),
    61: Meaning("fatal", "the GPU's microcontroller stopped at a breakpoint", _RESET),
    62: Meaning("fatal", "the GPU's microcontroller halted", _RESET),
    63: Meaning("watch", "a memory row was remapped or a page retired", _WATCH),
    64: Meaning("fatal", "a memory row could not be remapped, or a page not retired", _RESET),
    68: Meaning("software", "an exception of the video decoder", _APPLICATION),
    69: Meaning("software", "a class error in a program's work", _APPLICATION),
    74: Meaning("fatal", "an NVLink error", _LINK),
    79: Meaning("fatal", "the GPU has fallen off the bus", _REBOOT),
    92: Meaning("watch", "correctable memory errors at a high rate", _WATCH),
    94: Meaning("watch", "an uncorrectable memory error that was kept to one program", _WATCH),
    95: Meaning("fatal", "an uncorrectable memory error that was not contained", _RESET),
    109: Meaning("fatal", "switching between programs on the GPU did not end in time", _RESET),
    110: Meaning("fatal", "a security fault", _RESET),
    119: Meaning("fatal", "the GPU's system processor does not answer", _FIRMWARE),
    120: Meaning("fatal", "an error of the GPU's system processor", _FIRMWARE),
    121: Meaning("watch", "a corrected error of the link between processor and GPU", _WATCH),
    136: Meaning("fatal", "training of a link failed", _LINK),
    137: Meaning("watch", "a fault of NVLink in a program's work, seen from the other side of the link", _APPLICATION),
    140: Meaning("fatal", "an uncorrected memory error without recovery", _RESET),
    143: Meaning("fatal", "the GPU could not be initialised", _RESET),
    **{code: Meaning("fatal", "an NVLink error", _LINK) for code in (144, 145, 146, 147, 148, 149, 150)},
    154: Meaning(
        "watch",
        "the driver changed what it recommends for this GPU",
        "Look at the line in the kernel log: it names the action.",
    ),
    155: Meaning("watch", "NVLink software error", _LINK),
    156: Meaning("watch", "a part of the GPU was retired", _WATCH),
}


def meaning(code: int) -> Meaning:
    """What a code says; one that is not known is worth a look."""
    unknown = Meaning("watch", "not in the table", "Look it up in NVIDIA's Xid catalogue.")
    return XIDS.get(code, unknown)
