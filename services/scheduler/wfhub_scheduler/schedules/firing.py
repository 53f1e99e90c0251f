"""Firing: one instant's row, and what it starts, in the transaction that holds the schedule.

UNIQUE (schedule_id, fire_at) is the fence: an instant that has a row is over, whoever asks again.
A firing that finds the project's queue full waits and is tried again, QUEUE_TRIES_MAX times.
"""

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any, assert_never

from sqlalchemy import text
from wfhub_common import tracing
from wfhub_common.errors import Rejected, RetryLater
from wfhub_common.messages import FINAL_TASK_STATES, FiringOutcome
from wfhub_common.sql import Connection

from wfhub_scheduler import projects
from wfhub_scheduler.core import Tx
from wfhub_scheduler.schedules import starting
from wfhub_scheduler.schedules.overlaps import Skip, Start, Wait, decide
from wfhub_scheduler.schedules.plans import Span
from wfhub_scheduler.schedules.rows import Schedule, tell
from wfhub_scheduler.schedules.starting import Started

QUEUE_TRIES_MAX = 6
QUEUE_RETRY_S = 5.0  # before the second try; doubles from there: given up after about five minutes
FIRINGS_KEPT = 1000  # rows of a schedule; what waits or runs is kept beyond them
_TOO_MANY = 429

_FORGET_ENDED = text("""
UPDATE sched.firing f SET running = false
 WHERE f.schedule_id = :schedule_id AND f.running AND NOT (
       EXISTS (SELECT FROM sched.task t WHERE t.task_id = f.task_id
                  AND t.state <> ALL(CAST(:final AS text[])))
    OR EXISTS (SELECT FROM sched.workflow w WHERE w.workflow_id = f.workflow_id
                  AND w.state = 'running'))
""")
_AT_WORK = text("""
SELECT fire_at, outcome, task_id, workflow_id, tries, retry_at FROM sched.firing
 WHERE schedule_id = :schedule_id AND (running OR outcome = 'waiting') ORDER BY fire_at
""")
_ADD = text("""
INSERT INTO sched.firing (schedule_id, fire_at, until_at, outcome, reason, message, fired_by,
                          idempotency_key, retry_at)
VALUES (:schedule_id, :fire_at, :until_at, :outcome, :reason, :message, :fired_by, :key,
        CASE WHEN :outcome = 'waiting' THEN now() END)
ON CONFLICT DO NOTHING
""")
_FIRED = text("""
UPDATE sched.firing
   SET outcome = 'fired', reason = '', message = '', retry_at = NULL, task_id = :task_id,
       workflow_id = :workflow_id, running = true
 WHERE schedule_id = :schedule_id AND fire_at = :fire_at AND outcome = 'waiting'
""")
_RETRY = text("""
UPDATE sched.firing
   SET tries = tries + 1, reason = :reason, message = :message,
       retry_at = now() + make_interval(secs => :delay_s)
 WHERE schedule_id = :schedule_id AND fire_at = :fire_at AND outcome = 'waiting'
""")
_LET_GO = text("""
UPDATE sched.firing SET outcome = 'skipped', reason = :reason, message = :message, retry_at = NULL
 WHERE schedule_id = :schedule_id AND fire_at = :fire_at AND outcome = 'waiting'
""")
_PRUNE = text("""
DELETE FROM sched.firing
 WHERE schedule_id = :schedule_id AND NOT running AND outcome <> 'waiting'
   AND fire_at < (SELECT fire_at FROM sched.firing WHERE schedule_id = :schedule_id
                   ORDER BY fire_at DESC OFFSET :kept LIMIT 1)
""")


@dataclass(frozen=True)
class ByHand:
    fired_by: str
    idempotency_key: str | None


@dataclass(frozen=True)
class Waiting:
    fire_at: datetime
    tries: int
    retry_at: datetime


@dataclass(frozen=True)
class AtWork:
    """Earlier firings that are not over: what runs, and what waits, the oldest first."""

    running: tuple[Started, ...]
    waiting: tuple[Waiting, ...]


@dataclass(frozen=True)
class Fired:
    outcome: FiringOutcome
    reason: str = ""
    message: str = ""
    started: Started | None = None


async def fire(
    tx: Tx, schedule: Schedule, fire_at: datetime, by_hand: ByHand | None = None
) -> Fired | None:
    """None: that instant has its firing already."""
    busy = await at_work(tx.connection, schedule)
    decision = decide(schedule.spec.overlap, running=len(busy.running), waiting=len(busy.waiting))
    match decision:
        case Skip(reason, message):
            span = Span(fire_at, fire_at)
            added = await let_go(
                tx.connection, schedule, span, FiringOutcome.SKIPPED, reason, message
            )
            return Fired(FiringOutcome.SKIPPED, reason, message) if added else None
        case Wait():
            if not await _add(tx.connection, schedule, fire_at, by_hand):
                return None
            return Fired(FiringOutcome.WAITING, "overlap")
        case Start(replaces):
            if not await _add(tx.connection, schedule, fire_at, by_hand):
                return None
            if replaces:
                await _replace(tx, schedule, busy)
            return await start(tx, schedule, fire_at, tries=0)
        case _:
            assert_never(decision)


