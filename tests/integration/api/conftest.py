"""A running API over real Postgres, NATS and HTTP, with doubles at its neighbours' ports.

The scheduler's views are plain tables here, so that a test decides what is in them; its RPCs are
answered by a stand-in over real NATS; the proof-store is a small real HTTP server.
"""

import asyncio
import hashlib
import json
import os
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import nats
import operations_double
import own_ports
import pytest
import schedules_double
import workflows_double
from faststream.nats import NatsBroker
from nats.aio.client import Client as NatsClient
from pydantic import BaseModel
from wfhub_api.app import create_app
from wfhub_api.main import MIGRATIONS
from wfhub_api.settings import ApiSettings
from wfhub_common import db, ids, streams, subjects
from wfhub_common.broker import make_broker, serve
from wfhub_common.errors import Rejected
from wfhub_common.httpauth import token_sha256
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
from wfhub_common.service import Stop, serve_http
from wfhub_common.settings import BrokerSettings

ADMIN_TOKEN = "wht_test-admin-token"
READY_WAIT_S = 60.0  # a busy machine takes its time to start a process

VIEW_TABLES = """
CREATE SCHEMA sched;
CREATE TABLE sched.api_project (project_id text, name text, running_limit int, weight int,
  created_at timestamptz, queue_limit int, paused bool DEFAULT false,
  limits jsonb DEFAULT '{}', budget jsonb DEFAULT '{}', cassette jsonb DEFAULT 'null',
  mcp jsonb DEFAULT '{}');
CREATE TABLE sched.api_task (task_id text PRIMARY KEY, project_id text, project text, state text,
  reason text, message text, title text, spec jsonb, branch text, commit_id text, verdict text,
  proof_id text, attempts_used int DEFAULT 0, current_attempt text,
  cancel_requested bool DEFAULT false, created_at timestamptz, updated_at timestamptz,
  finished_at timestamptz, workflow_id text, trace_id text, review_until timestamptz,
  review text, reviewed_by text);
CREATE TABLE sched.api_attempt (attempt_id text PRIMARY KEY, task_id text, project_id text,
  kind text, number int, state text, runner_id text, reason text, message text, base_commit text,
  commit_id text, verdict jsonb, base_verdict jsonb, artifacts jsonb, changes jsonb,
  created_at timestamptz, started_at timestamptz, finished_at timestamptz);
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


class ProofStoreDouble:
    """Serves blobs, exports and a key as the proof-store does; `token` is required."""

    def __init__(self) -> None:
        self.token = "wst_double"
        self.blobs: dict[str, bytes] = {}
        self.exports: dict[str, Any] = {}
        self.held_back = 0  # bytes that are promised and never come
        self.public_key = "-----BEGIN PUBLIC KEY-----\n…\n-----END PUBLIC KEY-----\n"
        double = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = double.answer(self.path, self.headers.get("authorization"))
                self.send_response(200 if isinstance(found, bytes) else found)
                body = found if isinstance(found, bytes) else b"{}"
                self.send_header("Content-Length", str(len(body) + double.held_back))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def answer(self, path: str, authorization: str | None) -> bytes | int:
        if authorization != f"Bearer {self.token}":
            return 401
        if path == "/public-key":
            return self.public_key.encode()
        head, _, name = path.rpartition("/")
        if head == "/blobs/sha256":
            return self.blobs.get(name, 404)
        if head == "/proofs" and name in self.exports:
            return json.dumps(self.exports[name]).encode()
        return 404

    def put(self, data: bytes) -> str:
        hex_ = hashlib.sha256(data).hexdigest()
        self.blobs[hex_] = data
        return f"sha256:{hex_}"

    def receipt(self, attempt_id: str, name: str, data: bytes) -> dict[str, Any]:
        return {
            "attempt_id": attempt_id,
            "name": name,
            "digest": self.put(data),
            "size": len(data),
            "media_type": "text/html",
            "sender": "rnr",
            "stored_at": "2030-01-01T00:00:00Z",
        }

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Hub:
    """Everything a test touches."""

    url: str
    token: str
    scheduler: Scheduler
    proof_store: ProofStoreDouble
    nats: NatsClient
    database_url: str
    http: httpx.AsyncClient
    app: Any
    tmp: Path

    def env(self, **more: str) -> dict[str, str]:
        """The environment of a `wfhub` process that talks to this API."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        return {
            **kept,
            "HOME": str(self.tmp),
            "XDG_CONFIG_HOME": str(self.tmp / "config"),
            "WFHUB_URL": self.url,
            "WFHUB_TOKEN": self.token,
            **more,
        }

    async def cli(self, *arguments: str, **env: str) -> "Finished":
        process = await self.start_cli(*arguments, **env)
        async with asyncio.timeout(60):
            out, err = await process.communicate()
        assert process.returncode is not None
        return Finished(process.returncode, out.decode(), err.decode())

    async def start_cli(self, *arguments: str, **env: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "wfhub_client.cli",
            *arguments,
            env=self.env(**env),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            cwd=self.tmp,
        )


