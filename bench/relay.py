"""How fast the relay carries events, end to end: `python bench/relay.py [--events N]`.

Real Postgres (fsync, synchronous_commit) and NATS with a file store, ours alone. The rows are
there, unplaced; measured is from the relay's start until every one has a position and stands in
the stream (place + publish), then reads with the whole table behind them. Last line: JSON.
Units: events/s, seconds, milliseconds.
"""

import argparse
import asyncio
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
from wfhub_common import broker as rpc
from wfhub_common import db, streams, subjects
from wfhub_common.settings import BrokerSettings
from wfhub_local import nats_server, ports, postgres
from wfhub_scheduler import ledger
from wfhub_scheduler.core import Core
from wfhub_scheduler.floors import Floor
from wfhub_scheduler.positions import Position
from wfhub_scheduler.relay import Relay
from wfhub_scheduler.timing import Timing

NOBODY = 65534
FILL = """
WITH batch AS (
    INSERT INTO sched.event_batch (events) SELECT 20 FROM generate_series(1, $2::int / 20)
    RETURNING batch_id)
INSERT INTO sched.event (batch_id, n, event_id, project_id, task_id, kind, entity_id, type, data)
SELECT batch_id, n, 'evt_' || md5($1 || batch_id || '-' || n), 'prj_bench',
       'tsk_' || batch_id % 10000, 'task', 'tsk_' || batch_id % 10000, 'task.state_changed',
       '{"from": "ready", "to": "running", "reason": "", "message": "a sentence about it"}'
  FROM batch, generate_series(1, 20) n
"""


@contextmanager
def servers(folder: Path) -> Iterator[tuple[str, str]]:
    """URLs of a Postgres and a NATS of our own."""
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    data, port, nats_port = folder / "pg", ports.free_port(), ports.free_port()
    data.mkdir()
    if user:
        os.chown(data, NOBODY, NOBODY)
        folder.chmod(0o755)
    initdb = [postgres.binaries() / "initdb", "-D", data / "d", "-U", "postgres", "-A", "trust"]
    subprocess.run(initdb, check=True, capture_output=True, cwd="/", **user)  # type: ignore[call-overload]
    options = ["-p", str(port), "-k", "", "-h", "127.0.0.1", "-c", "jit=off"]
    options += ["-c", "max_wal_size=512MB", "-c", "shared_buffers=64MB", "-c", "io_method=sync"]
    pg = subprocess.Popen(
        [postgres.binaries() / "postgres", "-D", data / "d", *options],
        stdout=subprocess.DEVNULL,
        stderr=(folder / "pg.log").open("wb"),
        cwd="/",
        **user,  # type: ignore[call-overload]
    )
    store = ["-js", "-sd", folder / "js", "-a", "127.0.0.1", "-p", str(nats_port)]
    nats = subprocess.Popen([nats_server.binary(), *store], stderr=subprocess.DEVNULL)
    try:
        while not (postgres_is_up(port) and nats_server.is_up(nats_port)):
            time.sleep(0.05)
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres", f"nats://127.0.0.1:{nats_port}"
    finally:
        for process in (nats, pg):
            process.terminate()
            process.wait(20)


def postgres_is_up(port: int) -> bool:
    async def look() -> bool:
        try:
            url = f"postgresql://postgres@127.0.0.1:{port}/postgres"
            await (await asyncpg.connect(url)).close()
        except (OSError, asyncpg.PostgresError):
            return False
        return True

    return asyncio.run(look())


async def measure(database_url: str, nats_url: str, count: int) -> dict[str, float]:
    engine = db.make_engine(database_url, application="bench")
    broker = rpc.make_broker(BrokerSettings(nats_url=nats_url), name="bench")
    await broker.start()
    js = broker.connection.jetstream()
    await streams.provision(js)
    core = Core(engine, broker, Timing(30, 10, 1))
    pg = await asyncpg.connect(database_url)
    result: dict[str, float] = {}
    relaying = None
    reader = await asyncpg.connect(database_url)  # a backup: what it may still see stays on disk
    for turn in ("first", "second", "beside_a_backup"):
        if turn == "beside_a_backup":
            await reader.execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        await pg.execute(FILL, turn, count)
        wanted = await pg.fetchval("SELECT count(*) FROM sched.event")
        started = time.perf_counter()
        if relaying is None:
            relaying = asyncio.create_task(Relay(core).run())
        else:
            core.events.ring()
        while (await js.stream_info(subjects.EVENTS_STREAM)).state.messages < wanted:  # noqa: ASYNC110 - a server's state, no event
            await asyncio.sleep(0.02)
        result[f"{turn}_events_per_s"] = round(count / (time.perf_counter() - started))
    core.close()
    await relaying
    async with engine.connect() as connection:
        for name, pos in (("start", 0), ("middle", count), ("end", 3 * count - 10)):
            started = time.perf_counter()
            for _ in range(20):
                await ledger.entries(connection, Position(1, pos))
            result[f"read_ms_{name}"] = round((time.perf_counter() - started) / 20 * 1000, 2)
        started = time.perf_counter()
        floor = Floor()
        for _ in range(50):
            await ledger.place(connection, floor)
        result["idle_place_ms"] = round((time.perf_counter() - started) / 50 * 1000, 2)
    await reader.close()
    await pg.close()
    await rpc.stop(broker)
    await engine.dispose()
    return result


def run() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=100_000)
    count = parser.parse_args().events
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder)) as (pg_url, nats_url):
        db.migrate(pg_url, schema="sched", migrations=Path(ledger.__file__).parent / "migrations")
        result = asyncio.run(measure(pg_url, nats_url, count))
    print(json.dumps({"events": count, **result}))


if __name__ == "__main__":
    run()
