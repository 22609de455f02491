"""The clock, as the kernel keeps it. adjtimex(2) is asked with no modes, which reads and sets nothing."""

from __future__ import annotations

import ctypes
import time

from engine.preflight import reading
from engine.preflight.facts import Clock

_UNSYNCHRONIZED = 0x0040  # STA_UNSYNC in timex.h


class _Timex(ctypes.Structure):
    """struct timex of 64-bit Linux; the fields that are not read here are padding at its end."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),  # parts per million, with 16 bits after the point
        ("maxerror", ctypes.c_long),  # microseconds
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_long * 32),
    )


def clock() -> Clock:
    """The time and how much it can be trusted."""
    timex = _Timex()
    try:
        state = int(ctypes.CDLL(None).adjtimex(ctypes.byref(timex)))
    except (OSError, AttributeError):
        state = -1
    now = time.time()
    chip = reading.number("/sys/class/rtc/rtc0/since_epoch", missing=-1)
    known = state >= 0
    return Clock(
        time_s=now,
        state=state if known else None,
        synchronized=not timex.status & _UNSYNCHRONIZED if known else None,
        drift_ppm=timex.freq / 65536 if known else None,
        max_error_us=timex.maxerror if known else None,
        rtc_offset_s=chip - now if chip >= 0 else None,
    )
