"""What the control host knows by itself: its newest run, the ends of what it keeps. Reads a few small files; imports next to nothing.

`appliance status --offline` answers from this alone, before the command line's libraries are loaded.
"""

from __future__ import annotations

import json
import os
import time
from binascii import a2b_base64

from installer.releases import releases

TYPE_CHECKING = False  # as typing's, which takes longer to import than all of this
if TYPE_CHECKING:
    from typing import Any

DEPOT, CA, RUNS = "/var/lib/appliance/depot", "/var/lib/appliance/ca", "/var/lib/appliance/runs"
ROLES = ("root", "timestamp", "snapshot", "targets")
WARN_DAYS, FAIL_DAYS = 30, 7
DAY_S = 86400
MAX_FILE = 4 << 20  # bytes


def control(depot: str = DEPOT, ca: str = CA, runs: str = RUNS, now: float | None = None) -> dict[str, Any]:
    """Releases with the days left of their metadata, the authorities' days left, the newest run.

    ``days`` are whole days, negative after the end; a file that cannot be read stands in ``troubles``.
    """
    at, troubles = time.time() if now is None else now, []
    metadata = {}
    for release in releases(depot):
        ends = []
        for role in ROLES:
            path = os.path.join(depot, "bundles", release, "metadata", f"{role}.json")
            if role == "root" and not os.path.exists(path):
                continue  # kept as N.root.json; the depot's pinned root is looked at below
            try:
                ends.append((_days(_time(_json(path)["signed"]["expires"]), at), role))
            except (OSError, ValueError, KeyError, TypeError):
                troubles.append(f"{path} cannot be read")
        if ends:
            days, role = min(ends)
            metadata[release] = {"days": days, "role": role}
    authorities = {}
    for name, path in (("ca", os.path.join(ca, "ca.crt")), ("previous ca", os.path.join(ca + "-previous", "ca.crt"))):
        if os.path.exists(path):
            try:
                authorities[name] = _days(not_after(_read(path)), at)
            except (OSError, ValueError, IndexError):
                troubles.append(f"{path} cannot be read")
    return {
        "releases": metadata,
        "authorities": authorities,
        "run": newest(runs),
        "troubles": troubles,
    }


def newest(runs: str = RUNS) -> dict[str, Any]:
    """The newest install that was no dry run; ``signed`` names its sealed report. Empty where there is none."""
    try:
        names = sorted((n for n in os.listdir(runs) if not n.startswith(".")), reverse=True)
    except OSError:
        return {}
    for name in names:
        place = os.path.join(runs, name)
        try:
            said = _json(os.path.join(place, "report.json"))
            if said["check"] or "proof" not in said:
                continue
            sealed = os.path.join(place, "report.dsse.json")
            return {
                "started": str(said["started"]),
                "release": str(said["release"]),
                "good": bool(said["good"]),
                "proofs": sum(bool(p["good"]) for p in said["proof"]),
                "of": len(said["proof"]),
                "signed": sealed if os.path.exists(sealed) else "",
            }
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return {}


