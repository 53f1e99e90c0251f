"""Views: everything the API reads, from the scheduler's read-only views sched.api_*.

Each function is one statement in one short transaction; no connection is held while a stream
waits. Raises: RetryLater (`database-down`, `database-busy`, `not-migrated`).
"""

import json
from collections.abc import Sequence
from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import db
from wfhub_common.errors import Rejected, RetryLater
from wfhub_common.messages import FINAL_TASK_STATES, CloudEvent, TaskState
from wfhub_common.sql import Row

from wfhub_api.positions import Cursor, Position
from wfhub_api.shapes import Attempt, TaskSummary

# Undefined table, invalid schema name; a schema that is made and not granted to us yet.
_NOT_MIGRATED = {"42P01", "3F000", "42501"}
_GONE = ("08", "53", "57")  # connection, resources, operator intervention
_NOT_MADE = ("28", "3D")  # neither role nor database is there yet, or never
_FINAL = sorted(FINAL_TASK_STATES)
COUNTED_MAX = 10_000  # ended tasks that are looked at to say how many there are of each state

_TASK_COLUMNS = """task_id, project_id, project, state, reason, message, title, spec, branch,
    commit_id, verdict, proof_id, attempts_used, current_attempt, cancel_requested,
    created_at, updated_at, finished_at, workflow_id, trace_id, review_until, review,
    reviewed_by"""


async def tasks(
    engine: AsyncEngine,
    *,
    project: str | None,
    states: Sequence[str],
    workflow: str | None,
    before: Cursor | None,
    limit: int,
) -> list[TaskSummary]:
    """Newest first. `project` is a name or an id."""
    conditions, values = _chosen(project, workflow)
    values["limit"] = limit
    if states:
        # As constants: those that have not ended have an index of their own.
        names = ", ".join(f"'{TaskState(state).value}'" for state in states)
        conditions.append(f"state IN ({names})")
    if before is not None:
        conditions.append("(created_at, task_id) < (:at, :task_id)")
        values.update(at=before.created_at, task_id=before.entity_id)
    rows = await select(
        engine,
        f"SELECT {_TASK_COLUMNS} FROM sched.api_task WHERE {' AND '.join(conditions)}"  # noqa: S608 - constant parts, values are bound
        " ORDER BY created_at DESC, task_id DESC LIMIT :limit",
        **values,
    )
    return [_task(row) for row in rows]


async def task_counts(
    engine: AsyncEngine, *, project: str | None, workflow: str | None
) -> dict[TaskState, int]:
    """By state; of those that have ended, of the newest COUNTED_MAX. `project` is a name or an
    id."""
    conditions, values = _chosen(project, workflow)
    of, ended = " AND ".join(conditions), ", ".join(f"'{state}'" for state in _FINAL)
    rows = await select(
        engine,
        f"""
        SELECT state, count(*) AS tasks FROM (
            SELECT state FROM sched.api_task WHERE {of} AND state NOT IN ({ended})
             UNION ALL
            (SELECT state FROM sched.api_task WHERE {of} AND state IN ({ended})
              ORDER BY created_at DESC, task_id DESC LIMIT :most)) counted
         GROUP BY state
        """,  # noqa: S608 - constant parts, values are bound
        most=COUNTED_MAX,
        **values,
    )
    found = {row.state: row.tasks for row in rows}
    return {state: found.get(state, 0) for state in TaskState}


def _chosen(project: str | None, workflow: str | None) -> tuple[list[str], dict[str, Any]]:
    """The conditions of a choice of tasks, and their values."""
    conditions, values = ["true"], dict[str, Any]()
    if project is not None:
        conditions.append(
            "project_id = (SELECT project_id FROM sched.api_project"
            " WHERE name = :project OR project_id = :project LIMIT 1)"
        )
        values["project"] = project
    if workflow is not None:  # by the nodes, which have an index for it
        conditions.append(
            "task_id IN (SELECT task_id FROM sched.api_workflow_node WHERE workflow_id = :workflow)"
        )
        values["workflow"] = workflow
    return conditions, values


async def task(engine: AsyncEngine, task_id: str) -> TaskSummary:
    """Raises: Rejected (404)."""
    rows = await select(
        engine,
        f"SELECT {_TASK_COLUMNS} FROM sched.api_task WHERE task_id = :id",  # noqa: S608 - constant
        id=task_id,
    )
    if not rows:
        raise Rejected("task-not-found", f"there is no task {task_id}", status=404)
    return _task(rows[0])


