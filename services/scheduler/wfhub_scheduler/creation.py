"""Creation: the one way in which tasks come to be, and in which a blocked one becomes ready.

Set-based: a thousand tasks are a handful of statements. `create_tasks` and `make_ready` run in the
caller's transaction; the wake-up for claimers follows its commit.
Lock order: idempotency keys, then project_queue (sorted), then lanes; a task's row lock is the
caller's before `make_ready`. A blocked task's lane is made with the task: what was accepted is not
refused for its labels when its turn comes.
Raises: Rejected (429 `queue-full`; 413 `spec-too-large`; 422 `label-sets-full`,
`limit-above-maximum`, `nul-character`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from sqlalchemy import text
from wfhub_common import ids, limits, tracing
from wfhub_common.errors import Rejected
from wfhub_common.messages import TaskSpec, TaskState
from wfhub_common.sql import Connection

from wfhub_scheduler import limit_policies, queue_caps, spec_sizes, stored_json
from wfhub_scheduler.core import Tx
from wfhub_scheduler.lanes import Lane, lane_ids, lane_of
from wfhub_scheduler.outbox import EVENTS, Event, execute_telling
from wfhub_scheduler.projects import ProjectRow
from wfhub_scheduler.states import Facts, TaskEvent, decide

_UNITS = """
units AS (
    -- created_at is the clock's, so that units of one statement are as old as their order says.
    INSERT INTO sched.unit (unit_id, task_id, project_id, kind, pool, priority, lane_id, state,
                            run_at, due, created_at)
    SELECT unit_id, task_id, project_id, 'agent', pool, priority, lane_id, 'ready',
           coalesce(run_at, now()), coalesce(run_at <= now(), true), clock_timestamp()
      FROM unnest(CAST(:unit_ids AS text[]), CAST(:unit_tasks AS text[]),
                  CAST(:unit_projects AS text[]), CAST(:pools AS text[]),
                  CAST(:priorities AS integer[]), CAST(:lanes AS integer[]),
                  CAST(:run_ats AS timestamptz[]))
           WITH ORDINALITY AS n (unit_id, task_id, project_id, pool, priority, lane_id, run_at, nr)
     ORDER BY nr)
"""
_NEW_TASKS = text(f"""
WITH tasks AS (
    INSERT INTO sched.task (task_id, project_id, workflow_id, state, spec, title, submitted_by,
                            traceparent)
    SELECT task_id, project_id, workflow_id, state, CAST(spec AS jsonb), title, submitted_by,
           traceparent
      FROM unnest(CAST(:task_ids AS text[]), CAST(:project_ids AS text[]),
                  CAST(:workflow_ids AS text[]), CAST(:states AS text[]), CAST(:specs AS text[]),
                  CAST(:titles AS text[]), CAST(:submitters AS text[]), CAST(:traces AS text[]))
           AS n (task_id, project_id, workflow_id, state, spec, title, submitted_by, traceparent)),
{_UNITS}, {EVENTS}
SELECT
""")  # noqa: S608 - our own text
_NEW_UNITS = text(f"WITH {_UNITS}, {EVENTS} SELECT")
_UNBLOCK = text("""
UPDATE sched.task t
   SET state = 'ready', spec = CAST(n.spec AS jsonb), queued_at = now(), updated_at = now()
  FROM unnest(CAST(:task_ids AS text[]), CAST(:specs AS text[])) AS n (task_id, spec)
 WHERE t.task_id = n.task_id AND t.state = 'blocked'