def findings(known: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What is wrong with it: severity (fail or warn), what, remedy."""
    found = []
    for release, about in known["releases"].items():
        word = ended(f"the metadata of {release} ({about['role']})", about["days"])
        if word:
            found.append(
                (*word, "Carry renewed metadata in: `appliance renew` on the builder, `appliance import` here.")
            )
    for name, days in known["authorities"].items():
        if word := ended(f"the certificate of the site's {name}", days, year=name == "ca"):
            found.append((*word, "Replace it without an outage: appliance certs rotate -i SITE --ca."))
    run = known["run"]
    if run and not run["good"]:
        found.append(
            ("fail", f"the last install ({run['started']}) did not end well", "Run `appliance install` again.")
        )
    elif run and not run["signed"]:
        found.append(("warn", f"the report of the last install ({run['started']}) is not signed", "Install again."))
    found += [("fail", trouble, "Restore it from a backup.") for trouble in known["troubles"]]
    return found


def ended(what: str, days: int, *, year: bool = False) -> tuple[str, str] | None:
    """Severity and words for something that has ``days`` left; None while that is long. An authority counts in years."""
    if days < 0:
        return "fail", f"{what} expired {-days} days ago"
    if days <= FAIL_DAYS:
        return "fail", f"{what} expires in {days} days"
    if days <= (365 if year else WARN_DAYS):
        return "warn", f"{what} expires in {days} days"
    return None


def lines(known: dict[str, Any]) -> list[str]:
    """The same for people."""
    run = known["run"]
    told = [f"control  {release}: metadata for {about['days']} days" for release, about in known["releases"].items()]
    told += [f"control  {name}: {days} days" for name, days in known["authorities"].items()]
    if run:
        seal = "signed" if run["signed"] else "not signed"
        state = "good" if run["good"] else "NOT GOOD"
        told.append(
            f"control  last install {run['started']} of {run['release']}: {state}, {run['proofs']} of {run['of']} proofs, {seal}"
        )
    told += [f"control  {severity.upper()}: {what}. {remedy}" for severity, what, remedy in findings(known)]
    return told or ["control  no record of an install here"]


def not_after(pem: bytes) -> float:
    """When a certificate of our own ends, in seconds since 1970.

    Only for files that this host wrote itself: no signature is looked at. The positions are those of RFC 5280, 4.1:
    Certificate { tbsCertificate { [0] version, serial, signature, issuer, validity { notBefore, notAfter } … } … }.

    Raises:
        ValueError, IndexError: it is no certificate.
    """
    body = pem.split(b"-----BEGIN CERTIFICATE-----")[1].split(b"-----END")[0]
    data = a2b_base64(body)
    at, _, _ = _element(data, 0)  # Certificate
    at, _, _ = _element(data, at)  # tbsCertificate
    if data[at] == 0xA0:
        at = _element(data, at)[1]
    for _ in range(3):  # serial, signature, issuer
        at = _element(data, at)[1]
    at, _, _ = _element(data, at)  # validity
    at = _element(data, at)[1]  # notBefore
    begin, end, tag = _element(data, at)
    told = data[begin:end].decode("ascii")
    if tag == 0x17:  # UTCTime: two digits of the year
        told = ("19" if int(told[:2]) >= 50 else "20") + told
    return _seconds(*(int(told[i:j]) for i, j in ((0, 4), (4, 6), (6, 8), (8, 10), (10, 12), (12, 14))))


def _element(data: bytes, at: int) -> tuple[int, int, int]:
    """Where the content of a DER element begins and ends, and its tag."""
    tag, size, begin = data[at], data[at + 1], at + 2
    if size & 0x80:
        n_bytes = size & 0x7F
        size, begin = int.from_bytes(data[begin : begin + n_bytes], "big"), begin + n_bytes
    if begin + size > len(data):
        raise ValueError("a DER element is longer than what holds it")
    return begin, begin + size, tag


def _time(text: str) -> float:
    """Seconds since 1970 of TUF's ``2026-11-21T08:00:00Z``."""
    return _seconds(*(int(text[i:j]) for i, j in ((0, 4), (5, 7), (8, 10), (11, 13), (14, 16), (17, 19))))


def _seconds(year: int, month: int, day: int, hour: int, minute: int, second: int) -> float:
    """Days of the Gregorian calendar since 1970-03-01, counted in years that begin in March, so that leap days are last."""
    years = year - (month < 3)
    days = 365 * years + years // 4 - years // 100 + years // 400 + (153 * ((month - 3) % 12) + 2) // 5 + day - 719469
    return days * DAY_S + hour * 3600 + minute * 60 + second


def _days(end: float, now: float) -> int:
    return int((end - now) // DAY_S)


def _json(path: str) -> Any:
    return json.loads(_read(path))


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(MAX_FILE)
