"""Commands of the API: create_project, submit_task, cancel_task.

A key names one task of a project for good: the same canonical spec gets that task again.
Raises: Rejected (404 `project-unknown`, `task-unknown`; 409 `project-exists`,
`idempotency-conflict`; 422 `nul-character`).
"""

import hashlib
from typing import Any

from sqlalchemy import text
from wfhub_common import digests, ids, limits
from wfhub_common.errors import Rejected
from wfhub_common.messages import (
    Cancelled,
    CancelTask,
    CreateProject,
    Project,
    SubmitTask,
    Submitted,
    TaskSpec,
    TaskState,
)

from wfhub_scheduler import fairness, stored_json
from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.outbox import emit
from wfhub_scheduler.rows import lock_task
from wfhub_scheduler.states import Effect, Facts, TaskEvent, decide
from wfhub_scheduler.transitions import kill_ready_units, move_task, task_event

_NEW_PROJECT = text("""
INSERT INTO sched.project (project_id, name, running_limit, weight)
VALUES (:project_id, :name, :running_limit, :weight) ON CONFLICT (name) DO NOTHING
""")
_PROJECT = text("""
SELECT project_id, name, running_limit, weight, created_at
  FROM sched.project WHERE name = :project OR project_id = :project
""")
_TAKE_KEY = text("""
-- A rival with the same key waits here for our commit, then finds our task.
INSERT INTO sched.idempotency (project_id, key, request_sha256, task_id)
VALUES (:project_id, :key, :request_sha256, :task_id) ON CONFLICT DO NOTHING
""")
_BY_KEY = text("""
SELECT i.request_sha256, t.task_id, t.state
  FROM sched.idempotency i JOIN sched.task t USING (task_id)
 WHERE i.project_id = :project_id AND i.key = :key
""")
_NEW_TASK = text("""
INSERT INTO sched.task (task_id, project_id, state, spec, title, submitted_by)
VALUES (:task_id, :project_id, 'ready', CAST(:spec AS jsonb), :title, :submitted_by)
""")
_NEW_UNIT = text("""
INSERT INTO sched.unit (unit_id, task_id, project_id, kind, pool, priority, state)
VALUES (:unit_id, :task_id, :project_id, 'agent', :pool, :priority, 'ready')
""")
_ASK_CANCEL = text("""
UPDATE sched.task SET cancel_requested = true, cancel_reason = :reason, updated_at = now()
 WHERE task_id = :task_id AND NOT cancel_requested
""")


async def create_project(core: Core, command: CreateProject) -> Project:
    async def work(tx: Tx) -> Project:
        wanted = command.model_dump()
        made = await tx.connection.execute(
            _NEW_PROJECT, {**wanted, "project_id": ids.new_project_id()}
        )
        row = (await tx.connection.execute(_PROJECT, {"project": command.name})).one()
        project = Project(**row._mapping, created=made.rowcount == 1)
        differs = [name for name, value in wanted.items() if getattr(project, name) != value]
        if differs:
            raise Rejected(
                "project-exists",
                f"project {command.name!r} exists with another {', '.join(differs)};"
                " choose another name, or ask with its settings",
                status=409,
            )
        return project

    return await core.commit(work)


async def submit_task(core: Core, command: SubmitTask) -> Submitted:
    if not stored_json.storable(command.spec.model_dump(mode="json")):
        raise Rejected("nul-character", "a task must not hold the character U+0000: remove it")

    async def work(tx: Tx) -> Submitted:
        found = (
            await tx.connection.execute(_PROJECT, {"project": stored_json.clean(command.project)})
        ).one_or_none()
        if found is None:
            raise Rejected(
                "project-unknown",
                f"there is no project {command.project[:64]!r}: create it first",
                status=404,
            )
        task_id = ids.new_task_id()
        if command.idempotency_key is not None:
            known = await _known(tx, found.project_id, task_id, command)
            if known is not None:
                return known
        await _create(tx, found.project_id, task_id, command)
        tx.after.units_ready = True
        return Submitted(
            task_id=task_id, project_id=found.project_id, state=TaskState.READY, created=True
        )

    return await core.commit(work)


async def _known(tx: Tx, project_id: str, task_id: str, command: SubmitTask) -> Submitted | None:
    """The task that has the key already; None: the key is now this task's."""
    spec = command.spec.model_dump(mode="json")
    at = {"project_id": project_id, "key": stored_json.clean(command.idempotency_key or "")}
    sha256 = hashlib.sha256(digests.canonical_json(spec)).hexdigest()
    taken = await tx.connection.execute(
        _TAKE_KEY, {**at, "request_sha256": sha256, "task_id": task_id}
    )
    if taken.rowcount == 1:
        return None
    row = (await tx.connection.execute(_BY_KEY, at)).one()
    if row.request_sha256 != sha256:
        raise Rejected(
            "idempotency-conflict",
            "this idempotency key was used for another task; use a new key for a new task",
            status=409,
            task_id=row.task_id,
        )
    return Submitted(
        task_id=row.task_id, project_id=project_id, state=TaskState(row.state), created=False
    )


async def _create(tx: Tx, project_id: str, task_id: str, command: SubmitTask) -> None:
    spec, title = command.spec, title_of(command.spec)
    at = {"task_id": task_id, "project_id": project_id}
    row: dict[str, Any] = {"spec": stored_json.dumped(spec), "title": title}
    submitted_by = stored_json.clean(command.submitted_by)
    await tx.connection.execute(_NEW_TASK, {**at, **row, "submitted_by": submitted_by})
    await fairness.join(tx.connection, spec.pool, project_id)
    unit = {"unit_id": ids.new_unit_id(), "pool": spec.pool, "priority": spec.priority}
    await tx.connection.execute(_NEW_UNIT, {**at, **unit})
    data = {"state": TaskState.READY.value, "title": title, "submitted_by": submitted_by}
    await emit(tx.connection, "task.submitted", task_id, data, **at)


def title_of(spec: TaskSpec) -> str:
    """What was given, or the first line of the prompt that says something."""
    lines = (line.strip() for line in spec.prompt.splitlines())
    return (spec.title or next((line for line in lines if line), ""))[: limits.TITLE_CHARS_MAX]


async def cancel_task(core: Core, command: CancelTask) -> Cancelled:
    async def work(tx: Tx) -> Cancelled:
        task = await lock_task(tx.connection, stored_json.clean(command.task_id))
        if task is None:
            raise Rejected("task-unknown", f"there is no task {command.task_id[:64]}", status=404)
        rule = decide(task.state, TaskEvent.CANCEL, Facts())
        if rule is None:
            return Cancelled(accepted=False, state=task.state)
        reason = stored_json.clean(command.reason)
        asked = {"task_id": task.task_id, "reason": reason}
        if (await tx.connection.execute(_ASK_CANCEL, asked)).rowcount:
            await task_event(tx.connection, task, "task.cancel_requested", {"reason": reason})
        if rule.effect is Effect.END:
            await kill_ready_units(tx, task)
            await move_task(tx, task, rule, reason="cancelled", message=reason)
        return Cancelled(accepted=True, state=rule.to)

    return await core.commit(work)