async def at_work(connection: Connection, schedule: Schedule) -> AtWork:
    of_schedule = {"schedule_id": schedule.schedule_id}
    await connection.execute(_FORGET_ENDED, {**of_schedule, "final": sorted(FINAL_TASK_STATES)})
    rows = (await connection.execute(_AT_WORK, of_schedule)).all()
    return AtWork(
        running=tuple(
            Started(row.task_id, row.workflow_id)
            for row in rows
            if row.outcome == FiringOutcome.FIRED
        ),
        waiting=tuple(
            Waiting(row.fire_at, row.tries, row.retry_at)
            for row in rows
            if row.outcome == FiringOutcome.WAITING
        ),
    )


async def start(tx: Tx, schedule: Schedule, fire_at: datetime, *, tries: int) -> Fired:
    """Starts what a firing that waits is for. No room for it: waits on, or lets it go."""
    at = {"schedule_id": schedule.schedule_id, "fire_at": fire_at}
    project = await projects.find(tx.connection, schedule.project_id)
    try:
        with tracing.span("fire schedule", schedule_id=schedule.schedule_id):
            async with tx.connection.begin_nested():
                started = await starting.start(tx, schedule, project)
    except (Rejected, RetryLater) as e:
        full = isinstance(e, RetryLater) or e.status == _TOO_MANY
        reason = {"reason": e.code, "message": e.message}
        if full and tries + 1 < QUEUE_TRIES_MAX:
            delay_s = QUEUE_RETRY_S * 2**tries
            await tx.connection.execute(_RETRY, {**at, **reason, "delay_s": delay_s})
            return Fired(FiringOutcome.WAITING, e.code, e.message)
        await _drop(tx.connection, schedule, fire_at, e.code, e.message)
        return Fired(FiringOutcome.SKIPPED, e.code, e.message)
    await tx.connection.execute(_FIRED, {**at, **asdict(started)})
    await tx.connection.execute(_PRUNE, {"schedule_id": schedule.schedule_id, "kept": FIRINGS_KEPT})
    named = {name: value for name, value in asdict(started).items() if value is not None}
    data = {"fire_at": _stamp(fire_at), **named}
    await tell(tx.connection, "schedule.fired", schedule, data, task_id=started.task_id)
    return Fired(FiringOutcome.FIRED, started=started)


async def let_go(
    connection: Connection,
    schedule: Schedule,
    span: Span,
    outcome: FiringOutcome,
    reason: str,
    message: str,
) -> bool:
    """Writes down instants that are not fired. False: the first of them has its row already."""
    row = _row(schedule, span.first_at, None) | {
        "until_at": span.last_at,
        "outcome": outcome.value,
        "reason": reason,
        "message": message,
    }
    if (await connection.execute(_ADD, row)).rowcount == 0:
        return False
    data = {
        "fire_at": _stamp(span.first_at),
        "until_at": _stamp(span.last_at),
        "outcome": outcome.value,
        "reason": reason,
        "message": message,
    }
    await tell(connection, "schedule.skipped", schedule, data)
    return True


async def _add(
    connection: Connection, schedule: Schedule, fire_at: datetime, by_hand: ByHand | None
) -> bool:
    added = await connection.execute(_ADD, _row(schedule, fire_at, by_hand))
    return added.rowcount == 1


async def _replace(tx: Tx, schedule: Schedule, busy: AtWork) -> None:
    why = f"replaced by the next firing of schedule {schedule.name}"
    for one in busy.waiting:
        await _drop(tx.connection, schedule, one.fire_at, "replaced", why)
    await starting.stop(tx, busy.running, why)


async def _drop(
    connection: Connection, schedule: Schedule, fire_at: datetime, reason: str, message: str
) -> None:
    at = {"schedule_id": schedule.schedule_id, "fire_at": fire_at}
    await connection.execute(_LET_GO, {**at, "reason": reason, "message": message})
    data = {"fire_at": _stamp(fire_at), "until_at": _stamp(fire_at)}
    outcome = {"outcome": FiringOutcome.SKIPPED.value, "reason": reason, "message": message}
    await tell(connection, "schedule.skipped", schedule, {**data, **outcome})


def _row(schedule: Schedule, fire_at: datetime, by_hand: ByHand | None) -> dict[str, Any]:
    return {
        "schedule_id": schedule.schedule_id,
        "fire_at": fire_at,
        "until_at": fire_at,
        "outcome": FiringOutcome.WAITING.value,
        "reason": "overlap",
        "message": "",
        "fired_by": by_hand.fired_by if by_hand else "",
        "key": by_hand.idempotency_key if by_hand else None,
    }


def _stamp(at: datetime) -> str:
    return at.isoformat().replace("+00:00", "Z")
