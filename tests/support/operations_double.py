"""Test support: stands in for the scheduler where the API changes projects, pools and runners, and
submits batches. The tables have the shape of its views.
"""

import json
from typing import Any

import asyncpg
from faststream.nats import NatsBroker
from pydantic import BaseModel
from wfhub_common.broker import serve
from wfhub_common.errors import Rejected, WfhubError, to_wire
from wfhub_common.messages import (
    Drained,
    DrainRunner,
    Pool,
    Project,
    SubmitResult,
    SubmitTask,
    SubmitTasks,
    Submitted,
    SubmittedTasks,
    UpdatePool,
    UpdateProject,
)

TABLES = """
CREATE TABLE sched.api_pool (pool text PRIMARY KEY, running_limit int, paused bool,
  created_at timestamptz DEFAULT now(), running int DEFAULT 0);
CREATE TABLE sched.api_runner (runner_id text PRIMARY KEY, name text, slots int, labels jsonb,
  backend text, version text, draining bool, registered_at timestamptz, seen_at timestamptz,
  running int DEFAULT 0, pool text);
CREATE VIEW sched.api_project_load AS
  SELECT project_id, 0 AS running, 0 AS queued FROM sched.api_project;
"""


class OperationsDouble:
    def __init__(self, pool: asyncpg.Pool, broker: NatsBroker, submit: Any) -> None:
        """`submit(sender, SubmitTask)` is the double that single submissions go to."""
        self._pool = pool
        self._submit = submit
        serve(broker, "submit_tasks", SubmitTasks, self._submit_tasks, queue="scheduler")
        serve(broker, "update_project", UpdateProject, self._update_project, queue="scheduler")
        serve(broker, "update_pool", UpdatePool, self._update_pool, queue="scheduler")
        serve(broker, "drain_runner", DrainRunner, self._drain_runner, queue="scheduler")

    async def _submit_tasks(self, sender: str, command: SubmitTasks) -> BaseModel:
        return SubmittedTasks(
            results=tuple([await self._one(sender, task) for task in command.tasks])
        )

    async def _one(self, sender: str, task: SubmitTask) -> SubmitResult:
        try:
            submitted: Submitted = await self._submit(sender, task)
        except WfhubError as e:
            return SubmitResult(error=to_wire(e))
        return SubmitResult(submitted=submitted)

    async def _update_project(self, _sender: str, command: UpdateProject) -> BaseModel:
        row = await self._pool.fetchrow(
            "UPDATE sched.api_project SET running_limit = coalesce($2, running_limit),"
            " weight = coalesce($3, weight), queue_limit = coalesce($4, queue_limit),"
            " paused = coalesce($5, paused), budget = coalesce(CAST($6 AS jsonb), budget),"
            " mcp = coalesce(CAST($7 AS jsonb), mcp), ci_files = coalesce($8, ci_files),"
            " debuggers = coalesce($9, debuggers)"
            " WHERE project_id = $1 OR name = $1 RETURNING *",
            command.project,
            command.running_limit,
            command.weight,
            command.queue_limit,
            command.paused,
            None if command.budget is None else command.budget.model_dump_json(exclude_none=True),
            None if command.mcp is None else json.dumps(command.model_dump(mode="json")["mcp"]),
            command.ci_files,
            command.debuggers,
        )
        if row is None:
            raise Rejected("project-unknown", "there is no such project", status=404)
        return Project(
            **{
                **row,
                "limits": {},
                "budget": json.loads(row["budget"]),
                "cassette": None,
                "mcp": json.loads(row["mcp"]),
            }
        )

    async def _update_pool(self, _sender: str, command: UpdatePool) -> BaseModel:
        row = await self._pool.fetchrow(
            "INSERT INTO sched.api_pool (pool, running_limit, paused) VALUES ($1, $2, $3)"
            " ON CONFLICT (pool) DO UPDATE SET paused = excluded.paused RETURNING *",
            command.pool,
            command.running_limit,
            command.paused or False,
        )
        return Pool(**dict(row))

    async def _drain_runner(self, _sender: str, command: DrainRunner) -> BaseModel:
        changed = await self._pool.execute(
            "UPDATE sched.api_runner SET draining = $2 WHERE runner_id = $1",
            command.runner_id,
            command.drain,
        )
        if changed == "UPDATE 0":
            raise Rejected("runner-unknown", "there is no such runner", status=404)
        return Drained(runner_id=command.runner_id, draining=command.drain, running=0)
