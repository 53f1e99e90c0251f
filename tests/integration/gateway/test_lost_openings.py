"""Openings that Postgres had not written yet when it crashed: a real one, stopped as in a crash."""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import asyncpg
import psutil
import pytest
from ledger_lab import opening
from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import db, ids
from wfhub_common.errors import Rejected
from wfhub_common.messages import SpendingLimit
from wfhub_llm_gateway import main
from wfhub_llm_gateway.ledger import Entry, Ledger
from wfhub_llm_gateway.settlements import Settlement
from wfhub_local import postgres

UP_S_MAX = 60.0
# What nobody waits for reaches the disk by its WAL writer, which stands still here: ten seconds are
# the longest that it can be told to wait, and could end in the middle of a test.
LAZY = ["-c", "bgwriter_lru_maxpages=0", "-c", "autovacuum=off"]
SETTLEMENT = Settlement(200, "", "p", "m", "", 0, 3, 2, 0, 5, 7, 1, 1, "")


class Crashing:
    """A server of this test alone. Raises: RuntimeError when it does not come up."""

    def __init__(self, root: Path, port: int) -> None:
        self.root, self.port, self.user = root, port, _user(root)
        binary = postgres.binaries() / "initdb"
        argv = [binary, "-D", root / "data", "-U", "postgres", "-A", "trust", "--no-sync"]
        subprocess.run(argv, check=True, stdout=subprocess.DEVNULL, cwd="/", **self.user)
        self.start()

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        argv = [*postgres.argv(self.root, self.port), *LAZY]
        with (self.root / "log").open("ab") as log:
            self.server = subprocess.Popen(argv, stderr=log, cwd="/", **self.user)
        deadline = time.monotonic() + UP_S_MAX
        while not postgres.is_up(self.root):
            self._wait(deadline)
        while not (found := self._wal_writers()):
            self._wait(deadline)
        (self.wal_writer,) = found
        self.wal_writer.suspend()

    def _wait(self, deadline: float) -> None:
        if time.monotonic() > deadline or self.server.poll() is not None:
            raise RuntimeError((self.root / "log").read_text())
        time.sleep(0.05)

    def _wal_writers(self) -> list[psutil.Process]:
        found = []
        for process in psutil.Process(self.server.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if "walwriter" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def end(self) -> None:
        self.server.send_signal(signal.SIGQUIT)  # at once: nothing is written any more
        self.wal_writer.kill()  # who stands still does not hear it
        self.server.wait(UP_S_MAX)

    def crash(self) -> None:
        self.end()
        postgres.clear_old(self.root)


def _user(root: Path) -> dict[str, Any]:
    """Postgres refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    os.chown(root, 65534, 65534)
    return {"user": 65534, "group": 65534, "extra_groups": []}


@pytest.fixture
async def server(free_port: Callable[[], int]) -> AsyncIterator[Crashing]:
    root = Path(tempfile.mkdtemp(prefix="wfhub-test-pg-"))
    running = await asyncio.to_thread(Crashing, root, free_port())
    await asyncio.to_thread(db.migrate, running.url, schema=main.SCHEMA, migrations=main.MIGRATIONS)
    yield running
    running.end()
    shutil.rmtree(root)


@pytest.fixture
async def engine(server: Crashing) -> AsyncIterator[AsyncEngine]:
    engine = db.make_engine(server.url, application="test", settings=db.ONE_PLAN)
    yield engine
    await engine.dispose()


@pytest.fixture
def ledger(engine: AsyncEngine) -> Ledger:
    return Ledger(engine, "gwi_test")


async def lost(
    server: Crashing, engine: AsyncEngine, ledger: Ledger, *limits: SpendingLimit
) -> Entry:
    """An exchange that is open, and of which Postgres knows nothing any more."""
    attempt_id = ids.new_attempt_id()
    before = await ledger.open(
        opening(*limits, attempt_id=attempt_id)
    )  # makes the accounts, with care
    await ledger.settle(before, SETTLEMENT)
    entry = await ledger.open(opening(*limits, attempt_id=attempt_id))
    server.crash()
    await asyncio.to_thread(server.start)
    rows = await asked(server, "SELECT seq FROM gateway.exchange WHERE seq = $1", entry.seq)
    assert rows == [], "Postgres wrote what nobody waited for: this test shows nothing"
    await engine.dispose()  # connections to the server that crashed
    return entry


async def asked(server: Crashing, query: str, *values: object) -> list[tuple[Any, ...]]:
    connection = await asyncpg.connect(server.url)
    rows = await connection.fetch(query, *values)
    await connection.close()
    return [tuple(row) for row in rows]


ACCOUNTS = """
SELECT scope, used_tokens, used_nusd, used_requests, reserved_tokens FROM gateway.account
 ORDER BY scope
"""


@pytest.mark.parametrize("scopes", [(), ("task", "attempt")])
async def test_it_is_charged_once_all_the_same_and_another_that_has_its_number_is_not_touched(
    server, engine, ledger, scopes
):
    limits = [SpendingLimit(scope=scope, tokens=1000) for scope in scopes]
    entry = await lost(server, engine, ledger, *limits)
    other = await ledger.open(opening(*limits, attempt_id=entry.attempt_id))
    assert other.seq == entry.seq
    remade = [await ledger.settle(entry, SETTLEMENT) for _ in range(3)]
    assert remade[0] is not None
    assert json.loads(remade[0])["seq"] == 3
    assert remade[1:] == [None, None]
    rows = await asked(
        server, "SELECT seq, state, charged_tokens FROM gateway.exchange ORDER BY seq"
    )
    assert rows == [(1, "settled", 5), (2, "open", 0), (3, "settled", 5)]
    assert await asked(server, "SELECT chain_count FROM gateway.attempt") == [(2,)]
    expected = [(scope, 10, 14, 3, 30) for scope in sorted(scopes)]
    assert await asked(server, ACCOUNTS) == expected


async def test_its_stream_gets_nothing_more(server, engine, ledger):
    entry = await lost(server, engine, ledger, SpendingLimit(scope="attempt", tokens=1000))
    other = await ledger.open(opening(*entry.opening.limits, attempt_id=entry.attempt_id))
    with pytest.raises(Rejected) as caught:
        await ledger.extend(entry, tokens=100)
    assert caught.value.code == "gateway-lost"
    assert await asked(server, ACCOUNTS) == [("attempt", 5, 7, 2, 30)]
    assert other.seq == entry.seq


async def test_what_is_waited_for_takes_it_to_the_disk(server, ledger):
    attempt_id = ids.new_attempt_id()
    limit = SpendingLimit(scope="attempt", tokens=1000)
    entries = [await ledger.open(opening(limit, attempt_id=attempt_id)) for _ in range(3)]
    await ledger.settle(entries[0], SETTLEMENT)
    server.crash()
    await asyncio.to_thread(server.start)
    rows = await asked(server, "SELECT seq, state FROM gateway.exchange ORDER BY seq")
    assert rows == [(1, "settled"), (2, "open"), (3, "open")]
