"""Triggers: when a schedule fires, as a thing that answers with its next instant.

A trigger is cron in a time zone, or an interval that counts from an anchor; both within
`starts_at` and `ends_at`, which are instants of it if they are hit. An instant is aware UTC and
has no jitter in it: `jitter_ms` says how much later than its instant a firing is due.

Pure. Units: seconds (*_s), milliseconds (*_ms). Raises: Rejected (`cron-invalid`,
`time-zone-unknown`, `schedule-times`).
"""

import difflib
import hashlib
import re
import zoneinfo
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from wfhub_common.errors import Rejected

from wfhub_scheduler.schedules import cron

EVERY_S_MIN = 10  # schedulers look each second; what runs more often is a service, not a task
EVERY_S_MAX = 366 * 86_400
# What follows has no local time in some zones: the calendar ends with the year 9999.
LAST = datetime(9999, 12, 30, tzinfo=UTC)
_EVERY = "@every"
_UNITS_S = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:[0-9]{1,9}[dhms])+")
_PART = re.compile(r"([0-9]+)([dhms])")
_MICROSECOND = timedelta(microseconds=1)
_ZONES_OF_THE_MACHINE = {"localtime", "posixrules", "Factory"}  # not the same on every replica


@dataclass(frozen=True)
class Trigger:
    """`text` is cron's five fields, or `every_s` the interval from `anchor_at`."""

    zone: zoneinfo.ZoneInfo
    text: str = ""
    every_s: int = 0
    anchor_at: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    starts_at: datetime | None = None
    ends_at: datetime | None = None

    def next_after(self, after: datetime) -> datetime | None:
        """The first instant later than `after`; None: there is none any more."""
        if self.starts_at is not None and self.starts_at > after:
            after = self.starts_at - _MICROSECOND
        if self.every_s:
            found = self._next_interval(after)
        else:
            found = cron.next_after(self.text, self.zone, after)
        if found is None or found > min(self.ends_at or LAST, LAST):
            return None
        return found

    def between(self, first: datetime, last: datetime) -> Iterator[datetime]:
        """The instants from `first` to `last`, both included."""
        instant = self.next_after(first - _MICROSECOND)
        while instant is not None and instant <= last:
            yield instant
            instant = self.next_after(instant)

    def newest(self, first: datetime, last: datetime, count: int) -> list[datetime]:
        """The `count` newest of `between(first, last)`, oldest first, however many there are."""
        span = timedelta(minutes=1)
        while True:
            start = max(first, last - span)
            found = list(self.between(start, last))
            if len(found) >= count or start == first:
                return found[-count:]
            span *= 4

    def _next_interval(self, after: datetime) -> datetime | None:
        every = timedelta(seconds=self.every_s)
        steps = max((after - self.anchor_at) // every + 1, 0)
        try:
            return self.anchor_at + steps * every
        except OverflowError:  # past the year 9999
            return None


def trigger_of(
    when: str,
    time_zone: str,
    *,
    anchor_at: datetime,
    starts_at: datetime | None = None,
    ends_at: datetime | None = None,
) -> Trigger:
    """An interval counts from `starts_at` where that is given, else from `anchor_at`."""
    if starts_at is not None and ends_at is not None and ends_at <= starts_at:
        raise Rejected("schedule-times", "ends_at has to be later than starts_at", field="ends_at")
    every_s = _every_s(when)
    return Trigger(
        zone=zone_of(time_zone),
        text="" if every_s else cron.checked(when),
        every_s=every_s,
        anchor_at=_utc(starts_at or anchor_at),
        starts_at=starts_at and _utc(starts_at),
        ends_at=ends_at and _utc(ends_at),
    )


def jitter_ms(
    schedule_id: str, instant: datetime, following: datetime | None, jitter_s: int
) -> int:
    """How much later than `instant` it is due: the same for whoever asks, always before the
    following instant, spread evenly over `jitter_s`."""
    seed = f"{schedule_id} {instant.isoformat()}".encode()
    luck = int.from_bytes(hashlib.sha256(seed).digest()[:8], "big") / 2**64
    room = timedelta(seconds=jitter_s)
    if following is not None:
        room = min(room, following - instant)
    return int(luck * (room // timedelta(milliseconds=1)))


def zone_of(name: str) -> zoneinfo.ZoneInfo:
    """Raises: Rejected, with the names that are nearest."""
    try:
        if name not in _ZONES_OF_THE_MACHINE:
            return zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        pass  # said below
    near = _near(name)
    hint = f"did you mean {' or '.join(near)}?" if near else "use one like Europe/Berlin, or UTC"
    raise Rejected(
        "time-zone-unknown",
        f"there is no time zone {name[:64]!r}: {hint}",
        field="time_zone",
        suggestions=near,
    )


def _near(name: str) -> list[str]:
    known = _known_zones()
    wanted = name.lower().replace(" ", "_")
    city = wanted.rpartition("/")[2]
    by_city = [zone for lower, zone in known.items() if lower.rpartition("/")[2] == city]
    close = difflib.get_close_matches(wanted, list(known), n=3)
    return list(dict.fromkeys([*by_city, *(known[lower] for lower in close)]))[:3]


@lru_cache(maxsize=1)
def _known_zones() -> dict[str, str]:
    return {name.lower(): name for name in sorted(zoneinfo.available_timezones())}


def _every_s(when: str) -> int:
    """The seconds of `@every 1h30m`; 0: it is not an interval."""
    head, _, duration = when.strip().partition(" ")
    if head.lower() != _EVERY:
        return 0
    duration = duration.replace(" ", "")
    if _DURATION.fullmatch(duration) is None:
        raise Rejected(
            "cron-invalid",
            f"cron: {duration[:40]!r} is not a duration; one looks like 90s, 15m, 1h30m or 1d",
            field="interval",
        )
    every_s = sum(int(count) * _UNITS_S[unit] for count, unit in _PART.findall(duration))
    if not EVERY_S_MIN <= every_s <= EVERY_S_MAX:
        raise Rejected(
            "cron-invalid",
            f"cron: every {every_s} s; an interval is between {EVERY_S_MIN} s and"
            f" {EVERY_S_MAX // 86_400} days",
            field="interval",
        )
    return every_s


def _utc(at: datetime) -> datetime:
    return at.astimezone(UTC)
