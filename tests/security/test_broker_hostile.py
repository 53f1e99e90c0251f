"""Hostile action 20 at depth: a runner in strange hands against the real broker and scheduler.

The broker has the users and permissions that `wfhub up` gives it; the scheduler is a process of its
own. The hostile runner's identity is real: it may do what runners do, and nothing with others'.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import nats
import own_ports
import pytest
from faststream.nats import NatsBroker
from nats.aio.client import Client
from nats.errors import Error
from wfhub_common import broker as rpc
from wfhub_common import ids, limits, signing, subjects
from wfhub_common.errors import LeaseLost, RetryLater
from wfhub_common.messages import (
    AttemptState,
    Claim,
    Claimed,
    Complete,
    Completed,
    Heartbeat,
    HeartbeatReply,
    Register,
    Registered,
    Report,
    Reported,
    SubmitTask,
    Submitted,
    TaskSpec,
)
from wfhub_common.settings import BrokerSettings
from wfhub_local import nats_server
from wfhub_scheduler import main as scheduler_main

WAIT_S = 30.0
FLOOD_S_MAX = 15.0  # in which others are answered, however much one runner sends
REQUESTS = 20_000  # of a flood
LARGE = 150  # messages of the largest size that the broker takes
SPEC = TaskSpec(repo="/srv/demo", prompt="p")
STREAMS = (subjects.EVENTS_STREAM, subjects.INGEST_STREAM, subjects.LOGS_STREAM)


@dataclass
class World:
    port: int
    passwords: dict[str, str]
    pg: asyncpg.Connection
    victim: str
    hostile: str
    admin: Client  # as the scheduler, which may look at every stream

    async def broker(self, user: str) -> NatsBroker:
        settings = BrokerSettings(
            nats_url=f"nats://127.0.0.1:{self.port}",
            nats_user=user,
            nats_password=self.passwords[user],
        )
        made = rpc.make_broker(settings, name=user)
        await made.start()
        return made

    @contextlib.asynccontextmanager
    async def client(self, user: str) -> AsyncIterator[tuple[Client, "asyncio.Queue[str]"]]:
        """A bare connection, and what the server said against it."""
        refusals: asyncio.Queue[str] = asyncio.Queue()

        async def failed(error: Exception) -> None:
            refusals.put_nowait(str(error))

        made = await nats.connect(
            f"nats://127.0.0.1:{self.port}",
            user=user,
            password=self.passwords[user],
            inbox_prefix=f"_INBOX.{user}",
            error_cb=failed,
            allow_reconnect=False,
        )
        try:
            yield made, refusals
        finally:
            await made.close()

    async def state(self) -> dict[str, Any]:
        """All rows of the scheduler, and what its streams hold and are."""
        tables = ("task", "unit", "attempt", "project", "pool", "runner", "dead_letter", "workflow")
        found: dict[str, Any] = {
            table: [
                row["line"]
                for row in await self.pg.fetch(
                    f"SELECT (to_jsonb(t) - 'seen_at' - 'lease_until')::text AS line"
                    f" FROM sched.{table} t ORDER BY 1"
                )
            ]
            for table in tables
        }
        for name in STREAMS:
            info = await self.admin.jetstream().stream_info(name)
            found[name] = (info.state.messages, info.state.first_seq, str(info.config))
        listed = await self.admin.jetstream().streams_info()
        found["streams"] = sorted(str(info.config.name) for info in listed)
        return found


@pytest.fixture
def broker_server(tmp_path: Path) -> Iterator[tuple[int, dict[str, str], list[str]]]:
    runners = [str(ids.new_runner_id()) for _ in range(2)]
    users = ("api", "scheduler", "proof-store", "gateway", *runners)
    passwords = {user: f"password-of-{user}" for user in users}
    port = own_ports.free_port()
    config = tmp_path / "nats.conf"
    config.write_text(
        nats_server.configuration(port=port, store=tmp_path / "js", passwords=passwords)
    )
    with (tmp_path / "nats.log").open("wb") as log:
        process = subprocess.Popen([nats_server.binary(), "-c", config], stderr=log)
    deadline = time.monotonic() + WAIT_S
    while not nats_server.is_up(port):
        assert time.monotonic() < deadline, (tmp_path / "nats.log").read_text()
    yield port, passwords, runners
    process.terminate()
    process.wait(10)


@pytest.fixture
async def world(
    broker_server: tuple[int, dict[str, str], list[str]], database_url: str, tmp_path: Path
) -> AsyncIterator[World]:
    port, passwords, (victim, hostile) = broker_server
    await asyncio.to_thread(scheduler_main.migrate, database_url)
    key_file = tmp_path / "proof.key"
    signing.load_or_create_private_key(key_file)
    env = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": database_url,
        "NATS_URL": f"nats://127.0.0.1:{port}",
        "NATS_USER": "scheduler",
        "NATS_PASSWORD": passwords["scheduler"],
        "PROOF_PUBLIC_KEY_FILE": str(signing.public_key_path(key_file)),
    }
    with (tmp_path / "scheduler.log").open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220 - returns at once
            [sys.executable, "-m", "wfhub_scheduler.main"], env=env, stdout=log, stderr=log
        )
    pg = await asyncpg.connect(database_url)
    admin = await nats.connect(
        f"nats://127.0.0.1:{port}",
        user="scheduler",
        password=passwords["scheduler"],
        inbox_prefix="_INBOX.scheduler",
    )
    try:
        made = World(port, passwords, pg, victim, hostile, admin)
        for runner in (victim, hostile):
            await _registered(made, runner)
        yield made
    finally:
        await admin.close()
        await pg.close()
        process.kill()
        process.wait(10)


async def _registered(world: World, runner: str) -> None:
    broker = await world.broker(runner)
    register = Register(incarnation="i", name="test", slots=4)
    async with asyncio.timeout(WAIT_S):
        while True:  # the scheduler is starting
            with contextlib.suppress(RetryLater):
                await rpc.ask(broker, runner, "register", register, Registered)
                break
            await asyncio.sleep(0.05)
    await rpc.stop(broker)


async def _submitted(api: NatsBroker) -> Submitted:
    request = SubmitTask(project="default", spec=SPEC)
    return await rpc.ask(api, subjects.API, "submit_task", request, Submitted, timeout_s=WAIT_S)


async def _claimed(broker: NatsBroker, runner: str) -> str:
    request = Claim(claim_id=ids.new_claim_id(), incarnation="i", slots=1, wait_s=5)
    claimed = await rpc.ask(broker, runner, "claim", request, Claimed, timeout_s=WAIT_S)
    (assignment,) = claimed.assignments
    return assignment.attempt_id


async def _settled(world: World) -> dict[str, Any]:
    """Once what was done before has reached the stream."""
    async with asyncio.timeout(WAIT_S):
        while True:
            count = await world.pg.fetchval("SELECT count(*) FROM sched.event")
            state = await world.state()
            if state[subjects.EVENTS_STREAM][0] >= count:
                return state
            await asyncio.sleep(0.02)


async def test_20_a_runner_changes_nothing_of_anothers_and_no_stream(world: World) -> None:
    api, ours = await world.broker("api"), await world.broker(world.victim)
    theirs = await world.broker(world.hostile)
    await _submitted(api)
    attempt_id = await _claimed(ours, world.victim)
    before = await _settled(world)

    for outcome in (AttemptState.FAILED, AttemptState.CANCELLED, AttemptState.REJECTED):
        request = Complete(attempt_id=attempt_id, outcome=outcome)
        with pytest.raises(LeaseLost):
            await rpc.ask(theirs, world.hostile, "complete", request, Completed)
    report = Report(attempt_id=attempt_id, state=AttemptState.RUNNING, step="x")
    with pytest.raises(LeaseLost):
        await rpc.ask(theirs, world.hostile, "report", report, Reported)
    beat = Heartbeat(incarnation="i", attempts=(attempt_id,))
    reply = await rpc.ask(theirs, world.hostile, "heartbeat", beat, HeartbeatReply)
    assert reply.lost == (attempt_id,)
    complete = Complete(attempt_id=attempt_id, outcome=AttemptState.FAILED)
    body = complete.model_dump_json().encode()
    foreign = subjects.AttemptSubject(world.victim, "p", "t", attempt_id, "artifact")
    async with world.client(world.hostile) as (client, refusals):
        for subject in (
            subjects.rpc(world.victim, "complete"),
            subjects.rpc(subjects.API, "cancel_task"),
            subjects.rpc(world.hostile, "submit_task"),
            subjects.rpc(world.hostile, "drain_runner"),
            subjects.rpc(world.hostile, "seal"),
            subjects.event("prj_x", "task", "tsk_x", "state_changed"),
            subjects.ingest(foreign),
            subjects.log(foreign),
            subjects.CTL_ATTEMPT_ENDED,
            subjects.WAKE,
            subjects.dlq(subjects.SCHEDULER),
            f"_INBOX.{world.victim}.x",
            "$JS.API.STREAM.CREATE.MINE",
            *(f"$JS.API.STREAM.{verb}.{s}" for s in STREAMS for verb in ("PURGE", "DELETE")),
            *(f"$JS.API.STREAM.UPDATE.{s}" for s in STREAMS),
            *(f"$JS.API.STREAM.MSG.DELETE.{s}" for s in STREAMS),
            *(f"$JS.API.CONSUMER.CREATE.{s}.mine" for s in STREAMS),
            f"$JS.ACK.{subjects.INGEST_STREAM}.ingest.1.1.1.1.1",
            "$SYS.REQ.SERVER.PING",
        ):
            await client.publish(subject, body, reply=f"_INBOX.{world.hostile}.x")
            await client.flush()
            said = await asyncio.wait_for(refusals.get(), WAIT_S)
            assert "permissions violation" in said, subject
    assert await _settled(world) == before

    done = await rpc.ask(ours, world.victim, "complete", complete, Completed)  # the control
    assert done.task_state
    assert (await _settled(world))["attempt"] != before["attempt"]
    for broker in (api, ours, theirs):
        await rpc.stop(broker)


async def test_20_a_message_over_the_limit_ends_its_sender_and_nobody_else(world: World) -> None:
    before = await _settled(world)
    reader, writer = await asyncio.open_connection("127.0.0.1", world.port)
    who = {"user": world.hostile, "pass": world.passwords[world.hostile], "verbose": False}
    own = subjects.AttemptSubject(world.hostile, "p", "t", "a", "artifact")
    size = limits.BROKER_PAYLOAD_BYTES_MAX + 1
    writer.write(b"CONNECT " + json.dumps(who).encode() + b"\r\n")
    # Refused for what it announces: of a body behind it the connection's reset would be all we see.
    writer.write(f"PUB {subjects.ingest(own)} {size}\r\n".encode())
    said = b""
    async with asyncio.timeout(WAIT_S):
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65536):
                said += chunk
    writer.close()
    assert b"Maximum Payload Violation" in said
    api = await world.broker("api")
    assert await _settled(world) == before
    await _submitted(api)  # the control
    await rpc.stop(api)


# Runs in a process of its own: what it costs to send must not be the test's own.
FLOOD = """
import asyncio, json, sys
import nats
port, user, password, kind, count = sys.argv[1:]
async def main():
    client = await nats.connect(f"nats://127.0.0.1:{port}", user=user, password=password,
        inbox_prefix=f"_INBOX.{user}", allow_reconnect=False)
    claim = json.dumps({"claim_id": "clm_" + "a" * 24, "incarnation": "i", "slots": 1,
        "pool": "nowhere", "wait_s": 20}).encode()
    beat = json.dumps({"incarnation": "i", "attempts": ["att_" + "a" * 24] * 500}).encode()
    large = b"x" * (1024 * 1024 - 64)
    what = {
        "claims": [("claim", claim)],
        "heartbeats": [("heartbeat", beat)],
        "garbage": [(c, b"{" * 200) for c in ("register", "claim", "report", "complete")],
        "large": [(c, large) for c in ("register", "claim", "report", "complete", "heartbeat")],
    }.get(kind)
    print("began", flush=True)
    for n in range(int(count)):
        if what is None:
            await client.publish(f"wfhub.v1.log.{user}.p.t.a{n % 50}", large)
        else:
            command, body = what[n % len(what)]
            await client.publish(f"wfhub.v1.rpc.{user}.{command}", body,
                reply=f"_INBOX.{user}.none")
        if n % 50 == 49:
            await client.flush(30)
    print("sent", flush=True)
    await asyncio.sleep(3600)
