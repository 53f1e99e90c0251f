"""The scheduler as a process: its settings, its start, its stop."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from scheduler_hub import Hub, answering, until
from wfhub_scheduler.settings import SchedulerSettings

COMMAND = [sys.executable, "-m", "wfhub_scheduler.main"]


def environment(settings: SchedulerSettings, **more: str) -> dict[str, str]:
    values = {name.upper(): str(value) for name, value in settings.model_dump().items() if value}
    return {"PATH": os.environ["PATH"], **values, **more}


@contextlib.contextmanager
def started(env: dict[str, str], log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with log.open("wb") as errors:
        process = subprocess.Popen(COMMAND, env=env, stderr=errors)
    try:
        yield process
    finally:
        process.kill()
        process.wait(10)


async def test_it_serves_and_stops_in_order_when_asked_to(idle_hub: Hub, tmp_path: Path) -> None:
    with started(environment(idle_hub.settings), tmp_path / "log") as process:
        runner = await (await answering(idle_hub)).runner()
        waiting = asyncio.create_task(runner.claim(wait_s=20))
        await idle_hub.submit(pool="other")
        process.send_signal(signal.SIGTERM)
        assert await waiting == ()  # answered, not left to time out
        assert await asyncio.to_thread(process.wait, 15) == 0
    assert b"Traceback" not in (tmp_path / "log").read_bytes()


async def test_it_waits_for_a_database_that_is_not_migrated_yet(
    database_url: str, nats_url: str, tmp_path: Path
) -> None:
    pg = await asyncpg.connect(database_url)
    await pg.execute("DROP SCHEMA sched CASCADE")
    env = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": database_url,
        "NATS_URL": nats_url,
        "PROOF_PUBLIC_KEY_FILE": str(tmp_path / "later.pub"),
    }
    log = tmp_path / "log"

    async def says(what: bytes) -> bool:
        return what in log.read_bytes()

    with started(env, log) as process:
        await until(lambda: says(b"waiting for the database"), "it says what it waits for")
        for _ in range(2):  # again changes nothing
            migrated = await asyncio.to_thread(
                subprocess.run, [*COMMAND, "migrate"], env=env, check=False
            )
            assert migrated.returncode == 0
        await until(lambda: says(b"scheduler ready"), "it goes on")
        process.terminate()
        assert await asyncio.to_thread(process.wait, 15) == 0
    assert await pg.fetchval("SELECT count(*) FROM sched.project WHERE name = 'default'") == 1
    await pg.close()


@pytest.mark.parametrize(
    ("variable", "value"), [("DATABASE_URL", ""), ("LEASE_TTL_S", "-1"), ("LEASE_TTL_S", "soon")]
)
def test_a_bad_setting_ends_it_with_one_line_that_names_it(variable: str, value: str) -> None:
    env = {
        "PATH": os.environ["PATH"],
        "DATABASE_URL": "postgresql://localhost/x",
        "PROOF_PUBLIC_KEY_FILE": "key.pub",
        variable: value,
    }
    ended = subprocess.run(COMMAND, env=env, capture_output=True, text=True, timeout=30)
    assert ended.returncode != 0
    assert variable in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
