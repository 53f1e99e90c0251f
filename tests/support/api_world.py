"""Test support: the real API and scheduler with one of everything in them, for hostile requests.

The operations come from the API's own OpenAPI document; what a valid request of each looks like is
said here, and an operation that this does not know is an error, so that no new one is left out.
"""

import asyncio
import contextlib
import hashlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg
import httpx
import nats
import real_api
import webhook_lab
from nats.aio.client import Client as NatsClient
from wfhub_common import db, ids, subjects
from wfhub_common.messages import Claim, Claimed, Register
from wfhub_proof_store.main import MIGRATIONS, SCHEMA
from wfhub_scheduler.dead_letters import RPC_FAILURES_MAX

OPEN_PATHS = ("/healthz", "/readyz")
TASK: dict[str, Any] = {"repo": "/srv/repo", "prompt": "p"}
CRON = {"cron": "30 2 1 1 *", "task": TASK}
WORKFLOW = {"name": "w", "defaults": TASK, "tasks": {"a": {}}}
BODIES: dict[str, Any] = {
    "post /v1/projects": {"name": "fresh"},
    "patch /v1/projects/{ref}": {"queue_limit": 77},
    "patch /v1/pools/{pool}": {"running_limit": 3},
    "post /v1/runners/{runner_id}/drain": {"drain": True},
    "post /v1/tokens": {"name": "bob"},
    "post /v1/tasks": TASK,
    "post /v1/tasks:batch": {"tasks": [TASK]},
    "post /v1/tasks/{task_id}/messages": {"text": "be brief"},
    "post /v1/tasks/{task_id}/review": {"decision": "approved"},
    "put /v1/schedules/{schedule}": CRON,
    "post /v1/workflows": WORKFLOW,
    "post /v1/webhooks": {"url": "https://hooks.invalid/in"},
    "post /v1/webhooks/{webhook_id}/rotate": {"overlap_s": 60},
}
_POISON = """
CREATE FUNCTION sched.poison() RETURNS trigger LANGUAGE plpgsql AS
$$ BEGIN RAISE EXCEPTION 'poison'; END $$;
CREATE TRIGGER poison BEFORE INSERT ON sched.task
    FOR EACH ROW WHEN (NEW.title = 'poison') EXECUTE FUNCTION sched.poison()
"""
_IN_MOTION = {
    "sched.relay",
    "sched.event",
    "sched.event_batch",
    "api.webhook_cursor",
}  # by itself


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    document: Mapping[str, Any]

    @property
    def name(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def takes(self) -> tuple[str, ...]:
        """The names in its path."""
        return tuple(p["name"] for p in self._parameters("path"))

    @property
    def has_idempotency_key(self) -> bool:
        return any(p["name"].lower() == "idempotency-key" for p in self._parameters("header"))

    @property
    def body(self) -> Any:
        if "requestBody" not in self.document:
            return None
        assert self.name in BODIES, f"say in api_world.BODIES what a valid body of {self.name} is"
        return BODIES[self.name]

    def _parameters(self, place: str) -> list[Any]:
        return [p for p in self.document.get("parameters", ()) if p["in"] == place]


@dataclass
class World:
    """`values`: for each name in a path something that is there. `asked`: the commands that the API
    has sent to other services."""

    http: httpx.AsyncClient
    nats: NatsClient
    pg: asyncpg.Connection
    values: dict[str, str] = field(default_factory=dict)
    attempt_token: str = ""
    asked: list[str] = field(default_factory=list)

    async def operations(self) -> list[Operation]:
        """All that need a token; what deletes comes last."""
        document = (await self.http.get("/openapi.json")).json()
        found = [
            Operation(method, path, operation)
            for path, operations in document["paths"].items()
            for method, operation in operations.items()
            if path not in OPEN_PATHS
        ]
        return sorted(found, key=lambda one: one.method == "delete")

    def path(self, operation: Operation, **other: str) -> str:
        path = operation.path
        if path.endswith("/retry"):  # of one that has ended
            other = {"task_id": self.values["second_task_id"], **other}
        for name in operation.takes:
            known = name in {**self.values, **other}
            assert known, f"say in api_world what {{{name}}} of {operation.name} may be"
            value = {**self.values, **other}[name]
            path = path.replace(f"{{{name}}}", quote(value, safe=""))
        return path

    async def send(
        self,
        operation: Operation,
        path: str | None = None,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
    ) -> httpx.Response:
        """`headers` without Authorization: none is sent. A stream of events, which does not end, is
        not read."""
        body = operation.body if body is None else body
        request = self.http.build_request(
            operation.method, path or self.path(operation), headers=headers, json=body
        )
        if headers is not None and "authorization" not in httpx.Headers(headers):
            request.headers.pop("Authorization", None)
        answer = await self.http.send(request, stream=True)
        if not answer.headers.get("content-type", "").startswith("text/event-stream"):
            await answer.aread()
        await answer.aclose()
        return answer

    async def state(self) -> dict[str, str]:
        """Of every table, and how much was asked of the scheduler and the gateway."""
        await self.nats.flush()
        tables = await self.pg.fetch(
            "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables"
            " WHERE schemaname IN ('sched', 'api', 'proofs')"
        )
        found = {"asked": str(self.asked)}
        for name in sorted(row["name"] for row in tables):
            if name not in _IN_MOTION:
                rows = await self.pg.fetch(f"SELECT t::text AS line FROM {name} t ORDER BY 1")
                lines = "\n".join(row["line"] for row in rows)
                found[name] = f"{len(rows)} {hashlib.sha256(lines.encode()).hexdigest()}"
        found["sched.event"] = str(await self.pg.fetchval("SELECT count(*) FROM sched.event"))
        return found


@contextlib.asynccontextmanager
async def world(
    database_url: str, nats_url: str, folder: Path, proof_store: Any
) -> AsyncIterator[World]:
    await asyncio.to_thread(db.migrate, database_url, schema=SCHEMA, migrations=MIGRATIONS)
    beside = {"proofs_url": proof_store.url, "service_token": proof_store.token}
    beside["sealing_keys"] = webhook_lab.KEYS.to_json()
    async with real_api.serving(database_url, nats_url, folder, **beside) as http:
        made = World(http, await nats.connect(nats_url), await asyncpg.connect(database_url))
        try:
            await _filled(made, proof_store)

            async def heard(message: Any) -> None:
                made.asked.append(message.subject.rpartition(".")[2])

            await made.nats.subscribe(subjects.rpc(subjects.API, "*"), cb=heard)
            await made.nats.flush()
            yield made
        finally:
            await made.nats.close()
            await made.pg.close()


async def _filled(made: World, proof_store: Any) -> None:
    http, values = made.http, made.values
    await _ok(http.post("/v1/projects", json={"name": "other"}))
    await _ok(http.patch("/v1/pools/big", json={"running_limit": 9}))
    task = await _ok(http.post("/v1/tasks", json=TASK))
    flow = await _ok(http.post("/v1/workflows", json=WORKFLOW))
    await _ok(http.put("/v1/schedules/nightly", json=CRON))
    hook = await _ok(http.post("/v1/webhooks", json=BODIES["post /v1/webhooks"]))
    proof_id, runner_id = ids.new_proof_id(), ids.new_runner_id()
    proof_store.exports[proof_id] = {"proof_id": proof_id}
    attempt_id = await _claimed(made, runner_id, task["task_id"])
    ended = await _ok(http.post("/v1/tasks", json=TASK))
    await _ok(http.post(f"/v1/tasks/{ended['task_id']}/cancel"))
    token = await _ok(http.post("/v1/tokens", json={"name": "alice"}))
    values |= {"second_task_id": ended["task_id"], "token_id": token["token_id"]}
    receipt = proof_store.receipt(attempt_id, "agent.log", b"hello")
    await made.pg.execute(
        "UPDATE sched.attempt SET receipts = $2 WHERE attempt_id = $1",
        *(attempt_id, json.dumps([receipt])),
    )
    values |= {"ref": "default", "pool": "big", "schedule": "nightly", "name": "agent.log"}
    values["webhook_id"] = hook["webhook_id"]
    values |= {"task_id": task["task_id"], "workflow_id": flow["workflow_id"]}
    values |= {"proof_id": proof_id, "runner_id": runner_id, "attempt_id": attempt_id}
    await made.pg.execute(_POISON)
    for key in ("replay", "discard"):
        for _ in range(RPC_FAILURES_MAX):
            poison = {**TASK, "title": "poison"}
            await http.post("/v1/tasks", json=poison, headers={"Idempotency-Key": key})
    await made.pg.execute("DROP FUNCTION sched.poison CASCADE")
    letters = (await _ok(http.get("/v1/dead-letters")))["dead_letters"]
    assert len(letters) == 2
    values["dead_letter_id"] = letters[0]["dead_letter_id"]
    values["second_dead_letter_id"] = letters[1]["dead_letter_id"]


async def _claimed(made: World, runner_id: str, task_id: str) -> str:
    register = Register(incarnation="i", name="one", slots=1, labels=())
    await _asked(made, runner_id, "register", register)
    claim = Claim(claim_id=ids.new_claim_id(), incarnation="i", slots=1, pool="default", wait_s=5)
    reply = await _asked(made, runner_id, "claim", claim)
    (assignment,) = Claimed.model_validate(reply).assignments
    assert assignment.task_id == task_id
    made.attempt_token = assignment.token
    return assignment.attempt_id


async def _asked(made: World, runner_id: str, command: str, request: Any) -> Any:
    subject = subjects.rpc(runner_id, command)
    reply = await made.nats.request(subject, request.model_dump_json().encode(), timeout=15)
    return json.loads(reply.data)["ok"]


async def _ok(asking: Any) -> Any:
    answer = await asking
    assert answer.status_code < 300, answer.text
    return answer.json()
