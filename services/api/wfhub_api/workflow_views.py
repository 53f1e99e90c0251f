"""Workflows as the API reads them, from the scheduler's views. Raises: as views.py; Rejected."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common.errors import Rejected

from wfhub_api.positions import Cursor
from wfhub_api.views import plain_json, select
from wfhub_api.workflow_shapes import TaskInWorkflow, WorkflowSummary

_COLUMNS = """workflow_id, project_id, project, name, state, on_failure, submitted_by,
    cancel_requested, cancel_reason, task_count, open_count, unsuccessful_count, created_at,
    updated_at, finished_at"""


async def workflows(
    engine: AsyncEngine,
    *,
    project: str | None,
    states: Sequence[str],
    before: Cursor | None,
    limit: int,
) -> list[WorkflowSummary]:
    """Newest first. `project` is a name or an id."""
    conditions, values = ["true"], dict[str, Any](limit=limit)
    if project is not None:
        conditions.append("(project = :project OR project_id = :project)")
        values["project"] = project
    if states:
        conditions.append("state = ANY(:states)")
        values["states"] = list(states)
    if before is not None:
        conditions.append("(created_at, workflow_id) < (:at, :workflow_id)")
        values.update(at=before.created_at, workflow_id=before.entity_id)
    rows = await select(
        engine,
        f"SELECT {_COLUMNS} FROM sched.api_workflow WHERE {' AND '.join(conditions)}"  # noqa: S608 - constant parts, values are bound
        " ORDER BY created_at DESC, workflow_id DESC LIMIT :limit",
        **values,
    )
    return [WorkflowSummary.model_validate(dict(row)) for row in rows]


async def workflow(engine: AsyncEngine, workflow_id: str) -> WorkflowSummary:
    rows = await select(
        engine,
        f"SELECT {_COLUMNS} FROM sched.api_workflow WHERE workflow_id = :id",  # noqa: S608 - constant
        id=workflow_id,
    )
    if not rows:
        raise _unknown(workflow_id)
    return WorkflowSummary.model_validate(dict(rows[0]))


async def document(engine: AsyncEngine, workflow_id: str) -> Any:
    rows = await select(
        engine,
        "SELECT document FROM sched.api_workflow WHERE workflow_id = :id",
        id=workflow_id,
    )
    if not rows:
        raise _unknown(workflow_id)
    return plain_json(rows[0].document)


async def tasks(engine: AsyncEngine, workflow_id: str) -> list[TaskInWorkflow]:
    """In the order of the document."""
    rows = await select(
        engine,
        """
        SELECT name, task_id, state, reason, message, needs, needs_policy, on_failure, branch,
               commit_id AS commit, verdict, proof_id, finished_at
          FROM sched.api_workflow_node WHERE workflow_id = :id ORDER BY number
        """,
        id=workflow_id,
    )
    names = [row.name for row in rows]
    return [
        TaskInWorkflow.model_validate({**row, "needs": [names[number] for number in row.needs]})
        for row in rows
    ]


def _unknown(workflow_id: str) -> Rejected:
    return Rejected("workflow-unknown", f"there is no workflow {workflow_id}", status=404)
