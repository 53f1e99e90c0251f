"""Rows as the rules need them, and the locks that come before any change.

Lock order everywhere: project → task → attempt → unit, pool_project last. Whoever changes a task,
its attempts or its units holds the task's row lock, so what is read under it stays true.
Raises: LeaseLost.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from wfhub_common.errors import LeaseLost
from wfhub_common.messages import AttemptState, TaskState, UnitKind


@dataclass(frozen=True)
class Task:
    task_id: str
    project_id: str
    state: TaskState
    current_attempt: str | None
    winner: str | None
    cancel_requested: bool
    cancel_reason: str
    attempts_max: int
    verify_count: int
    pool: str
    priority: int


@dataclass(frozen=True)
class Attempt:
    attempt_id: str
    task_id: str
    unit_id: str
    kind: UnitKind
    number: int
    runner_id: str
    state: AttemptState
    reason: str
    lease_until: datetime


_TASK_COLUMNS = """
    task_id, project_id, state, current_attempt, winner, cancel_requested, cancel_reason,
    CAST(spec ->> 'attempts_max' AS integer) AS attempts_max,
    jsonb_array_length(spec -> 'verify') AS verify_count,
    spec ->> 'pool' AS pool, CAST(spec ->> 'priority' AS integer) AS priority
"""
_LOCK_TASK = text(f"SELECT {_TASK_COLUMNS} FROM sched.task WHERE task_id = :task_id FOR UPDATE")  # noqa: S608 - our own column list
_ATTEMPT = text("""
SELECT attempt_id, task_id, unit_id, kind, number, runner_id, state, reason, lease_until
  FROM sched.attempt WHERE attempt_id = :attempt_id
""")


async def lock_task(connection: AsyncConnection, task_id: str) -> Task | None:
    row = (await connection.execute(_LOCK_TASK, {"task_id": task_id})).one_or_none()
    if row is None:
        return None
    values: dict[str, Any] = dict(row._mapping)
    return Task(**{**values, "state": TaskState(values["state"])})


async def lock_attempt(connection: AsyncConnection, attempt_id: str) -> tuple[Task, Attempt]:
    """The attempt under its task's lock, whoever holds it: callers compare, and fence in SQL."""
    found = await _attempt(connection, attempt_id)
    task = None if found is None else await lock_task(connection, found.task_id)
    attempt = await _attempt(connection, attempt_id)  # again: now nothing changes it under us
    if task is None or attempt is None:
        raise lease_lost(attempt_id)
    return task, attempt


async def _attempt(connection: AsyncConnection, attempt_id: str) -> Attempt | None:
    row = (await connection.execute(_ATTEMPT, {"attempt_id": attempt_id})).one_or_none()
    if row is None:
        return None
    values: dict[str, Any] = dict(row._mapping)
    state, kind = AttemptState(values["state"]), UnitKind(values["kind"])
    return Attempt(**{**values, "state": state, "kind": kind})


def lease_lost(attempt_id: str) -> LeaseLost:
    return LeaseLost(
        "attempt-not-current",
        f"attempt {attempt_id[:64]} is not yours, or is no longer current: drop its work",
        attempt_id=attempt_id[:64],
    )
