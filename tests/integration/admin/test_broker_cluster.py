"""Three servers, configured as the chart configures its own, one service or runner at each."""

import asyncio
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import nats
import own_ports
import pytest
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error, NoRespondersError
from wfhub_admin import broker
from wfhub_admin.subscribers import Subscriber
from wfhub_common import identities, ids, streams, subjects
from wfhub_local import nats_server

SERVERS = 3
UP_S_MAX = 60.0
ANSWER_S_MAX = 20.0
SILENT_S_MAX = 45.0  # 15 to 20 as configured; 60 to 90 by the server's own defaults


@pytest.fixture
def servers() -> list[subprocess.Popen[bytes]]:
    """Those of `clients`, in the order of its users."""
    return []


@pytest.fixture
async def clients(
    tmp_path: Path, servers: list[subprocess.Popen[bytes]]
) -> AsyncIterator[dict[str, Client]]:
    """By user: the scheduler's, a runner's and a subscriber's, each at another server."""
    runner = str(ids.new_runner_id())
    passwords = {user: f"of-{user}" for user in (*identities.SERVICES, runner)}
    ports = [own_ports.free_port() for _ in range(SERVERS)]
    peers = [own_ports.free_port() for _ in range(SERVERS)]
    routes = [f"nats://127.0.0.1:{port}" for port in peers]
    async with AsyncExitStack() as stack:
        for number, (port, peer) in enumerate(zip(ports, peers, strict=True)):
            config = tmp_path / f"{number}.conf"
            cluster = {"name": "wfhub", "listen": f"127.0.0.1:{peer}", "routes": routes}
            config.write_text(
                broker.configuration(
                    listen=f"127.0.0.1:{port}",
                    store=tmp_path / str(number),
                    passwords=passwords,
                    subscribers={Subscriber("ci"): "of-ci"},
                    sync_always=True,
                    server_name=f"server-{number}",
                    more={"cluster": cluster},
                )
            )
            with (tmp_path / f"{number}.log").open("wb") as log:
                server = subprocess.Popen(  # noqa: ASYNC220 - returns at once
                    [nats_server.binary(), "-c", config], stderr=log
                )
            servers.append(server)
            stack.callback(server.wait, 10)
            stack.callback(server.kill)
        deadline = time.monotonic() + UP_S_MAX
        while not all(nats_server.is_up(port) for port in ports):
            assert time.monotonic() < deadline
        made = {}
        for user, port in zip((subjects.SCHEDULER, runner, "ci"), ports, strict=True):
            made[user] = await nats.connect(
                f"nats://127.0.0.1:{port}",
                user=user,
                password=f"of-{user}",
                inbox_prefix=f"_INBOX.{user}",
            )
            stack.push_async_callback(made[user].close)
        await _provisioned(made[subjects.SCHEDULER])
        yield made


async def _provisioned(scheduler: Client) -> None:
    async with asyncio.timeout(UP_S_MAX):
        while True:  # the servers choose a leader first
            try:
                await streams.provision(scheduler.jetstream(timeout=5), replicas=SERVERS)
                return
            except (TimeoutError, Error):
                await asyncio.sleep(0.1)


async def test_what_passes_between_accounts_passes_between_servers(
    clients: dict[str, Client],
) -> None:
    scheduler, subscriber = clients[subjects.SCHEDULER], clients["ci"]
    (runner_id,) = clients.keys() - {subjects.SCHEDULER, "ci"}
    runner = clients[runner_id]
    info = await scheduler.jetstream().stream_info(subjects.EVENTS_STREAM)
    assert info.config.num_replicas == SERVERS

    async def answer(message: Msg) -> None:
        await message.respond(b"yes")

    await scheduler.subscribe(subjects.rpc_filter("claim"), cb=answer)
    await runner.subscribe(subjects.steering(runner_id), cb=answer)
    woken = await runner.subscribe(subjects.WAKE)
    told = await subscriber.subscribe(subjects.EVENTS_FILTER)
    for client in clients.values():
        await client.flush()
    claim = subjects.rpc(runner_id, "claim")
    assert (await _answered(runner, claim)).data == b"yes"
    assert (await _answered(scheduler, subjects.steering(runner_id))).data == b"yes"
    at = subjects.AttemptSubject(runner_id, "p", "t", "a", "artifact")
    announced = await _answered(runner, subjects.ingest(at))
    assert subjects.INGEST_STREAM.encode() in announced.data
    with pytest.raises(NoRespondersError):
        await runner.request(subjects.rpc(runner_id, "heartbeat"), b"{}", timeout=ANSWER_S_MAX)
    event = subjects.event("prj_x", "task", "tsk_x", "state_changed")
    js = scheduler.jetstream(timeout=ANSWER_S_MAX)
    assert (await _heard(told, lambda: js.publish(event, b"{}"))).subject == event
    wake = await _heard(woken, lambda: scheduler.publish(subjects.WAKE, b""))
    assert wake.subject == subjects.WAKE


async def test_who_is_behind_a_silent_server_is_asked_nothing_any_more(
    clients: dict[str, Client], servers: list[subprocess.Popen[bytes]]
) -> None:
    scheduler = clients[subjects.SCHEDULER]
    (runner_id,) = clients.keys() - {subjects.SCHEDULER, "ci"}
    runner = clients[runner_id]

    async def answer(message: Msg) -> None:
        await message.respond(b"yes")

    await scheduler.subscribe(subjects.rpc_filter("claim"), cb=answer)
    claim = subjects.rpc(runner_id, "claim")
    assert (await _answered(runner, claim)).data == b"yes"
    servers[0].send_signal(signal.SIGSTOP)
    try:
        async with asyncio.timeout(SILENT_S_MAX):
            await _nobody_answers(runner, claim)
    finally:
        servers[0].send_signal(signal.SIGCONT)


async def _nobody_answers(client: Client, subject: str) -> None:
    while True:
        try:
            await client.request(subject, b"{}", timeout=1)
        except NoRespondersError:
            return
        except TimeoutError:
            continue


async def _heard(subscription: Subscription, say: Callable[[], Awaitable[object]]) -> Msg:
    """Said until it is heard: what is said before the servers know who listens is lost."""
    async with asyncio.timeout(ANSWER_S_MAX):
        while True:
            await say()
            with suppress(TimeoutError):
                return await subscription.next_msg(0.5)


async def _answered(client: Client, subject: str) -> Msg:
    """Once the servers have told each other who listens."""
    async with asyncio.timeout(ANSWER_S_MAX):
        while True:
            try:
                return await client.request(subject, b"{}", timeout=ANSWER_S_MAX)
            except NoRespondersError:
                await asyncio.sleep(0.05)
