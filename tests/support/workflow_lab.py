"""Test support: workflows on a real Postgres, advanced by as many cores as a test wants.

There is no broker, and no bell is heard: a turn finds what there is by looking, as by the clock.
Tasks are ended as a runner's attempt would end them, without the attempt.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import asyncpg
from sqlalchemy import TextClause
from wfhub_common import broker as rpc
from wfhub_common import db, sql
from wfhub_common.messages import (
    CancelTask,
    CancelWorkflow,
    SubmitWorkflow,
    WorkflowCancelled,
    WorkflowSubmitted,
)
from wfhub_common.settings import BrokerSettings
from wfhub_scheduler import main
from wfhub_scheduler.cancel import cancel_task
from wfhub_scheduler.core import Core
from wfhub_scheduler.timing import Timing
from wfhub_scheduler.workflows.advancing import Advancing
from wfhub_scheduler.workflows.stopping import cancel_workflow
from wfhub_scheduler.workflows.submission import submit_workflow

REPO = "/srv/demo"

DIAMOND: dict[str, Any] = {
    "a": {},
    "b": {"needs": ["a"]},
    "c": {"needs": ["a"]},
    "d": {"needs": ["b", "c"]},
}

_END = """
WITH done AS (UPDATE sched.unit SET state = 'done' WHERE task_id = ANY($1))
UPDATE sched.task
   SET state = $2, reason = $3, current_attempt = NULL, finished_at = now(), attempts_used = 1,
       winner = CASE WHEN $2 = 'succeeded' THEN 'att_won' END,
       branch = CASE WHEN $2 = 'succeeded' THEN 'wfhub/' || task_id END,
       commit_id = CASE WHEN $2 = 'succeeded' THEN md5(task_id) || 'aaaaaaaa' END
 WHERE task_id = ANY($1) AND state IN ('ready', 'running') RETURNING task_id
"""


def document(tasks: dict[str, Any], **fields: Any) -> dict[str, Any]:
    defaults = {"repo": REPO, "prompt": "Do it", "base": "main"}
    return {"name": "release", "defaults": defaults, "tasks": tasks, **fields}


@contextlib.asynccontextmanager
async def opened(database_url: str) -> AsyncIterator["Lab"]:
    """On a database that it migrates."""
    await asyncio.to_thread(main.migrate, database_url)
    pg = await asyncpg.connect(database_url)
    lab = Lab(database_url, pg)
    with lab.counting():
        yield lab
    for core in lab.cores:
        await core.engine.dispose()
    await pg.close()


@dataclass
class Lab:
    database_url: str
    pg: asyncpg.Connection
    cores: list[Core] = field(default_factory=list)
    statements: Counter[str] = field(default_factory=Counter)  # by their first word
    workflow: WorkflowSubmitted | None = None  # the last one

    def core(self) -> Core:
        engine = db.make_engine(self.database_url, application="test")
        broker = rpc.make_broker(BrokerSettings(), name="test")
        self.cores.append(Core(engine, broker, Timing(30, 10, 2)))
        return self.cores[-1]

    @property
    def one(self) -> Core:
        return self.cores[0] if self.cores else self.core()

    async def submit(
        self, tasks: dict[str, Any], *, key: str | None = None, **fields: Any
    ) -> WorkflowSubmitted:
        command = SubmitWorkflow(
            project="default",
            document=document(tasks, **fields),
            idempotency_key=key,
            submitted_by="ann",
        )
        self.workflow = await submit_workflow(self.one, command)
        return self.workflow

    async def advance(self, *cores: Core) -> None:
        for core in cores or (self.one,):
            while await Advancing(core).turn():
                pass

    async def end(self, *names: str, state: str = "succeeded", reason: str = "") -> None:
        """Tasks by their names; nobody is told."""
        task_ids = [self.task_id(name) for name in names]
        ended = await self.pg.fetch(_END, task_ids, state, reason)
        assert len(ended) == len(names), "only what is ready or runs can end"

    async def after(self, *names: str, state: str = "succeeded") -> dict[str, str]:
        """The states of all tasks after these ended."""
        await self.end(*names, state=state)
        await self.advance()
        return await self.states()

    async def cancel(self) -> WorkflowCancelled:
        assert self.workflow is not None
        command = CancelWorkflow(workflow_id=self.workflow.workflow_id, reason="changed my mind")
        return await cancel_workflow(self.one, command)

    async def cancel_one(self, name: str) -> None:
        await cancel_task(self.one, CancelTask(task_id=self.task_id(name)))

    def task_id(self, name: str) -> str:
        assert self.workflow is not None
        return self.workflow.tasks[name]

    async def states(self) -> dict[str, str]:
        """Name → state, with the reason where there is one."""
        assert self.workflow is not None
        rows = await self.pg.fetch(
            "SELECT name, concat_ws(' ', state, nullif(reason, '')) AS state"
            " FROM sched.api_workflow_node WHERE workflow_id = $1 ORDER BY number",
            self.workflow.workflow_id,
        )
        return {row["name"]: row["state"] for row in rows}

    async def row(self) -> asyncpg.Record:
        assert self.workflow is not None
        return await self.pg.fetchrow(
            "SELECT * FROM sched.api_workflow WHERE workflow_id = $1", self.workflow.workflow_id
        )

    async def spec(self, name: str, field_: str) -> str | None:
        value: str | None = await self.pg.fetchval(
            "SELECT spec ->> $2 FROM sched.task WHERE task_id = $1", self.task_id(name), field_
        )
        return value

    async def events(self) -> list[str]:
        rows = await self.pg.fetch(
            "SELECT type FROM sched.event WHERE kind = 'workflow' ORDER BY batch_id, n"
        )
        return [row["type"] for row in rows]

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        plain = sql.Connection.execute

        async def counted(
            connection: sql.Connection, statement: TextClause, *values: Any
        ) -> sql.Result:
            lines = statement.text.split("\n")
            words = [line for line in lines if line and not line.startswith("--")]
            self.statements[words[0].split()[0]] += 1
            return await plain(connection, statement, *values)

        with patch.object(sql.Connection, "execute", counted):
            yield
