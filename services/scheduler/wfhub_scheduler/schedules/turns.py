"""Turns: each second every scheduler looks for schedules that are due, and for firings that wait.

One transaction takes one schedule (FOR UPDATE SKIP LOCKED: no two at once, nobody waits) and fires
one instant of it. A schedule that fails is logged, put off for PUT_OFF_S, and holds up no other;
one that fails again and again is put aside (dead_letters.py).
Units: seconds.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import TextClause, text
from wfhub_common import db
from wfhub_common.dead_letters import Letter, code_of, described
from wfhub_common.log import get_logger
from wfhub_common.messages import FINAL_TASK_STATES, FiringOutcome

from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.dead_letters import (
    OUTAGES,
    SCHEDULE,
    TURN_FAILURES_MAX,
    not_aside,
    put_aside,
)
from wfhub_scheduler.schedules.firing import at_work, fire, let_go, start
from wfhub_scheduler.schedules.plans import plan
from wfhub_scheduler.schedules.rows import COLUMNS, Schedule, of_row, stand

SCHEDULES_POLL_S = 1.0
TURN_STEPS_MAX = 200  # then the loop looks whether it is to stop
PUT_OFF_S = 30.0

log = get_logger(__name__)

Step = Callable[[Tx, Schedule], Awaitable[bool]]  # True: it may have more to do

_ANYTHING = text("""
SELECT EXISTS (SELECT FROM sched.schedule WHERE NOT paused AND next_fire_at <= now())
    OR EXISTS (SELECT FROM sched.firing WHERE outcome = 'waiting' AND retry_at <= now())
""")
_DUE = text(f"""
-- The lock reads the row anew: what another scheduler has just fired is not due any more.
SELECT {COLUMNS} FROM sched.schedule s
 WHERE NOT s.paused AND s.next_fire_at <= now()
   AND s.next_fire_at + s.next_jitter_ms * interval '1 millisecond' <= now()
   AND s.schedule_id <> ALL(CAST(:done AS text[]))
   AND {not_aside(SCHEDULE, "s.schedule_id")}
 ORDER BY s.next_fire_at LIMIT 1 FOR UPDATE SKIP LOCKED
""")  # noqa: S608 - our own column list
_MAY_START = text(f"""
SELECT {COLUMNS} FROM sched.schedule s
 WHERE NOT s.paused AND s.schedule_id <> ALL(CAST(:done AS text[]))
   AND {not_aside(SCHEDULE, "s.schedule_id")}
   AND s.schedule_id IN (SELECT f.schedule_id FROM sched.firing f
                          WHERE f.outcome = 'waiting' AND f.retry_at <= now())
   AND NOT EXISTS (SELECT FROM sched.firing f
                     LEFT JOIN sched.task t ON t.task_id = f.task_id
                     LEFT JOIN sched.workflow w ON w.workflow_id = f.workflow_id
                    WHERE f.schedule_id = s.schedule_id AND f.running
                      AND (t.state <> ALL(CAST(:final AS text[])) OR w.state = 'running'))
 LIMIT 1 FOR UPDATE OF s SKIP LOCKED
""")  # noqa: S608 - our own column list


@dataclass
class Turns:
    """One scheduler's. `put_off`: schedules that failed here, and until when (monotonic)."""

    core: Core
    put_off: dict[str, float] = field(default_factory=dict)

    async def turn(self) -> bool:
        """True: there may be more to do at once."""
        async with db.transaction(self.core.engine) as connection:
            if not (await connection.execute(_ANYTHING)).scalar_one():
                return False
        due = await self._each(_DUE, fire_next)
        waiting = await self._each(_MAY_START, start_next, final=sorted(FINAL_TASK_STATES))
        return due or waiting

    async def _each(self, query: TextClause, step: Step, **values: Any) -> bool:
        """One schedule after the other, until none is left; True: stopped before that."""
        now = time.monotonic()
        self.put_off = {failed: until for failed, until in self.put_off.items() if until > now}
        done = list(self.put_off)
        for _ in range(TURN_STEPS_MAX):
            taken = await self._take(query, step, {**values, "done": done})
            if taken is None:
                return False
            schedule_id, again = taken
            if not again:
                done.append(schedule_id)
        return True

    async def _take(
        self, query: TextClause, step: Step, values: dict[str, Any]
    ) -> tuple[str, bool] | None:
        """The schedule that was taken, and whether it may have more to do; None: there was none."""
        schedule_id = ""

        async def work(tx: Tx) -> bool:
            nonlocal schedule_id
            schedule_id = ""  # of an earlier try that met a deadlock
            row = (await tx.connection.execute(query, values)).one_or_none()
            if row is None:
                return False
            schedule_id = row.schedule_id
            return await step(tx, of_row(row))

        try:
            again = await self.core.commit(work)
        except OUTAGES:
            raise
        except Exception as e:
            if not schedule_id or db.is_unready(e):
                raise
            log.exception("schedule failed", schedule_id=schedule_id, again_in_s=PUT_OFF_S)
            self.put_off[schedule_id] = time.monotonic() + PUT_OFF_S
            letter = Letter(SCHEDULE, schedule_id, code_of(e), described(e))
            await put_aside(self.core, letter, failures_max=TURN_FAILURES_MAX)
            again = False
        return (schedule_id, again) if schedule_id else None


async def fire_next(tx: Tx, schedule: Schedule) -> bool:
    """The oldest instant that is to be fired; those before it that are not are written down."""
    assert schedule.upcoming is not None
    found = plan(
        schedule.calendar,
        schedule.upcoming,
        backfill_max=schedule.spec.backfill_max,
        now=schedule.now,
    )
    if found.missed is not None:
        message = "not fired in time, and beyond backfill_max"
        await let_go(tx.connection, schedule, found.missed, FiringOutcome.MISSED, "outage", message)
    if found.fire_at is not None:
        await fire(tx, schedule, found.fire_at)
    await stand(tx.connection, schedule.schedule_id, found.upcoming)
    return True


async def start_next(tx: Tx, schedule: Schedule) -> bool:
    """The firing that has waited longest, if nothing runs now."""
    busy = await at_work(tx.connection, schedule)
    if busy.running or not busy.waiting:
        return False
    oldest = busy.waiting[0]
    if oldest.retry_at <= schedule.now:
        await start(tx, schedule, oldest.fire_at, tries=oldest.tries)
    return False
