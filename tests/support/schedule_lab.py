"""Test support: schedules on a real Postgres, and cores that fire them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import asyncpg
from wfhub_common import broker as rpc
from wfhub_common import db
from wfhub_common.messages import (
    FireSchedule,
    Firing,
    PauseSchedule,
    PutSchedule,
    Schedule,
    ScheduleSpec,
    TaskSpec,
)
from wfhub_common.settings import BrokerSettings
from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.schedules import commands
from wfhub_scheduler.schedules.turns import Turns
from wfhub_scheduler.timing import Timing
from wfhub_scheduler.transitions import Transitions

TASK = TaskSpec(repo="/srv/demo", prompt="Tidy up")
HOUR = timedelta(hours=1)


@dataclass
class Lab:
    """Cores of as many schedulers as a test wants, without a broker: nothing here needs one."""

    database_url: str
    pg: asyncpg.Connection
    cores: list[Core] = field(default_factory=list)

    def core(self) -> Core:
        engine = db.make_engine(self.database_url, application="test")
        broker = rpc.make_broker(BrokerSettings(), name="test")
        self.cores.append(Core(engine, broker, Timing(30, 10, 2)))
        return self.cores[-1]

    @property
    def one(self) -> Core:
        return self.cores[0] if self.cores else self.core()

    async def put(self, name: str = "nightly", **spec: Any) -> Schedule:
        what = {} if "workflow" in spec else {"task": TASK}
        made = ScheduleSpec.model_validate({"cron": "@every 1h", **what, **spec})
        command = PutSchedule(project="default", name=name, spec=made, changed_by="ann")
        return await commands.put_schedule(self.one, command)

    async def fire(self, key: str | None = None, schedule: str = "nightly") -> Firing:
        command = FireSchedule(
            project="default", schedule=schedule, idempotency_key=key, fired_by="ann"
        )
        return await commands.fire_schedule(self.one, command)

    async def pause(self, paused: bool) -> Schedule:
        command = PauseSchedule(project="default", schedule="nightly", paused=paused)
        return await commands.pause_schedule(self.one, command)

    async def turn(self) -> None:
        while await Turns(self.one).turn():
            pass

    async def due(self, ago: timedelta = timedelta(seconds=1), steps: int = 0) -> datetime:
        """The schedule as if its next instant had come `ago`, and `steps` more before that: the
        interval's anchor goes back with it. Returns the newest instant."""
        newest: datetime = await self.pg.fetchval("SELECT now() - $1::interval", ago)
        await self.pg.execute(
            "UPDATE sched.schedule SET anchor_at = $1, next_fire_at = $1", newest - steps * HOUR
        )
        return newest

    async def firings(self) -> list[tuple[str, str]]:
        rows = await self.pg.fetch("SELECT outcome, reason FROM sched.firing ORDER BY fire_at")
        return [(row["outcome"], row["reason"]) for row in rows]

    async def tasks(self, *states: str) -> list[str]:
        rows = await self.pg.fetch(
            "SELECT task_id FROM sched.task WHERE state = ANY($1) OR $1 = '{}' ORDER BY created_at",
            list(states),
        )
        return [row["task_id"] for row in rows]

    async def end(self, task_id: str) -> None:
        """The task becomes final, as its cancel would make it."""

        async def work(tx: Tx) -> None:
            moves = await Transitions.of_tasks(tx, [task_id])
            moves.cancel(task_id, "over")
            await moves.write()

        await self.one.commit(work)

    async def events(self, type_: str) -> list[asyncpg.Record]:
        return await self.pg.fetch(
            "SELECT entity_id, task_id, data::text AS data FROM sched.event WHERE type = $1"
            " ORDER BY batch_id, n",
            type_,
        )


@asynccontextmanager
async def opened(database_url: str) -> AsyncIterator[Lab]:
    """On a database that is migrated."""
    pg = await asyncpg.connect(database_url)
    made = Lab(database_url, pg)
    yield made
    for core in made.cores:
        await core.engine.dispose()
    await pg.close()
