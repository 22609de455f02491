"""Two clocks: minutes are measured, days and months are read from the calendar. Neither goes back."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo


@dataclass(frozen=True)
class Now:
    """A moment: seconds since boot, seconds since 1970, and the day and month of the site's calendar."""

    mono: float
    wall: float
    day: str
    month: str


class Clock:
    """Tells the moment. A calendar that is set back stands still until it catches up, so that no day is opened twice."""

    def __init__(
        self,
        zone: str,
        *,
        wall: Callable[[], float] = time.time,
        mono: Callable[[], float] = time.monotonic,
        latest: float = 0.0,
    ) -> None:
        self._zone, self._wall, self._mono, self.latest = ZoneInfo(zone), wall, mono, latest
        self._cached = (0.0, "", "")  # end of the minute for which day and month were computed

    def now(self) -> Now:
        """The moment; day and month never go back behind what was told before."""
        self.latest = wall = max(self.latest, self._wall())
        if wall >= self._cached[0]:
            local = datetime.fromtimestamp(wall, self._zone)
            self._cached = ((wall // 60 + 1) * 60, local.strftime("%Y-%m-%d"), local.strftime("%Y-%m"))
        return Now(self._mono(), wall, self._cached[1], self._cached[2])

    def until_next_day(self, now: Now) -> float:
        """Seconds to the next midnight of the site's zone."""
        return self._until(now, datetime.fromisoformat(now.day) + timedelta(days=1))

    def until_next_month(self, now: Now) -> float:
        """Seconds to the first midnight of the next month in the site's zone."""
        first = datetime.fromisoformat(f"{now.month}-01")
        return self._until(now, (first + timedelta(days=32)).replace(day=1))

    def _until(self, now: Now, moment: datetime) -> float:
        return max(1.0, moment.replace(tzinfo=self._zone).timestamp() - now.wall)


def boot_id() -> str:
    """What tells one boot of this machine from another; seconds since boot compare only within one."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
