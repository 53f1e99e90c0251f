"""Subscribers that read late, slowly or never: nobody waits for them, and they miss nothing.

`bench/slow_subscriber.py` does the same with a million events.
"""

import asyncio
import subprocess
import sysconfig
from collections.abc import AsyncIterator
from pathlib import Path

import own_ports
import pytest
import scheduler_hub
from nats.aio.client import Client
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from scheduler_hub import Hub, until
from silent_subscriber import never_reads, until_closed
from wfhub_admin import broker
from wfhub_common import subjects
from wfhub_common.messages import CloudEvent

BACKLOG = 20_000
PENDING_BYTES_MAX = 1024 * 1024  # a small cut of what the product's broker holds for a connection
FETCH = 1000
_FILL = """
WITH batch AS (
    INSERT INTO sched.event_batch (events) SELECT 20 FROM generate_series(1, $1::int / 20)
    RETURNING batch_id)
INSERT INTO sched.event (batch_id, n, event_id, project_id, task_id, kind, entity_id, type, data)
SELECT batch_id, n, 'evt_' || batch_id || '-' || n, 'prj_slow', 'tsk_' || batch_id, 'task',
       'tsk_' || batch_id, 'task.state_changed', '{"from": "ready", "to": "running"}'
  FROM batch, generate_series(1, 20) n
"""


@pytest.fixture
async def nats_url(tmp_path: Path) -> AsyncIterator[str]:
    """As the product's, without users, and with less for each connection."""
    port = own_ports.free_port()
    more = {"max_pending": PENDING_BYTES_MAX}
    config = tmp_path / "nats.conf"
    config.write_text(
        broker.configuration(
            listen=f"127.0.0.1:{port}", store=tmp_path / "jetstream", passwords={}, more=more
        )
    )
    binary = Path(sysconfig.get_path("scripts")) / "nats-server"
    server = subprocess.Popen(  # noqa: ASYNC220 - returns at once
        [binary, "-c", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )

    async def listens() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            return False
        writer.close()
        return True

    await until(listens)
    yield f"nats://127.0.0.1:{port}"
    server.terminate()
    server.wait(10)


async def _durable(hub: Hub, name: str) -> None:
    config = ConsumerConfig(
        durable_name=name, deliver_policy=DeliverPolicy.ALL, ack_policy=AckPolicy.EXPLICIT
    )
    js = hub.broker.connection.jetstream()
    await until(lambda: js.add_consumer(subjects.EVENTS_STREAM, config))


async def _read(client: Client, name: str, count: int) -> list[int]:
    """Positions in the order they came; each page is acknowledged."""
    js = client.jetstream()
    pull = await js.pull_subscribe_bind(name, subjects.EVENTS_STREAM)
    found: list[int] = []
    while len(found) < count:
        for message in await pull.fetch(min(FETCH, count - len(found)), timeout=20):
            found.append(CloudEvent.model_validate_json(message.data).wfhubpos)
            await message.ack()
    return found


async def test_whoever_reads_late_or_never_holds_up_nobody_and_misses_nothing(hub: Hub) -> None:
    await _durable(hub, "late")
    await _durable(hub, "prompt")
    silent = never_reads(hub.settings.nats_url)
    await hub.pg.execute(_FILL, BACKLOG)
    client = hub.broker.connection
    assert await _read(client, "prompt", BACKLOG) == list(range(1, BACKLOG + 1))

    # The one that never reads was cut off, at a limit, and nothing is held for it.
    await asyncio.to_thread(until_closed, silent, silence_s=scheduler_hub.WAIT_S)

    # Work goes on, and is heard of, while the other has all of its backlog before it.
    task_id = (await hub.submit()).task_id
    runner = await hub.runner()
    assert (await runner.claim_one()).task_id == task_id
    new = await _read(client, "prompt", 3)
    assert new == [BACKLOG + 1, BACKLOG + 2, BACKLOG + 3]
    waiting = await client.jetstream().consumer_info(subjects.EVENTS_STREAM, "late")
    assert waiting.num_pending == BACKLOG + 3
    assert await _read(client, "late", BACKLOG + 3) == list(range(1, BACKLOG + 4))
