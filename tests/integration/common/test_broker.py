"""Asking over a broker that goes away."""

import asyncio
import time
from contextlib import suppress
from pathlib import Path

import pytest
from nats.aio.msg import Msg
from nats_server import NatsServer
from wfhub_common import broker as rpc
from wfhub_common import ids, messages, subjects
from wfhub_common.errors import RetryLater
from wfhub_common.settings import BrokerSettings

LONG_POLL_S = 25.0
START_S_MAX = 10.0


async def test_a_long_poll_ends_with_its_connection(tmp_path: Path) -> None:
    """Its reply would never come; the next question must not wait for the time to run out."""
    server = NatsServer(tmp_path)
    server.start()
    broker = rpc.make_broker(BrokerSettings(nats_url=server.url), name="rnr_x")
    async with asyncio.timeout(START_S_MAX):
        while True:
            with suppress(OSError):
                await broker.start()
                break
    asked = asyncio.Event()

    async def silent(_: Msg) -> None:
        asked.set()

    await broker.connection.subscribe(subjects.rpc("rnr_x", "claim"), cb=silent)
    claim = messages.Claim(
        claim_id=ids.new_claim_id(), incarnation="i" * 16, slots=1, wait_s=LONG_POLL_S
    )
    asking = asyncio.create_task(
        rpc.ask(broker, "rnr_x", "claim", claim, messages.Claimed, timeout_s=LONG_POLL_S)
    )
    await asked.wait()
    began = time.monotonic()
    server.kill()
    with pytest.raises(RetryLater) as e:
        await asking
    assert e.value.code == "broker-down"
    assert time.monotonic() - began < LONG_POLL_S / 2
    await rpc.stop(broker)