RETURNING t.task_id
""")


@dataclass(frozen=True)
class NewTaskRow:
    """A task to be made. `state`: READY (gets its unit now) or BLOCKED (`make_ready` later).
    `text`: its spec as it is stored, once that is settled."""

    spec: TaskSpec
    submitted_by: str = ""
    state: TaskState = TaskState.READY
    workflow_id: str | None = None
    traceparent: str = ""  # of the trace that it belongs to; empty: of none
    task_id: str = field(default_factory=ids.new_task_id)
    text: str = ""


@dataclass(frozen=True)
class ReadyRow:
    """A blocked task whose needs are met, with the spec that it is to run with."""

    task_id: str
    project_id: str
    spec: TaskSpec


def settled(project: ProjectRow, row: NewTaskRow) -> NewTaskRow:
    """With the limits that hold for its attempts, whatever the project's are later.

    Raises: Rejected (422 `limit-above-maximum`, `nul-character`; 413 `spec-too-large`).
    """
    spec = limit_policies.settled(row.spec, project.limits, project.name)
    text = stored_json.as_it_is(spec)
    if text is None:
        raise Rejected("nul-character", "a task must not hold the character U+0000: remove it")
    if too_large := spec_sizes.excess(spec, text):
        raise Rejected("spec-too-large", too_large, status=413)
    return replace(row, spec=spec, text=text)


async def create_tasks(tx: Tx, project: ProjectRow, new: Sequence[NewTaskRow]) -> None:
    """All of them or, with Rejected `queue-full`, none: the caller lets it roll back.

    Inserts the tasks (state and workflow_id as given) and an agent unit for each ready one, and
    emits `task.submitted` for each.
    """
    fit = await queue_caps.admit(tx.connection, {project.project_id: len(new)})
    if fit[project.project_id] < len(new):
        raise queue_caps.queue_full(project.name)
    here = tracing.current()
    made = [settled(project, replace(row, traceparent=row.traceparent or here)) for row in new]
    await insert_tasks(tx, [(project.project_id, row) for row in made])


async def make_ready(tx: Tx, tasks: Sequence[ReadyRow]) -> list[str]:
    """Turns blocked tasks ready, a unit each. The caller holds their row locks.

    Answers with the ids that were blocked; the others (cancelled meanwhile) are left alone.
    """
    if not tasks:
        return []
    moved = await tx.connection.execute(
        _UNBLOCK,
        {
            "task_ids": [task.task_id for task in tasks],
            "specs": [stored_json.dumped(task.spec) for task in tasks],
        },
    )
    changed = set(moved.scalars())
    ready = [task for task in tasks if task.task_id in changed]
    rule = decide(TaskState.BLOCKED, TaskEvent.RELEASED, Facts())
    assert rule is not None
    data = {"from": rule.state.value, "to": rule.to.value, "reason": "", "message": ""}
    events = [
        Event("task.state_changed", task.task_id, data, task.project_id, task.task_id)
        for task in ready
    ]
    lanes = await _lanes(tx.connection, [(task.project_id, task.spec) for task in ready])
    await execute_telling(tx.connection, _NEW_UNITS, _units(ready, lanes), events)
    tx.after.units_ready |= bool(ready)
    return [task.task_id for task in ready]


async def insert_tasks(tx: Tx, new: Sequence[tuple[str, NewTaskRow]]) -> None:
    """Of any projects (by id), whose places in the queue are taken (queue_caps.admit); `settled`
    ones."""
    if not new:
        return
    titles = [title_of(row.spec) for _, row in new]
    submitters = [stored_json.clean(row.submitted_by) for _, row in new]
    ready = [
        ReadyRow(row.task_id, project_id, row.spec)
        for project_id, row in new
        if row.state is TaskState.READY
    ]
    tasks = {
        "task_ids": [row.task_id for _, row in new],
        "project_ids": [project_id for project_id, _ in new],
        "workflow_ids": [row.workflow_id for _, row in new],
        "states": [row.state.value for _, row in new],
        "specs": [row.text for _, row in new],
        "titles": titles,
        "submitters": submitters,
        "traces": [row.traceparent or None for _, row in new],
    }
    events = [
        Event(
            "task.submitted",
            row.task_id,
            {"state": row.state.value, "title": title, "submitted_by": submitted_by},
            project_id,
            row.task_id,
        )
        for (project_id, row), title, submitted_by in zip(new, titles, submitters, strict=True)
    ]
    lanes = await _lanes(tx.connection, [(project_id, row.spec) for project_id, row in new])
    await execute_telling(tx.connection, _NEW_TASKS, {**tasks, **_units(ready, lanes)}, events)
    tx.after.units_ready |= bool(ready)


async def _lanes(connection: Connection, tasks: Sequence[tuple[str, TaskSpec]]) -> dict[Lane, int]:
    """Of tasks, each beside its project's id; they are there then."""
    wanted = {lane_of(project_id, spec) for project_id, spec in tasks}
    return await lane_ids(connection, wanted) if wanted else {}


def _units(tasks: Sequence[ReadyRow], lanes: Mapping[Lane, int]) -> dict[str, Any]:
    """The values of _UNITS."""
    return {
        "unit_ids": ids.new_unit_ids(len(tasks)),
        "unit_tasks": [task.task_id for task in tasks],
        "unit_projects": [task.project_id for task in tasks],
        "pools": [task.spec.pool for task in tasks],
        "priorities": [task.spec.priority for task in tasks],
        "lanes": [lanes[lane_of(task.project_id, task.spec)] for task in tasks],
        "run_ats": [task.spec.run_at for task in tasks],
    }


def title_of(spec: TaskSpec) -> str:
    """What was given, or the first line of the prompt that says something."""
    lines = (line.strip() for line in spec.prompt.splitlines())
    return (spec.title or next((line for line in lines if line), ""))[: limits.TITLE_CHARS_MAX]
