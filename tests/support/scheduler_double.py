"""Test support: stands in for the scheduler and the gateway where the API asks them.

The views that the API reads are plain tables here, so that a test decides what is in them; commands
are answered over real NATS.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import asyncpg
from nats.aio.client import Client as NatsClient
from pydantic import BaseModel
from wfhub_common import ids, subjects
from wfhub_common.errors import Rejected
from wfhub_common.messages import (
    FINAL_TASK_STATES,
    Cancelled,
    CancelTask,
    CreateProject,
    Exchanges,
    ExchangesOf,
    Project,
    Reviewed,
    ReviewTask,
    Steered,
    SteerTask,
    SubmitTask,
    Submitted,
    TaskState,
    Usage,
    UsageOf,
)

VIEW_TABLES = """
CREATE SCHEMA sched;
CREATE TABLE sched.api_project (project_id text, name text, running_limit int, weight int,
  created_at timestamptz, queue_limit int, paused bool DEFAULT false,
  limits jsonb DEFAULT '{}', budget jsonb DEFAULT '{}', cassette jsonb DEFAULT 'null',
  mcp jsonb DEFAULT '{}', ci_files text DEFAULT 'review', debuggers text DEFAULT 'refuse');
CREATE TABLE sched.api_task (task_id text PRIMARY KEY, project_id text, project text, state text,
  reason text, message text, title text, spec jsonb, branch text, commit_id text, verdict text,
  proof_id text, attempts_used int DEFAULT 0, current_attempt text,
  cancel_requested bool DEFAULT false, created_at timestamptz, updated_at timestamptz,
  finished_at timestamptz, workflow_id text, trace_id text, review_until timestamptz,
  review text, reviewed_by text);
CREATE TABLE sched.api_attempt (attempt_id text PRIMARY KEY, task_id text, project_id text,
  kind text, number int, state text, runner_id text, reason text, message text, base_commit text,
  commit_id text, verdict jsonb, base_verdict jsonb, artifacts jsonb, changes jsonb,
  created_at timestamptz, started_at timestamptz, finished_at timestamptz, ci_files jsonb);
CREATE TABLE sched.api_event (generation int, pos bigint, event_id text, project_id text,
  task_id text, kind text, entity_id text, type text, time timestamptz, data jsonb, up_to bigint);