asyncio.run(main())
"""


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        ("claims", REQUESTS),
        ("heartbeats", REQUESTS // 4),
        ("garbage", REQUESTS),
        ("large", LARGE),
        ("logs", 2 * LARGE),
    ],
)
async def test_20_a_flood_of_one_runner_holds_up_nobody_else(
    world: World, kind: str, count: int
) -> None:
    api, ours = await world.broker("api"), await world.broker(world.victim)
    arguments = (str(world.port), world.hostile, world.passwords[world.hostile], kind, str(count))
    flood = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", FLOOD, *arguments), stdout=asyncio.subprocess.PIPE
    )
    assert flood.stdout is not None
    try:
        async with asyncio.timeout(WAIT_S):
            assert await flood.stdout.readline() == b"began\n"
        began = asyncio.create_task(flood.stdout.readline())
        turns = 0
        while turns < 3 or (not began.done() and turns < 1000):
            async with asyncio.timeout(FLOOD_S_MAX):
                await _asked_until_answered(_submitted, api)
                attempt_id = await _asked_until_answered(_claimed, ours, world.victim)
                beat = Heartbeat(incarnation="i", attempts=(attempt_id,))
                reply = await _asked_until_answered(
                    rpc.ask, ours, world.victim, "heartbeat", beat, HeartbeatReply
                )
                assert attempt_id in reply.lease_until
                request = Complete(attempt_id=attempt_id, outcome=AttemptState.FAILED)
                await _asked_until_answered(
                    rpc.ask, ours, world.victim, "complete", request, Completed
                )
            turns += 1
        async with asyncio.timeout(WAIT_S):
            assert await began == b"sent\n"
    finally:
        flood.kill()
        await flood.wait()
        began.cancel()
    hostile = await world.pg.fetchval(
        "SELECT count(*) FROM sched.attempt WHERE runner_id = $1", world.hostile
    )
    assert hostile == 0
    for broker in (api, ours):
        await rpc.stop(broker)


async def _asked_until_answered(ask: Any, *arguments: Any) -> Any:
    """As every asker of ours does: a request whose answer did not come is asked again."""
    while True:
        with contextlib.suppress(RetryLater, Error):
            return await ask(*arguments)
        await asyncio.sleep(0.1)