@dataclass(frozen=True)
class Finished:
    code: int
    out: str
    err: str


@pytest.fixture
def proof_store() -> Iterator[ProofStoreDouble]:
    double = ProofStoreDouble()
    yield double
    double.close()


@pytest.fixture
async def migrated(database_url: str) -> str:
    await asyncio.to_thread(db.migrate, database_url, schema="api", migrations=MIGRATIONS)
    return database_url


@pytest.fixture
async def scheduler(migrated: str, nats_url: str) -> AsyncIterator[Scheduler]:
    pool = await asyncpg.create_pool(migrated, min_size=1, max_size=4)
    doubles = (operations_double, schedules_double, workflows_double)
    await pool.execute(VIEW_TABLES + "".join(double.TABLES for double in doubles))
    client = await nats.connect(nats_url)
    await streams.provision(client.jetstream())
    double = Scheduler(pool, client)
    await double.create_project("test", CreateProject(name="default"))
    broker: NatsBroker = make_broker(BrokerSettings(nats_url=nats_url), name="scheduler")
    serve(broker, "create_project", CreateProject, double.create_project, queue="scheduler")
    serve(broker, "submit_task", SubmitTask, double.submit_task, queue="scheduler")
    serve(broker, "cancel_task", CancelTask, double.cancel_task, queue="scheduler")
    serve(broker, "review_task", ReviewTask, double.review_task, queue="scheduler")
    serve(broker, "steer_task", SteerTask, double.steer_task, queue="scheduler")
    serve(broker, "usage", UsageOf, double.usage_of, queue="gateway")
    serve(broker, "exchanges", ExchangesOf, double.exchanges_of, queue="gateway")
    schedules_double.SchedulesDouble(pool, broker)
    workflows_double.WorkflowsDouble(pool, broker)
    operations_double.OperationsDouble(pool, broker, double.submit_task)
    await broker.start()
    yield double
    double.over.set()
    await broker.stop()
    await client.close()
    await pool.close()


@pytest.fixture
def api_settings() -> dict[str, Any]:
    """What a file of tests wants set besides."""
    return {}


@pytest.fixture
async def hub(
    api_settings: dict[str, Any],
    scheduler: Scheduler,
    proof_store: ProofStoreDouble,
    migrated: str,
    nats_url: str,
    tmp_path: Path,
) -> AsyncIterator[Hub]:
    settings = ApiSettings(
        nats_url=nats_url,
        database_url=migrated,
        proofs_url=proof_store.url,
        service_token=proof_store.token,
        admin_token_sha256=token_sha256(ADMIN_TOKEN),
        **api_settings,
    )
    stop = Stop()
    broker = make_broker(settings, name="api")
    app = create_app(settings, db.make_engine(migrated, application="api-test"), broker, stop)
    address = f"127.0.0.1:{own_ports.free_port()}"
    serving = asyncio.create_task(serve_http(app, address, stop))
    async with httpx.AsyncClient(
        base_url=f"http://{address}",
        headers={"Authorization": f"Bearer {ADMIN_TOKEN}"},
        timeout=20,
        trust_env=False,
    ) as http:
        await ready(http, serving)
        yield Hub(
            url=f"http://{address}",
            token=ADMIN_TOKEN,
            scheduler=scheduler,
            proof_store=proof_store,
            nats=scheduler.nats,
            database_url=migrated,
            http=http,
            app=app,
            tmp=tmp_path,
        )
    stop("test over")
    await asyncio.wait_for(serving, READY_WAIT_S)


async def ready(http: httpx.AsyncClient, serving: "asyncio.Task[None] | None" = None) -> None:
    async with asyncio.timeout(READY_WAIT_S):
        while True:
            if serving is not None and serving.done():
                serving.result()
            try:
                if (await http.get("/readyz")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.02)
