"""A slow subscriber with a backlog of a million: `python bench/slow_subscriber.py [--events N]`.

Real Postgres, NATS with a file store, and relay. Beside each other: one who reads at once; one that
takes 100 and rests, all the while; one that begins when everything is published; one that never
reads its connection. Last line: JSON. Missing and doubled positions have to be 0, and the one that
never reads has to be closed by the broker at its limit.
Units: events/s, seconds, milliseconds, MiB.
"""

import argparse
import asyncio
import contextlib
import json
import socket
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

import asyncpg
import psutil
from nats.aio.client import Client
from nats.js import JetStreamContext
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from relay import FILL, servers
from silent_subscriber import never_reads, until_closed
from wfhub_common import broker as rpc
from wfhub_common import db, streams, subjects
from wfhub_common.settings import BrokerSettings
from wfhub_scheduler import ledger
from wfhub_scheduler.core import Core
from wfhub_scheduler.relay import Relay
from wfhub_scheduler.timing import Timing

PAGE = 1000
SLOW_PAGE, SLOW_REST_S = 100, 0.05
CHUNK = 100_000  # rows that one statement makes
SAMPLE_S = 0.5


@dataclass
class Reader:
    """One durable consumer, and what it made of positions."""

    name: str
    last: int = 0
    missing: int = 0
    doubled: int = 0
    delays_ms: list[float] = field(default_factory=list)

    async def read(self, client: Client, until: int, page: int, rest_s: float = 0.0) -> None:
        pull = await client.jetstream().pull_subscribe_bind(self.name, subjects.EVENTS_STREAM)
        while self.last < until:
            try:
                messages = await pull.fetch(page, timeout=5)
            except TimeoutError:
                continue
            for message in messages:
                assert message.headers is not None
                position = int(message.headers["wfhub-pos"])
                self.missing += max(0, position - self.last - 1)
                self.doubled += position <= self.last
                self.last = max(self.last, position)
            published_at = messages[-1].metadata.timestamp.timestamp()
            self.delays_ms.append((time.time() - published_at) * 1000)
            await messages[-1].ack()  # and so all before it
            if rest_s:
                await asyncio.sleep(rest_s)


async def _readers(js: JetStreamContext, names: tuple[str, ...]) -> list[Reader]:
    for name in names:
        config = ConsumerConfig(
            durable_name=name, deliver_policy=DeliverPolicy.ALL, ack_policy=AckPolicy.ALL
        )
        await js.add_consumer(subjects.EVENTS_STREAM, config)
    return [Reader(name) for name in names]


async def _peaks(peaks: dict[str, float]) -> None:
    """Resident memory of the broker and of this process, which has relay and readers."""
    own = psutil.Process()
    brokers = [each for each in own.children() if each.name() == "nats-server"]
    while True:
        for name, processes in (("nats", brokers), ("relay_and_readers", [own])):
            mb = sum(each.memory_info().rss for each in processes) / 2**20
            peaks[name] = max(peaks.get(name, 0.0), round(mb, 1))
        await asyncio.sleep(SAMPLE_S)


async def _closed_by_broker(connection: socket.socket) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.to_thread(until_closed, connection, silence_s=30)
        return True
    return False


async def measure(database_url: str, nats_url: str, count: int) -> dict[str, object]:
    engine = db.make_engine(database_url, application="bench")
    broker = rpc.make_broker(BrokerSettings(nats_url=nats_url), name="bench")
    await broker.start()
    client = broker.connection
    js = client.jetstream()
    await streams.provision(js)
    prompt, slow, late = await _readers(js, ("prompt", "slow", "late"))
    silent = never_reads(nats_url)
    core = Core(engine, broker, Timing(30, 10, 1))
    pg = await asyncpg.connect(database_url)
    peaks: dict[str, float] = {}
    watching = asyncio.create_task(_peaks(peaks))
    relaying = asyncio.create_task(Relay(core).run())
    reading = asyncio.create_task(prompt.read(client, count, PAGE))
    resting = asyncio.create_task(slow.read(client, count, SLOW_PAGE, SLOW_REST_S))
    started = time.perf_counter()
    for n, rows in enumerate(_chunks(count)):
        await pg.execute(FILL, f"chunk{n}", rows)
        core.events.ring()
    await reading
    published_s = time.perf_counter() - started
    behind = count - slow.last
    closed = await _closed_by_broker(silent)
    resting.cancel()
    await asyncio.gather(resting, return_exceptions=True)
    started = time.perf_counter()
    await late.read(client, count, PAGE)
    late_s = time.perf_counter() - started
    watching.cancel()
    core.close()
    await relaying
    await pg.close()
    await rpc.stop(broker)
    await engine.dispose()
    delays = sorted(prompt.delays_ms)
    readers = (prompt, slow, late)
    return {
        "made_carried_and_read_per_s": round(count / published_s),
        "prompt_delay_p50_ms": round(delays[len(delays) // 2], 1),
        "prompt_delay_max_ms": round(delays[-1], 1),
        "slow_is_behind": behind,
        "late_reads_per_s": round(count / late_s),
        "missing": sum(each.missing for each in readers),
        "doubled": sum(each.doubled for each in readers),
        "never_reading_was_closed": closed,
        "memory_mb_max": peaks,
    }


def _chunks(count: int) -> list[int]:
    whole, rest = divmod(count, CHUNK)
    return [CHUNK] * whole + ([rest] if rest else [])


def run() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    count = 200_000 if options.quick else options.events
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder)) as (pg_url, nats_url):
        db.migrate(pg_url, schema="sched", migrations=Path(ledger.__file__).parent / "migrations")
        result = asyncio.run(measure(pg_url, nats_url, count))
    print(json.dumps({"events": count, **result}))


if __name__ == "__main__":
    run()
