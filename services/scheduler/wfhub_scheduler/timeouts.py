"""Timeouts that nobody reports: the queue's (`queue_s`), a person's (`review_s`, else REVIEW_S) and
the task's (`deadline_at`).

Each is one indexed statement that finds and locks what is over, and one transaction for all of it
(sweeping.py: but for what fails in it).
Tasks that somebody else holds are left to the next turn, a second later.
Raises: nothing of its own.
"""

from sqlalchemy import text
from wfhub_common.log import get_logger

from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.rows import TASK_COLUMNS, as_task
from wfhub_scheduler.states import TaskEvent
from wfhub_scheduler.sweeping import SWEPT, swept
from wfhub_scheduler.transitions import Transitions

TIMEOUTS_AT_ONCE = 200  # tasks in one transaction; the next one follows at once

log = get_logger(__name__)

# Each condition is its index's own (migrations 0003, 0015).
_OVER = {
    TaskEvent.QUEUE_TIMEOUT: text(f"""
SELECT {TASK_COLUMNS} FROM sched.task t
 WHERE queue_until <= now() AND queue_until IS NOT NULL AND state = 'ready'
   AND attempts_used + infra_losses = 0 AND {SWEPT}
 ORDER BY queue_until LIMIT :count FOR UPDATE SKIP LOCKED
"""),  # noqa: S608 - our own column list
    TaskEvent.REVIEW_TIMEOUT: text(f"""
SELECT {TASK_COLUMNS} FROM sched.task t
 WHERE review_until <= now() AND state = 'review' AND {SWEPT}
 ORDER BY review_until LIMIT :count FOR UPDATE SKIP LOCKED
"""),  # noqa: S608 - our own column list
    TaskEvent.DEADLINE: text(f"""
SELECT {TASK_COLUMNS} FROM sched.task t
 WHERE deadline_at <= now() AND deadline_at IS NOT NULL AND stopping_since IS NULL
   AND state IN ('blocked', 'ready', 'running', 'sealing') AND {SWEPT}
 ORDER BY deadline_at LIMIT :count FOR UPDATE SKIP LOCKED
"""),  # noqa: S608 - our own column list
}
_SAID = {
    TaskEvent.QUEUE_TIMEOUT: "no runner took the task within queue_s: add runners, or wait longer",
    TaskEvent.REVIEW_TIMEOUT: "nobody approved the result in time: its patch is an artifact",
    TaskEvent.DEADLINE: "the task was not ready to be published by its deadline_at",
}


async def end_overdue(core: Core, event: TaskEvent) -> bool:
    """QUEUE_TIMEOUT, REVIEW_TIMEOUT or DEADLINE, of whatever tasks it is time for; True: there may
    be more."""

    async def work(tx: Tx, only: str | None, found: list[str]) -> int:
        of = {"count": TIMEOUTS_AT_ONCE, "only": only}
        rows = (await tx.connection.execute(_OVER[event], of)).all()
        found += [row.task_id for row in rows]
        moves = Transitions(tx, {row.task_id: as_task(row) for row in rows})
        moved = [moves.timed_out(row.task_id, event, _SAID[event]) for row in rows]
        await moves.write()
        return sum(moved)

    count = await swept(core, work)
    if count:
        log.info("tasks timed out", event_=event.value, tasks=count)
    return count == TIMEOUTS_AT_ONCE
