"""A runner that lost contact, with the real runner's lease code: it works on, for its grace, and
finishes only what is still its own."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest
from scheduler_hub import Hub, Runner, until
from wfhub_agent_runner.leases import Leases
from wfhub_agent_runner.scheduler_link import SchedulerLink
from wfhub_common import broker as rpc
from wfhub_common.errors import LeaseLost
from wfhub_common.messages import TaskState
from wfhub_common.settings import BrokerSettings

BEAT_S = 0.1


@dataclass
class Wire:
    """A TCP way to the broker that can be cut: bytes wait until it is whole again."""

    whole: asyncio.Event = field(default_factory=asyncio.Event)

    async def carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while chunk := await reader.read(65_536):
                await self.whole.wait()
                writer.write(chunk)
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def wire_to(nats_url: str) -> AsyncIterator[tuple[Wire, str]]:
    wire, at = Wire(), urlsplit(nats_url)
    wire.whole.set()

    async def link(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        up_reader, up_writer = await asyncio.open_connection(at.hostname, at.port)
        await asyncio.gather(wire.carry(reader, up_writer), wire.carry(up_reader, writer))

    server = await asyncio.start_server(link, "127.0.0.1", 0)
    try:
        yield wire, f"nats://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        wire.whole.set()
        server.close()


@dataclass
class Afar:
    """The runner behind the wire, with the code that real runners hold leases with."""

    wire: Wire
    runner: Runner
    leases: Leases
    link: SchedulerLink


@contextlib.asynccontextmanager
async def afar(hub: Hub, *, grace_s: float) -> AsyncIterator[Afar]:
    async with wire_to(hub.settings.nats_url) as (wire, url):
        runner = await hub.runner()
        broker = rpc.make_broker(BrokerSettings(nats_url=url), name="afar")
        await broker.start()
        leases = Leases(
            broker=broker,
            runner_id=runner.runner_id,
            incarnation=runner.incarnation,
            grace_s=grace_s,
        )
        beating = asyncio.create_task(leases.keep(every_s=BEAT_S))
        try:
            yield Afar(wire, runner, leases, SchedulerLink(broker, runner.runner_id))
        finally:
            beating.cancel()
            wire.whole.set()
            await rpc.stop(broker)


TTL_S = 5.0  # of which the cut takes a tenth: a busy machine has the rest
pytestmark = pytest.mark.parametrize("settings", [{"lease_ttl_s": TTL_S}], indirect=True)


async def test_contact_lost_for_less_than_a_lease_costs_nothing(hub: Hub) -> None:
    async with afar(hub, grace_s=60) as far:
        await hub.submit()
        held = far.leases.hold(await far.runner.claim_one())
        first = held.lease_until
        far.wire.whole.clear()
        await asyncio.sleep(TTL_S / 10)  # the cut's length, not a wait for something
        far.wire.whole.set()

        async def renewed() -> bool:
            return held.lease_until > first

        await until(renewed)
        assert not held.cancel.is_set()
        done = await far.link.complete(held, far.runner.won(held.attempt_id))
        assert done.task_state is TaskState.SEALING


async def test_what_was_given_to_another_meanwhile_is_dropped_and_cannot_be_finished(
    hub: Hub,
) -> None:
    async with afar(hub, grace_s=60) as far:
        submitted = await hub.submit()
        held = far.leases.hold(await far.runner.claim_one())
        far.wire.whole.clear()
        current = await (await hub.runner()).claim_one()
        assert (current.task_id, current.number) == (submitted.task_id, 2)
        assert not held.lost  # it knows of nothing, and works on
        far.wire.whole.set()
        with pytest.raises(LeaseLost):
            await far.link.complete(held, far.runner.won(held.attempt_id))

        async def dropped() -> bool:
            return held.lost and held.cancel.is_set()

        await until(dropped)
        assert (await hub.task(submitted.task_id))["current_attempt"] == current.attempt_id


async def test_after_its_grace_without_contact_the_work_is_dropped(hub: Hub) -> None:
    async with afar(hub, grace_s=1.0) as far:
        await hub.submit()
        held = far.leases.hold(await far.runner.claim_one())
        far.wire.whole.clear()

        async def dropped() -> bool:
            return held.lost and held.cancel.is_set()

        await until(dropped)
