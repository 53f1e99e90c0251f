"""The process: how it starts, refuses to start, and stops."""

import asyncio
import signal
import sys
from pathlib import Path

import httpx
import pytest
from wfhub_common import db
from wfhub_proof_store.main import MIGRATIONS, SCHEMA

from .conftest import WAIT_S, Attempt, Hub, NatsProcess, eventually, spawn


async def test_a_restart_keeps_the_key_and_the_log(running: Hub) -> None:
    first, second = Attempt(), Attempt()
    given = await running.received(first, result_bundle=b"bundle")
    sealed = await running.seal(first.asked(given))
    assert await running.store.end() == 0
    await running.store.start()
    assert await running.seal(first.asked(given)) == sealed
    later = await running.received(second, result_bundle=b"bundle")
    assert (await running.seal(second.asked(later))).leaf_index == 1


async def test_migrating_again_changes_nothing(running: Hub) -> None:
    await asyncio.to_thread(db.migrate, running.database_url, schema=SCHEMA, migrations=MIGRATIONS)
    await running.received(Attempt(), result_bundle=b"bundle")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("DATABASE_URL", ""),
        ("DATABASE_URL", "mysql://x"),
        ("SERVICE_TOKENS_FILE", "/nowhere/tokens.json"),
        ("SIGNING_KEY_FILE", "/proc/nowhere/key.pem"),
        ("PROOFS_ROOT", "/proc/nowhere"),
        ("BLOB_BYTES_MAX", "many"),
    ],
)
async def test_bad_settings_are_one_clear_line(tmp_path: Path, variable: str, value: str) -> None:
    env = {
        "DATABASE_URL": "postgresql://127.0.0.1:1/x",
        "PROOFS_ROOT": str(tmp_path / "proofs"),
        "SIGNING_KEY_FILE": str(tmp_path / "key.pem"),
        "SERVICE_TOKENS_FILE": str(tmp_path / "tokens.json"),
    }
    (tmp_path / "tokens.json").write_text("{}")
    command = [sys.executable, "-m", "wfhub_proof_store.main"]
    process = spawn(command, tmp_path / "log", {**env, variable: value})
    assert await asyncio.to_thread(process.wait, 20) != 0
    (line,) = (tmp_path / "log").read_text().splitlines()
    assert line.startswith(f"bad settings: {variable}")


async def test_it_waits_for_a_database_that_is_not_there_and_still_stops(hub: Hub) -> None:
    hub.store.env["DATABASE_URL"] = "postgresql://postgres@127.0.0.1:1/none"
    await hub.store.start(ready=False)

    async def waiting() -> bool:
        return "waiting for the database" in hub.store.log()

    await eventually(waiting)
    assert await hub.store.end(signal.SIGTERM) == 0


async def test_it_waits_for_a_broker_that_is_not_there_and_still_stops(hub: Hub) -> None:
    hub.store.env["NATS_URL"] = "nats://127.0.0.1:1"
    await hub.store.start(ready=False)

    async def serves() -> bool:
        async with hub.http() as client:
            try:
                return (await client.get("/readyz")).status_code == 503
            except httpx.TransportError:
                return False

    await eventually(serves)
    assert await hub.store.end(signal.SIGTERM) == 0


async def test_after_a_restart_of_the_broker_the_same_process_goes_on(
    running: Hub, nats_server: NatsProcess
) -> None:
    process = running.store.process
    nats_server.stop()
    await nats_server.start()

    brokers = (running.scheduler, running.gateway, *running.runners.values())
    clients = (*running.clients.values(), *(broker.connection for broker in brokers))

    async def back() -> bool:  # each comes when it comes, and who answers has to be there
        return all(client.is_connected for client in clients) and await running.store.ready()

    await eventually(back)
    for client in clients:
        await client.flush(WAIT_S)
    attempt = Attempt()
    given = await running.received(attempt, result_bundle=b"bundle")
    assert (await running.seal(attempt.asked(given))).leaf_index == 0
    assert running.store.process is process
