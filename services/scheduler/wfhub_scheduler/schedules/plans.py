"""Plans: a schedule's next instant has come, or a whole row of them has: which is fired now?

An instant is on time until ON_TIME_S after it was due; later it is missed. Of the missed ones the
newest `backfill_max` are fired all the same, the oldest of these first; those before them are
written down as missed, as one range. So after an outage 0 fires nothing of what was missed, 1 (the
default) the last one, as anacron does.
One instant is fired a transaction; asking again finds the next one, or that it is done.

Pure. Units: seconds. Instants are aware UTC, without jitter.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from wfhub_scheduler.schedules.triggers import EVERY_S_MIN, Trigger, jitter_ms

ON_TIME_S = 60.0  # a restart of a scheduler or a database is not an outage
_ON_TIME_INSTANTS = int(ON_TIME_S / EVERY_S_MIN) + 2  # at most so many are on time at once


@dataclass(frozen=True)
class Upcoming:
    """The instant a schedule waits for, and how much later its firing is due."""

    fire_at: datetime
    jitter_ms: int

    @property
    def due_at(self) -> datetime:
        return self.fire_at + timedelta(milliseconds=self.jitter_ms)


@dataclass(frozen=True)
class Span:
    """Instants that are not fired: the first and the last of them."""

    first_at: datetime
    last_at: datetime


@dataclass(frozen=True)
class Plan:
    missed: Span | None
    fire_at: datetime | None
    upcoming: Upcoming | None  # None: the schedule has ended


@dataclass(frozen=True)
class Calendar:
    """A schedule's instants with its own jitter."""

    schedule_id: str
    trigger: Trigger
    jitter_s: int

    def upcoming(self, after: datetime) -> Upcoming | None:
        instant = self.trigger.next_after(after)
        return None if instant is None else self.at(instant)

    def at(self, instant: datetime) -> Upcoming:
        if not self.jitter_s:
            return Upcoming(instant, 0)
        following = self.trigger.next_after(instant)
        return Upcoming(instant, jitter_ms(self.schedule_id, instant, following, self.jitter_s))


def plan(calendar: Calendar, upcoming: Upcoming, *, backfill_max: int, now: datetime) -> Plan:
    """What to do at `now` about a schedule that is due (`upcoming.due_at` <= `now`)."""
    count = backfill_max + _ON_TIME_INSTANTS
    newest = calendar.trigger.newest(upcoming.fire_at, now, count)
    due = [calendar.at(instant) for instant in newest]
    due = [one for one in due if one.due_at <= now]
    if not due:  # what the row waits for is no instant of this trigger (any more)
        return Plan(None, None, calendar.upcoming(upcoming.fire_at - timedelta(microseconds=1)))
    late_until = now - timedelta(seconds=ON_TIME_S)
    missed = [one.fire_at for one in due if one.due_at < late_until]
    on_time = [one.fire_at for one in due if one.due_at >= late_until]
    kept = missed[-backfill_max:] if backfill_max else []
    fired = [*kept, *on_time]
    dropped = missed[: len(missed) - len(kept)]
    # What `newest` left out is missed as well: the range begins where the schedule stood.
    span = Span(upcoming.fire_at, dropped[-1]) if dropped else None
    last = fired[0] if fired else dropped[-1]
    return Plan(span, fired[0] if fired else None, calendar.upcoming(last))
