"""The ledger's statements against each other."""

import asyncio

import asyncpg
import pytest
from ledger_lab import opening
from wfhub_common import digests
from wfhub_common.db import make_engine
from wfhub_common.errors import Rejected
from wfhub_common.messages import SpendingLimit
from wfhub_common.statements import Statements
from wfhub_llm_gateway.ledger import Ledger, record
from wfhub_llm_gateway.settlements import Settlement

SETTLEMENT = Settlement(
    status=200,
    code="",
    provider="p",
    model="m",
    response_digest="",
    response_bytes=0,
    prompt_tokens=3,
    completion_tokens=2,
    cached_tokens=0,
    charged_tokens=5,
    charged_nusd=0,
    first_byte_ms=1,
    duration_ms=1,
    note="",
)


@pytest.fixture
async def ledger(gateway_database):
    engine = make_engine(gateway_database, application="test")
    statements = Statements(gateway_database, application="test")
    yield Ledger(engine, statements, "gwi_test")
    await statements.close()
    await engine.dispose()


async def test_an_account_that_is_made_while_a_settlement_waits_gets_its_reservation_back(
    ledger, gateway_database, standing, wait_until
):
    entry = await ledger.open(opening())
    connection = await asyncpg.connect(gateway_database)
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO gateway.account (scope, subject, reserved_tokens, reserved_wall_ms)"
            " VALUES ('project', 'prj_x', 30, 10000)"
        )
        await connection.execute("UPDATE gateway.exchange SET accounts = '{project prj_x}'")
        settling = asyncio.create_task(ledger.settle(entry, SETTLEMENT))

        async def waits() -> bool:
            other = await asyncpg.connect(gateway_database)
            count = await other.fetchval(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            await other.close()
            return bool(count)

        await wait_until(waits)
    await settling
    await connection.close()
    row = await standing("prj_x", "project")
    assert (row["used_tokens"], row["reserved_tokens"]) == (5, 0)


async def test_settling_twice_charges_and_links_once(ledger, gateway_database, standing):
    limit = SpendingLimit(scope="project", tokens=100)
    entry = await ledger.open(opening(limit))
    assert [await ledger.settle(entry, SETTLEMENT) for _ in range(2)] == [None, None]
    row = await standing("prj_x", "project")
    assert (row["used_tokens"], row["reserved_tokens"], row["used_requests"]) == (5, 0, 1)
    connection = await asyncpg.connect(gateway_database)
    assert await connection.fetchval("SELECT chain_count FROM gateway.attempt") == 1
    kept = await connection.fetchval("SELECT record_digest FROM gateway.exchange")
    assert kept == digests.of_bytes(record(entry, SETTLEMENT))
    await connection.close()


async def test_many_at_once_never_hold_more_than_the_limit(ledger, standing):
    limits = (SpendingLimit(scope="project", tokens=100), SpendingLimit(scope="task", tokens=1000))

    async def turn() -> int:
        try:
            entry = await ledger.open(opening(*limits))
        except Rejected:
            return 0
        row = await standing("prj_x", "project")
        assert row["used_tokens"] + row["reserved_tokens"] <= 100
        await ledger.settle(entry, SETTLEMENT)
        return 1

    settled = sum(await asyncio.gather(*(turn() for _ in range(40))))
    row = await standing("prj_x", "project")
    assert (row["used_tokens"], row["reserved_tokens"]) == (5 * settled, 0)
    assert row["used_requests"] == settled
    assert 1 <= settled <= 20
