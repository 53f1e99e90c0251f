"""A gateway over real HTTP, NATS and Postgres; stand-ins for its neighbours only: the scheduler
(answers `introspect`), a model server that misbehaves on request, and a proof-store's PUT."""

import asyncio
import contextlib
import itertools
import json
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import llama_server
import own_ports
import pytest
from faststream.nats import NatsBroker
from wfhub_common import db, ids, subjects
from wfhub_common.broker import ask, make_broker, serve
from wfhub_common.httpauth import ATTEMPT_TOKEN_PREFIX, new_token, token_sha256
from wfhub_common.messages import (
    AttemptEnded,
    Exchanges,
    ExchangesOf,
    Introspect,
    IntrospectMany,
    TokenInfo,
    TokenInfos,
    Usage,
    UsageOf,
)
from wfhub_common.service import Stop
from wfhub_common.settings import BrokerSettings
from wfhub_llm_gateway import main
from wfhub_llm_gateway.ledger import NOT_SETTLED
from wfhub_llm_gateway.settings import GatewaySettings

WAIT_S = 60  # a busy machine takes its time to start a process


async def eventually(check: Callable[[], Awaitable[Any]]) -> Any:
    """The first true answer of `check`."""
    async with asyncio.timeout(WAIT_S):
        while True:
            if answer := await check():
                return answer
            await asyncio.sleep(0.02)


@dataclass
class Scheduler:
    """Stands in for the scheduler; also asks the gateway what proof-store and API would."""

    broker: NatsBroker
    known: dict[str, TokenInfo] = field(default_factory=dict)
    asked: int = 0

    def grant(self, *, lease_s: float = 60, **fields: Any) -> tuple[str, TokenInfo]:
        token = new_token(ATTEMPT_TOKEN_PREFIX)
        own = {
            "attempt_id": ids.new_attempt_id(),
            "task_id": ids.new_task_id(),
            "project_id": ids.new_project_id(),
            "valid_until": datetime.now(UTC) + timedelta(seconds=lease_s),
        }
        info = TokenInfo(active=True, **{**own, **fields})
        self.known[token_sha256(token)] = info
        return token, info

    def renew(self, token: str, lease_s: float) -> None:
        until = datetime.now(UTC) + timedelta(seconds=lease_s)
        digest = token_sha256(token)
        self.known[digest] = self.known[digest].model_copy(update={"valid_until": until})

    async def introspect(self, _sender: str, request: Introspect) -> TokenInfo:
        self.asked += 1
        return self.known.get(request.token_sha256, TokenInfo(active=False))

    async def introspect_many(self, _sender: str, request: IntrospectMany) -> TokenInfos:
        dead = TokenInfo(active=False)
        return TokenInfos(tokens=tuple(self.known.get(d, dead) for d in request.token_sha256s))

    async def end(self, attempt_id: str) -> None:
        await self.broker.publish(
            AttemptEnded(attempt_id=attempt_id).model_dump_json().encode(),
            subjects.CTL_ATTEMPT_ENDED,
        )

    async def exchanges(self, attempt_id: str) -> Exchanges:
        """Once all are settled: a gateway waits for that only so long, and a cut one may be late.
        What a lost gateway left open is `told_exchanges`' to see."""

        async def settled() -> Exchanges | None:
            told = await self.told_exchanges(attempt_id)
            return None if any(each.note == NOT_SETTLED for each in told.exchanges) else told

        found: Exchanges = await eventually(settled)
        return found

    async def told_exchanges(self, attempt_id: str) -> Exchanges:
        question = ExchangesOf(attempt_id=attempt_id)
        asked = (self.broker, subjects.PROOF_STORE, "exchanges", question, Exchanges)
        return await ask(*asked, timeout_s=WAIT_S)

    async def usage(self, task_id: str) -> Usage:
        return await ask(self.broker, subjects.API, "usage", UsageOf(task_id=task_id), Usage)


@pytest.fixture
async def scheduler(nats_url: str) -> AsyncIterator[Scheduler]:
    broker = make_broker(BrokerSettings(nats_url=nats_url), name="scheduler")
    standin = Scheduler(broker)
    serve(broker, "introspect", Introspect, standin.introspect, queue="scheduler")
    many = standin.introspect_many
    serve(broker, "introspect_many", IntrospectMany, many, queue="scheduler")
    await broker.start()
    yield standin
    await broker.stop()


