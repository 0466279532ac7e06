"""When a scan is due, and the windows in which it may start. Pure; all times that go in or come out are UTC.

Where a clock is put forward or back, cron runs as Debian's does (https://github.com/cuu508/cronsim), and a window is what the
clock on the wall says: an hour that is skipped is in no window, and of an hour that comes twice only what is certainly meant.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final
from zoneinfo import ZoneInfo

from cronsim import CronSim

_DAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_MOST_REMEMBERED: Final = 20_000
_LOOK_AHEAD_DAYS: Final = 22  # a day of the week that falls into a skipped hour is not there twice in a row
_LATEST: Final = datetime(9000, 1, 1, tzinfo=UTC)


def offset_seconds(key: str, spread_seconds: int) -> int:
    """0 up to less than `spread_seconds`; the same for a machine every time, and another for most others."""
    if spread_seconds <= 0:
        return 0
    return (
        int.from_bytes(hashlib.sha256(b"spread\0" + key.encode("utf-8", "surrogatepass")).digest()[:8]) % spread_seconds
    )


@dataclass(slots=True)
class Fires:
    """The moments of one cron expression, worked out once for all machines that share it."""

    cron: str
    zone: str
    _from: datetime = _LATEST
    _known: list[datetime] = field(default_factory=list)
    _more: Iterator[datetime] = field(default_factory=lambda: iter(()))

    def after(self, moment: datetime) -> datetime:
        """The first one later than `moment`. One that never comes is the year 9000."""
        if moment < self._from - timedelta(days=2) and self._known:
            return self._single(moment)
        if moment < self._from or len(self._known) > _MOST_REMEMBERED:
            self._from, self._known, self._more = moment, [], self._moments(moment)
        while not self._known or self._known[-1] <= moment:
            found = next(self._more, _LATEST)
            if not self._known or found > self._known[-1]:
                self._known.append(found)
            if found == _LATEST:
                break
        place = bisect_right(self._known, moment)
        return self._known[place] if place < len(self._known) else _LATEST

    def _single(self, moment: datetime) -> datetime:
        return next((one for one in self._moments(moment) if one > moment), _LATEST)

    def _moments(self, moment: datetime) -> Iterator[datetime]:
        start = moment.astimezone(ZoneInfo(self.zone)) if self.zone != "UTC" else moment.astimezone(UTC)
        return (one.astimezone(UTC) for one in CronSim(self.cron, start))


@dataclass(slots=True)
class Clockwork:
    """Schedules as policies say them: `{"cron": …, "time_zone": …, "spread_seconds": …}`."""

    _fires: dict[tuple[str, str], Fires] = field(default_factory=dict)

    def due_after(self, schedule: Mapping[str, Any], key: str, moment: datetime) -> datetime:
        """The first due time of the machine `key` that is later than `moment`."""
        cron, zone = str(schedule["cron"]), str(schedule.get("time_zone", "UTC"))
        fires = self._fires.get((cron, zone))
        if fires is None:
            if len(self._fires) > 1_000:
                self._fires.clear()
            fires = self._fires[cron, zone] = Fires(cron, zone)
        late = timedelta(seconds=offset_seconds(key, int(schedule.get("spread_seconds", 0))))
        return fires.after(moment - late) + late


@dataclass(frozen=True, slots=True)
class Opening:
    """Work may begin from `start` on, and before `end` (None: any time later)."""

    start: datetime
    end: datetime | None


def opening(window: Mapping[str, Any] | None, moment: datetime) -> Opening:
    """The first moment at or after `moment` that is inside `window` (`days`, `start`, `end`, `time_zone`), and that window's end."""
    if window is None:
        return Opening(moment, None)
    zone = ZoneInfo(str(window.get("time_zone", "UTC")))
    days = {_DAYS.index(day) for day in window.get("days") or _DAYS}
    first = moment.astimezone(zone).date() - timedelta(days=1)
    for number in range(_LOOK_AHEAD_DAYS):
        day = first + timedelta(days=number)
        if day.weekday() not in days:
            continue
        start, end = _bounds(window, day, zone)
        if max(start, moment) < end:
            return Opening(max(start, moment), end)
    raise ValueError("a window that never opens")


def _bounds(window: Mapping[str, Any], day: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    opens, closes = (time.fromisoformat(str(window[name])) for name in ("start", "end"))
    last = day if closes > opens else day + timedelta(days=1)
    end = _utc(datetime.combine(last, closes), zone, later=False)
    start = _utc(datetime.combine(day, opens), zone, later=True)
    if start >= end:  # both in an hour that comes twice: the first time
        start = _utc(datetime.combine(day, opens), zone, later=False)
    return start, end


def _utc(wall: datetime, zone: ZoneInfo, *, later: bool) -> datetime:
    """Of a time that comes twice, the `later` or earlier; of one that is skipped, the moment at which it is skipped."""
    early, late = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if early <= late:
        return late if later else early
    # skipped: with `fold` the offsets before and after the change are taken, so the change lies between the two
    low, high = late, early
    after = high.astimezone(zone).utcoffset()
    while high - low > timedelta(seconds=1):
        middle = (low + (high - low) / 2).replace(microsecond=0)
        if middle in {low, high}:
            break
        if middle.astimezone(zone).utcoffset() == after:
            high = middle
        else:
            low = middle
    return high