"""


def now() -> datetime:
    return datetime.now(UTC)


@dataclass
class Scheduler:
    """The stand-in: keeps what the RPCs ask for in the view-shaped tables."""

    pool: asyncpg.Pool
    nats: NatsClient
    pos: int = 0
    keys: dict[str, tuple[str, str]] = field(default_factory=dict)
    cancels: list[str] = field(default_factory=list)
    reviews: list[ReviewTask] = field(default_factory=list)
    submitted: list[SubmitTask] = field(default_factory=list)
    on_submit: Callable[[str], Any] | None = None
    on_cancel: Callable[[str], Any] | None = None
    over: asyncio.Event = field(default_factory=asyncio.Event)  # the test has ended
    exchanges: dict[str, Exchanges] = field(default_factory=dict)  # by attempt
    usage: Usage | None = field(default_factory=lambda: Usage(prompt_tokens=7, completion_tokens=5))

    async def project(self, name: str) -> str:
        found = await self.pool.fetchval(
            "SELECT project_id FROM sched.api_project WHERE name = $1 OR project_id = $1", name
        )
        if found is None:
            raise Rejected("project-not-found", f"there is no project {name}", status=404)
        return str(found)

    async def create_project(self, _sender: str, command: CreateProject) -> BaseModel:
        existing = await self.pool.fetchrow(
            "SELECT * FROM sched.api_project WHERE name = $1", command.name
        )
        if existing is not None:
            if (existing["running_limit"], existing["weight"]) != (
                command.running_limit,
                command.weight,
            ):
                raise Rejected("project-exists", "it has other settings", status=409)
            unset = {"limits": {}, "budget": {}, "cassette": None, "mcp": {}}
            return Project(**{**dict(existing), **unset}, created=False)
        project = Project(
            project_id=ids.new_project_id(), created_at=now(), created=True, **command.model_dump()
        )
        await self.pool.execute(
            "INSERT INTO sched.api_project VALUES ($1, $2, $3, $4, $5, $6)",
            project.project_id,
            project.name,
            project.running_limit,
            project.weight,
            project.created_at,
            project.queue_limit,
        )
        return project

    async def submit_task(self, _sender: str, command: SubmitTask) -> BaseModel:
        project_id = await self.project(command.project)
        body = command.spec.model_dump_json()
        key = command.idempotency_key
        if key in self.keys:
            task_id, before = self.keys[key]
            if before != body:
                raise Rejected("idempotency-conflict", "same key, another task", status=409)
            return Submitted(
                task_id=task_id, project_id=project_id, state=TaskState.READY, created=False
            )
        self.submitted.append(command)
        task_id = await self.task(spec=json.loads(body), project_id=project_id)
        if key is not None:
            self.keys[key] = (task_id, body)
        if self.on_submit is not None:
            await self.on_submit(task_id)
        return Submitted(
            task_id=task_id, project_id=project_id, state=TaskState.READY, created=True
        )

    async def cancel_task(self, _sender: str, command: CancelTask) -> BaseModel:
        state = await self.pool.fetchval(
            "SELECT state FROM sched.api_task WHERE task_id = $1", command.task_id
        )
        if state is None:
            raise Rejected("task-not-found", f"there is no task {command.task_id}", status=404)
        accepted = state not in FINAL_TASK_STATES and state != "publishing"
        if accepted:
            self.cancels.append(command.task_id)
            if self.on_cancel is not None:
                await self.on_cancel(command.task_id)
        return Cancelled(accepted=accepted, state=TaskState(state))

    async def review_task(self, _sender: str, command: ReviewTask) -> BaseModel:
        state = await self.pool.fetchval(
            "SELECT state FROM sched.api_task WHERE task_id = $1", command.task_id
        )
        if state is None:
            raise Rejected("task-unknown", f"there is no task {command.task_id}", status=404)
        accepted = state == TaskState.REVIEW
        if accepted:
            self.reviews.append(command)
        return Reviewed(accepted=accepted, state=TaskState(state))

    async def steer_task(self, _sender: str, command: SteerTask) -> BaseModel:
        state = await self.pool.fetchval(
            "SELECT state FROM sched.api_task WHERE task_id = $1", command.task_id
        )
        if state is None:
            raise Rejected("task-unknown", f"there is no task {command.task_id}", status=404)
        if state != "running":
            raise Rejected("task-not-running", f"the task is {state}", status=409)
        return Steered(attempt_id=str(ids.new_attempt_id()))

    async def usage_of(self, _sender: str, _command: UsageOf) -> BaseModel:
        if self.usage is None:
            await self.over.wait()  # a gateway that does not answer in time
            return Usage()
        return self.usage

    async def exchanges_of(self, _sender: str, command: ExchangesOf) -> BaseModel:
        return self.exchanges.get(command.attempt_id, Exchanges(attempt_id=command.attempt_id))

    async def task(self, *, project_id: str = "", state: str = "ready", **columns: Any) -> str:
        task_id = columns.pop("task_id", None) or ids.new_task_id()
        project_id = project_id or await self.project("default")
        name = await self.pool.fetchval(
            "SELECT name FROM sched.api_project WHERE project_id = $1", project_id
        )
        columns.setdefault("spec", {"repo": "/r", "base": None})
        values = {
            "task_id": task_id,
            "project_id": project_id,
            "project": name,
            "state": state,
            "created_at": now(),
            "updated_at": now(),
            **columns,
        }
        await self._insert("api_task", values)
        return str(task_id)

    async def attempt(self, task_id: str, **columns: Any) -> str:
        values = {
            "attempt_id": ids.new_attempt_id(),
            "task_id": task_id,
            "kind": "agent",
            "number": 1,
            "state": "running",
            "created_at": now(),
            **columns,
        }
        await self._insert("api_attempt", values)
        return str(values["attempt_id"])

    async def update(self, table: str, key: str, **columns: Any) -> None:
        sets = ", ".join(f"{name} = ${i}" for i, name in enumerate(columns, 2))
        column = {"api_task": "task_id", "api_attempt": "attempt_id"}[table]
        values = [json.dumps(v) if isinstance(v, (dict, list)) else v for v in columns.values()]
        await self.pool.execute(
            f"UPDATE sched.{table} SET {sets} WHERE {column} = $1", key, *values
        )

    async def event(
        self,
        task_id: str,
        type_: str,
        data: dict[str, Any] | None = None,
        *,
        wake: bool = True,
        project_id: str = "prj",
    ) -> str:
        """One event in the log; returns its position."""
        self.pos += 1
        data = {"task_id": task_id, **(data or {})}
        kind = type_.split(".")[0]
        values = {
            "generation": 1,
            "pos": self.pos,
            "up_to": self.pos,
            "event_id": ids.new_event_ids(1)[0],
            "project_id": project_id,
            "task_id": task_id,
            "kind": kind,
            "entity_id": task_id,
            "type": type_,
            "time": now(),
            "data": data,
        }
        await self._insert("api_event", values)
        if wake:
            subject = subjects.event(project_id, kind, task_id, type_.split(".")[1])
            await self.nats.publish(subject, json.dumps({"data": data}).encode())
        return f"1-{self.pos}"

    async def finish(self, task_id: str, state: str, **columns: Any) -> None:
        await self.update(
            "api_task", task_id, state=state, finished_at=now(), updated_at=now(), **columns
        )
        await self.event(task_id, "task.state_changed", {"from": "running", "to": state})

    async def _insert(self, table: str, values: dict[str, Any]) -> None:
        places = ", ".join(f"${i}" for i in range(1, len(values) + 1))
        plain = [json.dumps(v) if isinstance(v, (dict, list)) else v for v in values.values()]
        await self.pool.execute(
            f"INSERT INTO sched.{table} ({', '.join(values)}) VALUES ({places})", *plain
        )