@pytest.fixture
async def gateway_database(database_url: str) -> str:
    await asyncio.to_thread(
        db.migrate, database_url, schema=main.SCHEMA, migrations=main.MIGRATIONS
    )
    return database_url


StartGateway = Callable[..., Awaitable[httpx.AsyncClient]]


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


Post = Callable[..., Awaitable[httpx.Response]]


@pytest.fixture
def post() -> Post:
    """`await post(gateway, token, stream=True)`: a chat request, its answer read to the end."""

    async def send(client: httpx.AsyncClient, token: str, **fields: Any) -> httpx.Response:
        body = {"messages": [{"role": "user", "content": "hello there"}], **fields}
        return await client.post("/v1/chat/completions", json=body, headers=bearer(token))

    return send


@pytest.fixture
def opened() -> Callable[..., contextlib.AbstractAsyncContextManager[httpx.Response]]:
    """`async with opened(gateway, token) as response`: a streamed answer, still coming."""

    def open_(
        client: httpx.AsyncClient, token: str, **fields: Any
    ) -> contextlib.AbstractAsyncContextManager[httpx.Response]:
        messages = [{"role": "user", "content": "hello there"}]
        body = {"messages": messages, "stream": True, **fields}
        return client.stream("POST", "/v1/chat/completions", json=body, headers=bearer(token))

    return open_


@pytest.fixture
async def start_gateway(
    gateway_database: str,
    nats_url: str,
    scheduler: Scheduler,
    tmp_path: Path,
    free_port: Callable[[], int],
) -> AsyncIterator[StartGateway]:
    """`await start_gateway(llm_base_url=…)` → a client of a gateway in this process."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(**settings: Any) -> httpx.AsyncClient:
            address = f"127.0.0.1:{free_port()}"
            values = {
                "http_listen": address,
                "database_url": gateway_database,
                "nats_url": nats_url,
                "gateway_spool": str(tmp_path / "spool"),
                **settings,
            }
            stop = Stop()
            serving = asyncio.create_task(main.serve(GatewaySettings.model_validate(values), stop))

            async def end() -> None:
                stop()
                await serving

            stack.push_async_callback(end)
            client = httpx.AsyncClient(base_url=f"http://{address}", timeout=WAIT_S)
            await stack.enter_async_context(client)
            await eventually(lambda: _ready(client, serving))
            return client

        yield start


async def _ready(client: httpx.AsyncClient, serving: asyncio.Task[None]) -> bool:
    if serving.done():
        serving.result()
    try:
        return (await client.get("/readyz")).status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def free_port() -> Callable[[], int]:
    return own_ports.free_port


STANDING = """
SELECT used_tokens, reserved_tokens, used_nusd, reserved_nusd, used_wall_ms, reserved_wall_ms,
       used_requests
  FROM gateway.account WHERE scope = $1 AND subject LIKE $2 || '%'
