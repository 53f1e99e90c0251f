"""Rows as the rules need them, and the locks that come before any change.

Lock order everywhere: project → task → attempt → unit, pool_project last; tasks by ascending id.
Whoever changes a task, its attempts or its units holds the task's row lock, so what is read under
it stays true. Only heartbeats change a row without it, an attempt's lease_until: so attempts are
locked after their tasks, by ascending id as well.
Raises: nothing; `lease_lost` makes the error for whoever is not current.
"""

from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import datetime
from functools import lru_cache
from operator import itemgetter
from typing import Any

from sqlalchemy import text
from wfhub_common.errors import LeaseLost
from wfhub_common.messages import AttemptState, Retry, TaskState, UnitKind
from wfhub_common.sql import Connection


@dataclass(slots=True)  # as is the next: changed by what moves them (transitions.py) alone
class Task:
    task_id: str
    project_id: str
    state: TaskState
    current_attempt: str | None
    winner: str | None
    cancel_requested: bool
    cancel_reason: str
    deadline_passed: bool
    stopping: bool  # its runner is told to stop, by a cancel or the deadline
    review_wanted: bool
    review: str | None  # what a person decided
    tries: int  # attempts that ended by themselves
    losses: int
    retry: Retry
    verify_count: int
    workflow_id: str | None


_task_values = itemgetter(*(field.name for field in fields(Task)))


@dataclass(slots=True)
class Attempt:
    attempt_id: str
    task_id: str
    unit_id: str
    kind: UnitKind
    number: int
    runner_id: str
    incarnation: str
    state: AttemptState
    reason: str
    lease_until: datetime
    lease_over: bool
    ran_s: float  # since it was claimed
    stopping_s: float | None  # since its runner was told to stop
    budget_s: int  # what its task's own limits allow an agent attempt
    unit_tries: int
    unit_losses: int


_TASK_STATES: dict[str, TaskState] = {state.value: state for state in TaskState}
_ATTEMPT_STATES: dict[str, AttemptState] = {state.value: state for state in AttemptState}
_KINDS: dict[str, UnitKind] = {kind.value: kind for kind in UnitKind}

# Also the output of every query that finds tasks to be changed; `t` is the task.
TASK_COLUMNS = """
    t.task_id, t.project_id, t.state, t.current_attempt, t.winner, t.cancel_requested,
    t.cancel_reason, coalesce(t.deadline_at <= now(), false) AS deadline_passed,
    t.stopping_since IS NOT NULL AS stopping,
    t.spec ->> 'review_s' IS NOT NULL AS review_wanted, t.review,
    t.attempts_used AS tries, t.infra_losses AS losses,
    CAST(t.spec -> 'retry' AS text) AS retry,
    jsonb_array_length(t.spec -> 'verify') AS verify_count, t.workflow_id
"""
# In the SET of an UPDATE of tasks `t`, many at once: it changes nothing. Where none of a table's
# generated columns has to be made anew, Postgres parses what they are made of for each row (7 kB,
# an eighth of what a task cost it); where one has to (this makes queue_until), once a statement.
SAME_TIMES = "queued_at = t.queued_at"
_LOCK_TASKS = text(f"""
SELECT {TASK_COLUMNS} FROM sched.task t WHERE t.task_id = ANY(CAST(:ids AS text[]))
 ORDER BY t.task_id FOR UPDATE
""")  # noqa: S608 - our own column list
_LOCK_TASKS_OF = text(f"""
SELECT {TASK_COLUMNS} FROM sched.task t
 WHERE t.task_id IN (SELECT task_id FROM sched.attempt
                      WHERE attempt_id = ANY(CAST(:ids AS text[])))
 ORDER BY t.task_id FOR UPDATE
""")  # noqa: S608 - our own column list
_LOCK_ATTEMPTS = text("""
SELECT a.attempt_id, a.task_id, a.unit_id, a.kind, a.number, a.runner_id, a.incarnation, a.state,
       a.reason, a.lease_until, a.lease_until < now() AS lease_over,
       CAST(extract(epoch FROM now() - a.created_at) AS double precision) AS ran_s,
       CAST(extract(epoch FROM now() - t.stopping_since) AS double precision) AS stopping_s,
       t.attempt_s AS budget_s, u.tries AS unit_tries, u.losses AS unit_losses
  FROM sched.attempt a JOIN sched.unit u USING (unit_id) JOIN sched.task t ON t.task_id = a.task_id
 WHERE a.attempt_id = ANY(CAST(:ids AS text[])) ORDER BY a.attempt_id
   FOR UPDATE OF a
""")


async def lock_tasks(connection: Connection, task_ids: Collection[str]) -> dict[str, Task]:
    rows = await connection.execute(_LOCK_TASKS, {"ids": list(task_ids)})
    return {row.task_id: as_task(row) for row in rows}


async def lock_tasks_of(connection: Connection, attempts: Collection[str]) -> dict[str, Task]:
    """The tasks of these attempts, by task id."""
    rows = await connection.execute(_LOCK_TASKS_OF, {"ids": list(attempts)})
    return {row.task_id: as_task(row) for row in rows}


async def lock_attempts(connection: Connection, ids: Collection[str]) -> dict[str, Attempt]:
    """After their tasks were locked: read in a statement of its own, they are as they stay."""
    rows = await connection.execute(_LOCK_ATTEMPTS, {"ids": list(ids)})
    return {row.attempt_id: _as_attempt(row) for row in rows}


def as_task(row: Any) -> Task:
    """From a row of TASK_COLUMNS."""
    task = Task(*_task_values(row))
    task.state, task.retry = _TASK_STATES[task.state], _retry(row.retry)
    return task


@lru_cache(maxsize=256)  # most tasks have one of a few policies
def _retry(text: str) -> Retry:
    return Retry.model_validate_json(text)


def _as_attempt(row: Any) -> Attempt:
    attempt = Attempt(*row)  # the columns of _LOCK_ATTEMPTS are its fields, in their order
    attempt.state, attempt.kind = _ATTEMPT_STATES[attempt.state], _KINDS[attempt.kind]
    return attempt


def lease_lost(attempt_id: str) -> LeaseLost:
    return LeaseLost(
        "attempt-not-current",
        f"attempt {attempt_id[:64]} is not yours, or is no longer current: drop its work",
        attempt_id=attempt_id[:64],
    )
