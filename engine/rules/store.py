"""The place of the content: its device, who opens it, and when it is verified again."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from engine.rules.fault import Fault, Rule

DEVICE = re.compile(r"/dev/[A-Za-z0-9/._:+-]+")
RESERVE = re.compile(r"[1-9][0-9]*[MGT]")
HIGHEST_PCR = 23
# Time spans and calendar events as systemd.time(7) describes them, but for what no schedule needs (@epoch, infinity).
_UNIT = r"(usec|us|µs|msec|ms|seconds?|sec|s|minutes?|min|m|hours?|hr|h|days?|d|weeks?|w|months?|M|years?|y)"
SPAN = re.compile(rf"[0-9]+(\.[0-9]+)?\s*{_UNIT}?(\s*[0-9]+(\.[0-9]+)?\s*{_UNIT})*")
SHORTHANDS = ("minutely", "hourly", "daily", "monthly", "weekly", "yearly", "annually", "quarterly", "semiannually")
_DAY = r"(?:mon(?:day)?|tue(?:sday)?|wed(?:nesday)?|thu(?:rsday)?|fri(?:day)?|sat(?:urday)?|sun(?:day)?)"
_DAYS = re.compile(rf"{_DAY}(?:(?:\.\.|-){_DAY})?(?:,{_DAY}(?:(?:\.\.|-){_DAY})?)*,?", re.IGNORECASE)
_DATE = re.compile(r"(?:([^-~\s]+)-)?([^-~\s]+)[-~]([^-~\s]+)")
_TIME = re.compile(r"([^:\s]+):([^:\s]+)(?::([^:\s]+))?")
_ZONE = re.compile(r"UTC|[A-Za-z]+(?:/[A-Za-z0-9_+-]+)+")


def store(given: Mapping[str, Any]) -> Iterator[Fault]:
    """What is wrong with the variables of the store; any may be missing.

    Args:
        given: device, tpm2_pcrs, encryption, passphrase_file, tpm2_pin_file, reserve, calendar, delay.
    """
    if "device" in given and not DEVICE.fullmatch(str(given["device"])):
        yield Fault(Rule.STORE_DEVICE, ("device",), f"is {given['device']!r}", "give a path below /dev")
    if "tpm2_pcrs" in given:
        pcrs = list(given["tpm2_pcrs"] or [])
        if not pcrs or not all(isinstance(p, int) and 0 <= p <= HIGHEST_PCR for p in pcrs):
            yield Fault(Rule.STORE_PCRS, ("tpm2_pcrs",), f"is {pcrs}", f"give numbers from 0 to {HIGHEST_PCR}")
    how = given.get("encryption", "none")
    if how == "passphrase" and not given.get("passphrase_file"):
        what = "is empty, and encryption passphrase needs appliance_model_store_passphrase_file"
        yield Fault(Rule.STORE_PASSPHRASE, ("passphrase_file",), what, "name the file on the control host")
    if given.get("tpm2_pin_file") and how != "tpm2":
        yield Fault(Rule.STORE_PIN, ("tpm2_pin_file",), f"goes with tpm2 alone, not with {how}", "remove it")
    if "reserve" in given and not RESERVE.fullmatch(str(given["reserve"])):
        yield Fault(Rule.STORE_RESERVE, ("reserve",), f"is {given['reserve']!r}", "write a size like 1G")
    if given.get("calendar") and not is_calendar(str(given["calendar"])):
        remedy = (
            "write it as systemd.time describes it, such as Sun *-*-* 02:00:00; `systemd-analyze calendar` tests it"
        )
        yield Fault(Rule.STORE_CALENDAR, ("calendar",), f"is {given['calendar']!r}", remedy)
    if "delay" in given and not SPAN.fullmatch(str(given["delay"]).strip()):
        remedy = "write a time such as 4h or 1h 30min, or 0; `systemd-analyze timespan` tests it"
        yield Fault(Rule.STORE_DELAY, ("delay",), f"is {given['delay']!r}", remedy)


def is_calendar(text: str) -> bool:
    """Whether systemd takes it for ``OnCalendar=``."""
    words = text.split()
    if words and _ZONE.fullmatch(words[-1]) and len(words) > 1:
        words.pop()
    if len(words) == 1 and words[0].lower() in SHORTHANDS:
        return True
    if words and _DAYS.fullmatch(words[0]):
        words.pop(0)
        if not words:
            return True
    if words and (date := _DATE.fullmatch(words[0])):
        year, month, day = date.groups()
        if (
            not (year is None or _component(year, 1970, 2199) or re.fullmatch("[0-9]{2}", year))
            or not _component(month, 1, 12)
            or not _component(day, 1, 31)
        ):
            return False
        words.pop(0)
        if not words:
            return True
    if len(words) != 1 or not (time := _TIME.fullmatch(words[0])):
        return False
    hour, minute, second = time.groups()
    return (
        _component(hour, 0, 23)
        and _component(minute, 0, 59)
        and (second is None or _component(second, 0, 59, parts=True))
    )


def _component(text: str, least: int, most: int, *, parts: bool = False) -> bool:
    """Numbers, ranges and repetitions between commas, or a star."""
    number = r"[0-9]{1,4}(?:\.[0-9]{1,6})?" if parts else r"[0-9]{1,4}"
    for entry in text.split(","):
        found = re.fullmatch(rf"(?:\*|({number})(?:\.\.({number}))?(?:/({number}))?)", entry)
        if not found:
            return False
        begin, end, step = found.groups()
        values = [float(v) for v in (begin, end) if v is not None]
        if any(not least <= int(v) <= most for v in values) or values != sorted(values) or (step and float(step) == 0):
            return False
    return True
