"""What the control host knows by itself: its newest run, the ends of what it keeps. Reads a few small files, asks no node."""

from __future__ import annotations

import json
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography import x509

from engine import metadata
from engine.errors import ApplianceError
from installer.releases import releases

ROLES = ("timestamp", "snapshot", "targets")
WARN_DAYS, FAIL_DAYS = 30, 7
MAX_FILE = 4 << 20  # bytes
MAX_RUNS = 50  # newest ones that are looked at for how long a run takes


def control(depot: Path, ca: Path, runs: Path, now: datetime | None = None) -> dict[str, Any]:
    """Releases with the days left of their metadata, the authorities' days left, the newest run.

    ``days`` are whole days, negative after the end; a file that cannot be read stands in ``troubles``.
    """
    at, troubles = now or datetime.now(UTC), []
    known = {}
    for release in releases(depot):
        ends = []
        for role in ROLES:
            try:
                signed = json.loads(metadata.load(depot / "bundles" / release, f"{role}.json") or b"")["signed"]
                ends.append(((datetime.fromisoformat(signed["expires"]) - at).days, role))
            except (ApplianceError, OSError, ValueError, KeyError, TypeError):
                troubles.append(f"{depot / 'bundles' / release}: {role}.json cannot be read")
        if ends:
            days, role = min(ends)
            known[release] = {"days": days, "role": role}
    authorities = {}
    for name, path in (("ca", ca / "ca.crt"), ("previous ca", ca.with_name(f"{ca.name}-previous") / "ca.crt")):
        if path.exists():
            try:
                ends_at = x509.load_pem_x509_certificate(_read(path)).not_valid_after_utc
                authorities[name] = (ends_at - at).days
            except (OSError, ValueError):
                troubles.append(f"{path} cannot be read")
    return {
        "releases": known,
        "authorities": authorities,
        "run": newest(runs),
        "troubles": troubles,
    }


def newest(runs: Path) -> dict[str, Any]:
    """The newest install that was no dry run; ``signed`` names its sealed report. Empty where there is none."""
    try:
        places = sorted((p for p in runs.iterdir() if not p.name.startswith(".")), reverse=True)
    except OSError:
        return {}
    for place in places:
        try:
            said = _json(place / "report.json")
            if said["check"] or "proof" not in said:
                continue
            sealed = place / "report.dsse.json"
            return {
                "started": str(said["started"]),
                "release": str(said["release"]),
                "good": bool(said["good"]),
                "proofs": sum(bool(p["good"]) for p in said["proof"]),
                "of": len(said["proof"]),
                "signed": str(sealed) if sealed.exists() else "",
            }
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return {}


def last_seconds(runs: Path, *, check: bool) -> float | None:
    """Seconds that the newest run took which ended well and had Ansible work on nodes; None where there is none.

    Args:
        runs: directory of the records of runs.
        check: look at dry runs; at real ones otherwise.
    """
    try:
        places = sorted((p for p in runs.iterdir() if not p.name.startswith(".")), reverse=True)
    except OSError:
        return None
    for place in places[:MAX_RUNS]:
        with suppress(OSError, ValueError, KeyError, TypeError):
            said = _json(place / "report.json")
            if bool(said["check"]) is check and said["good"] and "nodes" in said["phases_s"]:
                return float(said["phases_s"]["total"])
    return None


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


def _json(path: Path) -> Any:
    return json.loads(_read(path))


def _read(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_FILE)