async def attempts(engine: AsyncEngine, task_id: str) -> list[Attempt]:
    """Oldest first."""
    rows = await select(
        engine,
        """
        SELECT attempt_id, kind, number, state, runner_id, reason, message, base_commit,
               commit_id, verdict, base_verdict, artifacts, changes,
               ci_files, created_at, started_at, finished_at
          FROM sched.api_attempt WHERE task_id = :id ORDER BY created_at, attempt_id
        """,
        id=task_id,
    )
    return [_attempt(row) for row in rows]


async def events(
    engine: AsyncEngine, *, after: Position, limit: int, task_id: str | None = None
) -> list[CloudEvent]:
    """The next events in the log's order, of one task or of all."""
    rows = await select(
        engine,
        f"""
        SELECT generation, pos, event_id, project_id, entity_id, type, time, data
          FROM sched.api_event
         WHERE (generation, up_to) > (:generation, :pos)  -- has an index; up_to is never below pos
           AND (generation, pos) > (:generation, :pos)
               {"AND task_id = :task_id" if task_id is not None else ""}
         ORDER BY generation, up_to, pos LIMIT :limit
        """,  # noqa: S608 - constant parts
        generation=after.generation,
        pos=after.pos,
        limit=limit,
        **({"task_id": task_id} if task_id is not None else {}),
    )
    return [_event(row) for row in rows]


async def final_event_is_out(engine: AsyncEngine, task_id: str) -> bool:
    """Whether the log holds the task's change to a final state."""
    rows = await select(
        engine,
        """
        SELECT 1 FROM sched.api_event
         WHERE task_id = :id AND type = 'task.state_changed' AND data->>'to' = ANY(:final) LIMIT 1
        """,
        id=task_id,
        final=_FINAL,
    )
    return bool(rows)


async def missing(engine: AsyncEngine) -> str | None:
    """What has to be migrated before the API can answer, as a sentence, or None."""
    wanted = ("sched.api_project", "sched.api_task", "sched.api_attempt", "sched.api_event")
    rows = await select(
        engine,
        "SELECT name FROM unnest(CAST(:names AS text[])) AS name WHERE to_regclass(name) IS NULL",
        names=[*wanted, "api.token"],
    )
    names = sorted(row.name for row in rows)
    if not names:
        return None
    return f"not migrated: {', '.join(names)} missing; run the services' `migrate` command"


async def select(engine: AsyncEngine, sql: str, **values: Any) -> Sequence[Row]:
    """One statement in a transaction of its own."""
    try:
        async with db.transaction(engine) as connection:
            return (await connection.execute(text(sql), values)).all()
    except PoolTimeout as e:
        raise RetryLater("database-busy", "all database connections are in use") from e
    except DBAPIError as e:
        state = str(getattr(e.orig, "sqlstate", "") or "")
        if state in _NOT_MIGRATED:
            raise RetryLater(
                "not-migrated", "the database is not migrated yet: run `wfhub-scheduler migrate`"
            ) from e
        if state.startswith(_NOT_MADE):
            said = str(e.orig).splitlines()[0]
            raise RetryLater("database-down", f"the database does not let us in: {said}") from e
        if e.connection_invalidated or state.startswith(_GONE):
            raise RetryLater("database-down", "the database connection was lost") from e
        raise
    except (asyncpg.PostgresError, OSError) as e:  # raised while connecting, not wrapped
        raise RetryLater("database-down", f"cannot connect to the database: {e}") from e


def plain_json(value: Any) -> Any:
    """A jsonb column, whether the driver decoded it or not."""
    return json.loads(value) if isinstance(value, str) else value


def _task(row: Row) -> TaskSummary:
    values = dict(row)
    values["commit"] = values.pop("commit_id")
    values["spec"] = plain_json(values["spec"])
    return TaskSummary.model_validate(values)


def _attempt(row: Row) -> Attempt:
    values = dict(row)
    values["commit"] = values.pop("commit_id")
    for name in ("verdict", "base_verdict", "artifacts", "changes", "ci_files"):
        values[name] = plain_json(values[name])
    values["artifacts"] = values["artifacts"] or []
    return Attempt.model_validate(values)


def _event(row: Row) -> CloudEvent:
    return CloudEvent(
        id=row.event_id,
        type=row.type,
        subject=row.entity_id,
        time=row.time,
        data=plain_json(row.data) or {},
        wfhubproject=row.project_id,
        wfhubpos=row.pos,
        wfhubgeneration=row.generation,
    )
