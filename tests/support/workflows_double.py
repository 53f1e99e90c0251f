"""Test support: workflows as the scheduler keeps them for the API, without reading any document.

Its two views are plain tables; its commands answer over real NATS.
"""

import json
from datetime import UTC, datetime

import asyncpg
from faststream.nats import NatsBroker
from pydantic import BaseModel
from wfhub_common import ids, subjects
from wfhub_common.broker import serve
from wfhub_common.errors import Rejected
from wfhub_common.messages import (
    CancelWorkflow,
    SubmitWorkflow,
    WorkflowCancelled,
    WorkflowState,
    WorkflowSubmitted,
)

TABLES = """
CREATE TABLE sched.api_workflow (workflow_id text PRIMARY KEY, project_id text, project text,
  name text, state text, on_failure text DEFAULT 'fail', document json, submitted_by text,
  cancel_requested bool DEFAULT false, cancel_reason text DEFAULT '', task_count int DEFAULT 1,
  open_count int DEFAULT 1, unsuccessful_count int DEFAULT 0, created_at timestamptz,
  updated_at timestamptz, finished_at timestamptz);
CREATE TABLE sched.api_workflow_node (workflow_id text, number int, name text, task_id text,
  needs int[], needs_policy text, on_failure text, state text, reason text, message text,
  branch text, commit_id text, verdict text, proof_id text, finished_at timestamptz);
"""


class WorkflowsDouble:
    def __init__(self, pool: asyncpg.Pool, broker: NatsBroker) -> None:
        self._pool = pool
        queue = subjects.SCHEDULER
        serve(broker, "submit_workflow", SubmitWorkflow, self.submit, queue=queue)
        serve(broker, "cancel_workflow", CancelWorkflow, self.cancel, queue=queue)

    async def submit(self, _sender: str, command: SubmitWorkflow) -> BaseModel:
        project = await self._pool.fetchrow(
            "SELECT project_id, name FROM sched.api_project WHERE name = $1 OR project_id = $1",
            command.project,
        )
        if project is None:
            raise Rejected("project-unknown", "there is no such project", status=404)
        workflow_id, task_id = ids.new_workflow_id(), ids.new_task_id()
        await self._pool.execute(
            "INSERT INTO sched.api_workflow (workflow_id, project_id, project, name, state,"
            " document, submitted_by, created_at, updated_at)"
            " VALUES ($1, $2, $3, 'w', 'running', $4, $5, $6, $6)",
            *(workflow_id, project["project_id"], project["name"]),
            *(json.dumps(command.document).replace("\\u0000", ""), command.submitted_by),
            datetime.now(UTC),
        )
        await self._pool.execute(
            "INSERT INTO sched.api_workflow_node VALUES"
            " ($1, 0, 'a', $2, '{}', 'all_succeeded', 'fail', 'ready', '', '')",
            *(workflow_id, task_id),
        )
        return WorkflowSubmitted(
            workflow_id=workflow_id,
            project_id=project["project_id"],
            state=WorkflowState.RUNNING,
            created=True,
            tasks={"a": task_id},
        )

    async def cancel(self, _sender: str, command: CancelWorkflow) -> BaseModel:
        changed = await self._pool.execute(
            "UPDATE sched.api_workflow SET cancel_requested = true WHERE workflow_id = $1",
            command.workflow_id,
        )
        if changed == "UPDATE 0":
            raise Rejected("workflow-unknown", "there is no such workflow", status=404)
        return WorkflowCancelled(accepted=True, state=WorkflowState.RUNNING)
