"""Webhooks of two API processes: one dies or stands still, the other goes on, none is missing."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import own_ports
import psutil
import pytest
import receiver as receivers
from receiver import Receiver
from webhook_lab import KEYS
from wfhub_common import ids
from wfhub_common.httpauth import token_sha256

# Processes are started, beside other tests.
pytestmark = pytest.mark.timeout(300)

TOKEN = "wht_replicas"
PATH = "/in"
EVENTS = 60
START_S_MAX = 120
HELD_AT = 20
SETTINGS = {
    "WEBHOOK_PRIVATE_HOSTS": "127.0.0.1",
    "WEBHOOK_HTTP_HOSTS": "127.0.0.1",
    "WEBHOOK_RETRY_BASE_S": "0.01",
    "WEBHOOK_TIMEOUT_S": "60",  # longer than a test holds a request
    "WEBHOOK_LEASE_S": "200",
    "ADMIN_TOKEN_SHA256": token_sha256(TOKEN),
    "SEALING_KEYS": KEYS.to_json(),
}


class Replica:
    def __init__(self, process: asyncio.subprocess.Process, http: httpx.AsyncClient) -> None:
        self.process, self.http = process, http

    async def ready(self) -> None:
        async with asyncio.timeout(START_S_MAX):
            while True:
                with suppress(httpx.TransportError):
                    if (await self.http.get("/readyz")).status_code == 200:
                        return
                await asyncio.sleep(0.02)

    async def made(self, url: str) -> str:
        answer = await self.http.post("/v1/webhooks", json={"url": url, "after": "0-0"})
        assert answer.status_code == 201, answer.text
        return str(answer.json()["webhook_id"])

    async def until(self, webhook_id: str, position: str) -> None:
        async with asyncio.timeout(receivers.WAIT_S):
            while True:
                answer = await self.http.get(f"/v1/webhooks/{webhook_id}")
                if answer.json()["position"] == position:
                    return
                await asyncio.sleep(0.02)


@asynccontextmanager
async def replica(database_url: str, nats_url: str, log: Path) -> AsyncIterator[Replica]:
    address = f"127.0.0.1:{own_ports.free_port()}"
    env = {"PATH": os.environ["PATH"], "DATABASE_URL": database_url, "NATS_URL": nats_url}
    with log.open("ab") as err:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "wfhub_api.main"),
            env={**env, **SETTINGS, "HTTP_LISTEN": address},
            stderr=err,
        )
    headers = {"Authorization": f"Bearer {TOKEN}"}
    try:
        async with httpx.AsyncClient(
            base_url=f"http://{address}", headers=headers, trust_env=False, timeout=20
        ) as http:
            yield Replica(process, http)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def lease_over(scheduler: Any) -> None:
    """As if its time had passed: tests do not wait for that."""
    await scheduler.pool.execute("UPDATE api.webhook_cursor SET lease_until = clock_timestamp()")


async def test_a_replica_that_is_killed_loses_nothing_and_repeats_one(
    scheduler: Any, database_url: str, nats_url: str, tmp_path: Path, receiver: Receiver
) -> None:
    for _ in range(EVENTS):
        await scheduler.event(ids.new_task_id(), "task.submitted", wake=False)
    receiver.answers[PATH].extend([200] * (HELD_AT - 1) + [receivers.hang])
    log = tmp_path / "log"
    async with (
        replica(database_url, nats_url, log) as first,
        replica(database_url, nats_url, log) as second,
    ):
        await asyncio.gather(first.ready(), second.ready())
        hook = await first.made(receiver.url + PATH)
        await receiver.got(PATH, HELD_AT)
        busy = _holder(receiver, (first, second))
        busy.process.send_signal(signal.SIGKILL)
        await busy.process.wait()
        await lease_over(scheduler)
        await (second if busy is first else first).until(hook, f"1-{EVENTS}")
    expected = [*range(1, HELD_AT + 1), *range(HELD_AT, EVENTS + 1)]
    assert receiver.positions(PATH) == expected
    assert "Traceback" not in log.read_text()
    assert "whsec_" not in log.read_text()


async def test_a_replica_that_stood_still_moves_nothing_and_sends_nothing_more(
    scheduler: Any, database_url: str, nats_url: str, tmp_path: Path, receiver: Receiver
) -> None:
    for _ in range(EVENTS):
        await scheduler.event(ids.new_task_id(), "task.submitted", wake=False)
    free = asyncio.Event()
    receiver.answers[PATH].extend([200] * (HELD_AT - 1) + [receivers.held(free)])
    log = tmp_path / "log"
    async with (
        replica(database_url, nats_url, log) as first,
        replica(database_url, nats_url, tmp_path / "log2") as second,
    ):
        await asyncio.gather(first.ready(), second.ready())
        hook = await first.made(receiver.url + PATH)
        await receiver.got(PATH, HELD_AT)
        busy = _holder(receiver, (first, second))
        other = second if busy is first else first
        busy.process.send_signal(signal.SIGSTOP)
        await lease_over(scheduler)
        await other.until(hook, f"1-{EVENTS}")
        free.set()  # its request is answered, with 2xx: the stale cursor must not go back
        busy.process.send_signal(signal.SIGCONT)
        await _told(log if busy is first else tmp_path / "log2", "another's by now")
        for _ in range(3):
            await scheduler.event(ids.new_task_id(), "task.submitted")
        await other.until(hook, f"1-{EVENTS + 3}")
    expected = [*range(1, HELD_AT + 1), *range(HELD_AT, EVENTS + 4)]
    assert receiver.positions(PATH) == expected


async def test_a_stop_gives_webhooks_back_at_once(
    scheduler: Any, database_url: str, nats_url: str, tmp_path: Path, receiver: Receiver
) -> None:
    await scheduler.event(ids.new_task_id(), "task.submitted", wake=False)
    free = asyncio.Event()
    receiver.answers[PATH].append(receivers.held(free))
    async with replica(database_url, nats_url, tmp_path / "log") as only:
        await only.ready()
        await only.made(receiver.url + PATH)
        await receiver.got(PATH, 1)
        only.process.send_signal(signal.SIGTERM)
        free.set()
        assert await only.process.wait() == 0
    row = await scheduler.pool.fetchrow("SELECT pos, lease FROM api.webhook_cursor")
    assert tuple(row) == (1, None)
    assert "Traceback" not in (tmp_path / "log").read_text()


def _holder(receiver: Receiver, replicas: tuple[Replica, ...]) -> Replica:
    """Who has a connection to the receiver."""
    port = int(receiver.url.rpartition(":")[2])
    for one in replicas:
        connections = psutil.Process(one.process.pid).net_connections("tcp")
        if any(each.raddr and each.raddr.port == port for each in connections):
            return one
    raise AssertionError("no replica is connected to the receiver")


async def _told(log: Path, words: str) -> None:
    async with asyncio.timeout(receivers.WAIT_S):
        while words not in log.read_text():  # noqa: ASYNC110, ASYNC240 - of another process
            await asyncio.sleep(0.02)
