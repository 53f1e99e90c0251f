"""Test support: schedules as the scheduler keeps them for the API, without firing anything.

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
    DeleteSchedule,
    FireSchedule,
    Firing,
    FiringOutcome,
    OfSchedule,
    PauseSchedule,
    Preview,
    PreviewSchedule,
    PutSchedule,
    Schedule,
)

TABLES = """
CREATE TABLE sched.api_schedule (schedule_id text PRIMARY KEY, project_id text, project text,
  name text, version int, spec jsonb, paused bool, next_fire_at timestamptz,
  next_due_at timestamptz, changed_by text, created_at timestamptz, updated_at timestamptz,
  workflow json);
CREATE TABLE sched.api_firing (schedule_id text, fire_at timestamptz, until_at timestamptz,
  outcome text, reason text, message text, task_id text, task_state text, fired_by text,
  created_at timestamptz, workflow_id text, workflow_state text);
"""


class SchedulesDouble:
    def __init__(self, pool: asyncpg.Pool, broker: NatsBroker) -> None:
        self._pool = pool
        queue = subjects.SCHEDULER
        serve(broker, "put_schedule", PutSchedule, self.put, queue=queue)
        serve(broker, "pause_schedule", PauseSchedule, self.pause, queue=queue)
        serve(broker, "delete_schedule", DeleteSchedule, self.delete, queue=queue)
        serve(broker, "fire_schedule", FireSchedule, self.fire, queue=queue)
        serve(broker, "preview_schedule", PreviewSchedule, self.preview, queue=queue)

    async def put(self, _sender: str, command: PutSchedule) -> BaseModel:
        project = await self._pool.fetchrow(
            "SELECT project_id, name FROM sched.api_project WHERE name = $1 OR project_id = $1",
            command.project,
        )
        if project is None:
            raise Rejected("project-unknown", "there is no such project", status=404)
        found = await self._row(command.project, command.name)
        if found is not None:
            return self._reply(found)
        now, spec = datetime.now(UTC), command.spec.model_dump_json(exclude={"workflow"})
        workflow = command.spec.workflow
        await self._pool.execute(
            "INSERT INTO sched.api_schedule VALUES ($1, $2, $3, $4, 1, $5, false, $6, $6, $7, $6,"
            " $6, $8)",
            *(ids.new_schedule_id(), project["project_id"], project["name"], command.name, spec),
            *(now, command.changed_by, None if workflow is None else json.dumps(workflow)),
        )
        made = self._reply(await self._known(command.project, command.name))
        return made.model_copy(update={"created": True, "changed": True})

    async def pause(self, _sender: str, command: PauseSchedule) -> BaseModel:
        row = await self._of(command)
        await self._pool.execute(
            "UPDATE sched.api_schedule SET paused = $2 WHERE schedule_id = $1",
            *(row["schedule_id"], command.paused),
        )
        return self._reply(await self._of(command))

    async def delete(self, _sender: str, command: DeleteSchedule) -> BaseModel:
        row = await self._of(command)
        await self._pool.execute(
            "DELETE FROM sched.api_schedule WHERE schedule_id = $1", row["schedule_id"]
        )
        return self._reply(row)

    async def fire(self, _sender: str, command: FireSchedule) -> BaseModel:
        row = await self._of(command)
        now, waiting = datetime.now(UTC), FiringOutcome.WAITING
        await self._pool.execute(
            "INSERT INTO sched.api_firing VALUES ($1, $2, $2, $3, '', '', NULL, NULL, $4, $2)",
            *(row["schedule_id"], now, waiting.value, command.fired_by),
        )
        return Firing(schedule_id=row["schedule_id"], fire_at=now, outcome=waiting, created=True)

    async def preview(self, _sender: str, command: PreviewSchedule) -> BaseModel:
        return Preview(schedule_id=(await self._of(command))["schedule_id"], time_zone="UTC")

    async def _of(self, command: OfSchedule) -> asyncpg.Record:
        return await self._known(command.project, command.schedule)

    async def _known(self, project: str, ref: str) -> asyncpg.Record:
        row = await self._row(project, ref)
        if row is None:
            raise Rejected("schedule-unknown", "there is no such schedule", status=404)
        return row

    async def _row(self, project: str, ref: str) -> asyncpg.Record | None:
        return await self._pool.fetchrow(
            "SELECT * FROM sched.api_schedule WHERE schedule_id = $2"
            " OR (name = $2 AND (project = $1 OR project_id = $1))",
            *(project, ref),
        )

    @staticmethod
    def _reply(row: asyncpg.Record) -> Schedule:
        return Schedule.model_validate(dict(row))