"""


@pytest.fixture
def standing(gateway_database: str) -> Callable[..., Awaitable[asyncpg.Record]]:
    """`await standing(id)`: of an attempt's account; `await standing(id, "task")`: of a task's."""

    async def look(subject: str, scope: str = "attempt") -> asyncpg.Record:
        connection = await asyncpg.connect(gateway_database)
        row = await connection.fetchrow(STANDING, scope, subject)
        await connection.close()
        return row

    return look


@dataclass
class Upstream:
    """A model server of which the first part of the path says how it behaves."""

    port: int = 0
    requests: list[dict[str, Any]] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    heads: list[str] = field(default_factory=list)
    blobs: dict[str, bytes] = field(default_factory=dict)  # PUT …/blobs/sha256/<hex>
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)  # a client left a hanging answer
    hanging: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)  # of a held stream
    halts_after: int = 100  # events of "stream-halting": then it waits for `release`
    flooded_bytes: int = 0
    odd_stream: bytes = b""  # what the behaviour "stream" answers
    script: Callable[[str], bytes] = lambda _path: b""  # what "script" answers, head and all

    def url(self, behaviour: str) -> str:
        return f"http://127.0.0.1:{self.port}/{behaviour}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            length = next(
                (int(h[15:]) for h in head.split("\r\n") if h.lower().startswith("content-length")),
                0,
            )
            body = await reader.readexactly(length)
            path = head.split()[1]
            self.heads.append(head)
            if head.startswith("PUT"):
                self.blobs[path.rpartition("/")[2]] = body
                writer.write(b"HTTP/1.1 201 Created\r\ncontent-length: 0\r\n\r\n")
            else:
                if body:
                    self.bodies.append(body)
                    self.requests.append(json.loads(body))
                await self.behave(path.split("/")[1], head, reader, writer)
            await writer.drain()
        writer.close()

    async def behave(
        self, how: str, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        match how:
            case "ok" if head.startswith("GET"):
                models = [{"id": "m1", "object": "model"}, {"id": "m2", "object": "model"}]
                writer.write(_json(200, {"object": "list", "data": models}))
            case "ok":
                answer = {"model": "double", "choices": [_choice("hello")], "usage": USAGE}
                writer.write(_json(200, answer))
            case "no-usage":
                writer.write(_json(200, {"model": "double", "choices": [_choice("hello")]}))
            case "unauthorized":
                writer.write(_json(401, {"error": {"message": "bad key sk-secret"}}))
            case "bad-request":
                writer.write(_json(400, {"error": {"message": "context length exceeded"}}))
            case "failing":
                writer.write(_json(500, {"error": {"message": "out of memory"}}))
            case "script":
                writer.write(self.script(head.split()[1]))
            case "limited":
                body = {"error": {"message": "slow down", "code": "rate_limit"}}
                writer.write(_json(429, body, "retry-after: 7"))
            case "page":
                writer.write(_head(503, "text/html", "content-length: 14") + b"<h1>down</h1>\n")
            case "wrong-usage":
                usage = {"prompt_tokens": -5, "completion_tokens": "many", "total_tokens": 2**70}
                choices = [{**_choice("hello"), "delta": {"content": "hello"}}]
                chunk = {"model": "double", "choices": choices, "usage": usage}
                if self.requests[-1].get("stream"):
                    data = b"data: " + json.dumps(chunk).encode() + b"\n\ndata: [DONE]\n\n"
                    writer.write(_head(200, "text/event-stream") + data)
                else:
                    writer.write(_json(200, chunk))
            case "huge":
                content = "x" * HUGE_BYTES
                if self.requests[-1].get("stream"):
                    writer.write(_head(200, "text/event-stream") + _delta(content))
                else:
                    answer = {"model": "double", "choices": [_choice(content)], "usage": USAGE}
                    writer.write(_json(200, answer))
            case "stream-malformed":
                body = _delta("one") + b'data: {"choices": [{"delta"\n\n' + _delta("two")
                writer.write(_head(200, "text/event-stream") + body)
            case "busy":
                slow = _json(429, {"error": {"message": "slow down"}}, "retry-after: 3600")
                writer.write(slow)
            case "busy-once" if self.heads.count(head) == 1:
                writer.write(_json(429, {"error": {"message": "slow down"}}, "retry-after: 1"))
            case "busy-once":
                writer.write(_json(200, {"model": "double", "choices": [_choice("hello")]}))
            case "stream-cut-at-once":
                writer.write(_head(200, "text/event-stream", "transfer-encoding: chunked"))
            case "hang":
                await self._hang(reader)
            case "stream":
                writer.write(_head(200, "text/event-stream") + ODD_STREAM)
            case "stream-hang":
                writer.write(_head(200, "text/event-stream") + _delta("one"))
                await writer.drain()
                await self._hang(reader)
            case "stream-held":
                writer.write(_head(200, "text/event-stream") + _delta("one"))
                await writer.drain()
                self.hanging.set()
                await self.release.wait()
                writer.write(ODD_STREAM.replace(b"\r\n", b"\n"))
            case "stream-flood":
                writer.write(_head(200, "text/event-stream"))
                try:
                    while not reader.at_eof():
                        writer.write(_delta("x" * 60_000))
                        await writer.drain()
                        self.flooded_bytes += 60_000
                finally:
                    self.hung_up.set()
            case "stream-disconnect":
                chunked = _head(200, "text/event-stream", "transfer-encoding: chunked")
                part = _delta("one") + b'data: {"choi'
                writer.write(chunked + f"{len(part):x}\r\n".encode() + part + b"\r\n")
            case "stream-thinks":  # and shows nothing of it, until it is told to say what it cost
                writer.write(_head(200, "text/event-stream"))
                try:
                    while not reader.at_eof() and not self.release.is_set():
                        writer.write(_delta(""))
                        await writer.drain()
                        await asyncio.sleep(0.05)
                    writer.write(ODD_STREAM.replace(b"\r\n", b"\n"))
                finally:
                    self.hung_up.set()
            case "stream-endless" | "stream-heavy" | "stream-halting":
                content, pause_s = "twelve chars", 0.001
                if how == "stream-heavy":
                    content, pause_s = "x" * 400, 0.1  # 100 tokens
                writer.write(_head(200, "text/event-stream"))
                try:
                    for n in itertools.count():
                        if reader.at_eof() or writer.is_closing():
                            break
                        if how == "stream-halting" and n == self.halts_after:
                            await self.release.wait()
                        writer.write(_delta(content))
                        await writer.drain()
                        await asyncio.sleep(pause_s)
                finally:  # a reset in the middle of a write is a hang-up as well
                    self.hung_up.set()

    async def _hang(self, reader: asyncio.StreamReader) -> None:
        self.hanging.set()
        await reader.read()  # until the other side closes
        self.hung_up.set()


HUGE_BYTES = 10 * 1024 * 1024
USAGE = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


def _choice(content: str) -> dict[str, Any]:
    message = {"role": "assistant", "content": content}
    return {"index": 0, "message": message, "finish_reason": "stop"}


def _delta(content: str) -> bytes:
    chunk = {"choices": [{"index": 0, "delta": {"content": content}, "finish_reason": None}]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


# CRLF, a comment, an event name, odd spacing: all of it must come through unchanged.
ODD_STREAM = (
    b": hello\r\n\r\nevent: chunk\ndata:"
    + _delta("a  b")[6:]
    + b'data: {"choices": [],  "usage": '
    + json.dumps(USAGE).encode()
    + b"}\n\ndata: [DONE]\r\n\r\n"
)


def _head(status: int, content_type: str, *more: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"content-type: {content_type}", "connection: close", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def _json(status: int, value: dict[str, Any], *more: str) -> bytes:
    body = json.dumps(value).encode()
    return _head(status, "application/json", f"content-length: {len(body)}", *more) + body


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    double = Upstream(odd_stream=ODD_STREAM)
    server = await asyncio.start_server(double.serve, "127.0.0.1", 0)
    double.port = server.sockets[0].getsockname()[1]
    yield double
    server.close()


@pytest.fixture
def wait_until() -> Callable[[Callable[[], Awaitable[Any]]], Awaitable[Any]]:
    return eventually


@pytest.fixture
async def used_gateway(
    start_gateway: StartGateway, scheduler: Scheduler, upstream: Upstream, post: Post
) -> httpx.AsyncClient:
    """One that has an exchange in its ledger."""
    gateway = await start_gateway(llm_base_url=upstream.url("ok"))
    token, _ = scheduler.grant()
    assert (await post(gateway, token)).status_code == 200
    return gateway


@pytest.fixture(scope="session")
def llama_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with llama_server.serving(tmp_path_factory.mktemp("llama")) as url:
        yield url


@pytest.fixture
async def llama(llama_process: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the model server itself, past the gateway, when it is ready and idle."""
    async with httpx.AsyncClient(base_url=llama_process, timeout=60) as client:

        async def idle() -> bool:
            try:
                slots = await client.get("/slots")
            except httpx.TransportError:
                return False
            return slots.status_code == 200 and not any(s["is_processing"] for s in slots.json())

        await eventually(idle)
        yield client


@pytest.fixture
async def start_process(
    database_url: str, nats_url: str, tmp_path: Path, free_port: Callable[[], int]
) -> AsyncIterator[Callable[..., Any]]:
    processes: list[asyncio.subprocess.Process] = []

    async def start(*arguments: str, **env: str) -> tuple[asyncio.subprocess.Process, str]:
        address = f"127.0.0.1:{free_port()}"
        own = {"DATABASE_URL": database_url, "NATS_URL": nats_url, "HTTP_LISTEN": address}
        paths = {key: os.environ[key] for key in ("PATH", "PYTHONPATH") if key in os.environ}
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "wfhub_llm_gateway.main",
            *arguments,
            env={**paths, **own, "GATEWAY_SPOOL": str(tmp_path / "spool"), **env},
            stderr=asyncio.subprocess.PIPE,
        )
        processes.append(process)
        return process, f"http://{address}"

    yield start
    for process in processes:
        if process.returncode is None:
            process.kill()
            await process.communicate()
