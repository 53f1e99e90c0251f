"""How a runner registers and claims beside schedulers of other versions, over a real broker."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from faststream.nats import NatsBroker
from nats.aio.msg import Msg
from nats_server import NatsServer
from wfhub_agent_runner import registration
from wfhub_agent_runner.claims import Claims
from wfhub_agent_runner.leases import Leases
from wfhub_agent_runner.settings import RunnerSettings
from wfhub_common import broker as rpc
from wfhub_common import ids, messages, subjects
from wfhub_common.errors import Rejected, to_wire
from wfhub_common.service import Stop
from wfhub_common.settings import BrokerSettings

WAIT_S_MAX = 20.0
RUNNER_ID = ids.new_runner_id()
Answer = Callable[[dict[str, Any]], dict[str, Any]]


def assignment(**spec: Any) -> dict[str, Any]:
    made = messages.Assignment(
        attempt_id=ids.new_attempt_id(),
        task_id=ids.new_task_id(),
        project_id=ids.new_project_id(),
        project="app",
        kind=messages.UnitKind.AGENT,
        number=1,
        spec=messages.TaskSpec(prompt="x", repo="file:///srv/app"),
        lease_until=datetime.now(UTC),
    ).model_dump(mode="json")
    return {**made, "spec": {**made["spec"], **spec}}


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[NatsBroker]:
    server = NatsServer(tmp_path)
    server.start()
    broker = rpc.make_broker(BrokerSettings(nats_url=server.url), name=RUNNER_ID)
    async with asyncio.timeout(WAIT_S_MAX):
        while not broker.running:
            with contextlib.suppress(OSError):
                await broker.start()
    yield broker
    await rpc.stop(broker)
    server.kill()


@pytest.fixture
def claimed(broker: NatsBroker) -> Callable[[Answer, bool], Awaitable[list[messages.Assignment]]]:
    """Runs a loop against what answers as a scheduler, until one assignment was started."""

    async def run(answer: Answer, takes_keys: bool) -> list[messages.Assignment]:
        started: list[messages.Assignment] = []
        some, over = asyncio.Event(), asyncio.Event()

        async def reply(message: Msg) -> None:
            await message.respond(json.dumps(answer(json.loads(message.data))).encode())

        async def work(assignment: messages.Assignment) -> None:
            started.append(assignment)
            some.set()
            await over.wait()

        await broker.connection.subscribe(subjects.rpc(RUNNER_ID, "claim"), cb=reply)
        leases = Leases(broker=broker, runner_id=RUNNER_ID, incarnation="i" * 16)
        leases.takes_token_keys = takes_keys
        claims = Claims(
            broker=broker,
            leases=leases,
            runner_id=RUNNER_ID,
            incarnation="i" * 16,
            slots=1,
            pool="default",
            run=work,
        )
        loop = asyncio.create_task(claims.loop())
        waiting = asyncio.create_task(some.wait())
        try:
            async with asyncio.timeout(WAIT_S_MAX):
                await asyncio.wait({loop, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            loop.cancel()
            await asyncio.wait({loop})
            over.set()
            await claims.drain()
        return started

    return run


async def test_a_scheduler_of_the_version_before_registers_a_runner_with_a_pool(
    broker: NatsBroker, tmp_path: Path
) -> None:
    asked: list[dict[str, Any]] = []

    async def old(message: Msg) -> None:
        asked.append(json.loads(message.data))
        answer: dict[str, Any] = {"ok": {"heartbeat_s": 10, "lease_ttl_s": 30}}
        if "pool" in asked[-1]:
            answer = {"error": to_wire(Rejected("request-malformed", "Register.pool: Extra"))}
        await message.respond(json.dumps(answer).encode())

    await broker.connection.subscribe(subjects.rpc(RUNNER_ID, "register"), cb=old)
    settings = RunnerSettings.from_env(
        {
            "NATS_URL": "nats://unused",
            "RUNNER_ID": RUNNER_ID,
            "RUNNER_HOME": str(tmp_path),
            "RUNNER_POOL": "big",
            "PROOFS_URL": "http://unused",
            "GATEWAY_URL": "http://unused",
        }
    )
    async with asyncio.timeout(WAIT_S_MAX):
        registered = await registration.register(settings, broker, "i" * 16, Stop())
    assert registered is not None
    assert registered.lease_ttl_s == 30
    assert [each.get("pool") for each in asked] == ["big", None]
    assert "pool" not in asked[-1]


@pytest.mark.parametrize("takes_keys", [False, True])
async def test_a_scheduler_of_the_version_before_is_asked_as_it_knows_it(
    claimed: Callable[[Answer, bool], Awaitable[list[messages.Assignment]]], takes_keys: bool
) -> None:
    """Which of several answers is not ours to choose: the one we registered with was newer."""
    asked: list[dict[str, Any]] = []

    def old(claim: dict[str, Any]) -> dict[str, Any]:
        asked.append(claim)
        if "token_key" in claim:
            return {"error": to_wire(Rejected("request-malformed", "Claim.token_key: Extra"))}
        return {"ok": {"assignments": [assignment()]}}

    (started,) = await claimed(old, takes_keys)
    assert started.spec.prompt == "x"
    assert ["token_key" in claim for claim in asked] == [*[True] * takes_keys, False]
    assert len({claim["claim_id"] for claim in asked}) == 1


async def test_a_task_that_this_version_cannot_read_stops_no_other(
    claimed: Callable[[Answer, bool], Awaitable[list[messages.Assignment]]],
) -> None:
    def newer(_: dict[str, Any]) -> dict[str, Any]:
        return {"ok": {"assignments": [assignment(of_tomorrow=1), assignment()]}}

    (started,) = await claimed(newer, False)
    assert started.spec.prompt == "x"
