"""Statements past SQLAlchemy's cursors: values and rows, transactions, and what errors leave."""

import asyncio
from collections.abc import AsyncIterator

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError, NoResultFound
from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import db, sql


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    made = db.make_engine(database_url, application="sql")
    async with db.transaction(made) as connection:
        await connection.command("CREATE TABLE thing (id integer PRIMARY KEY, said jsonb)")
    yield made
    await made.dispose()


_ADD = text("INSERT INTO thing (id, said) VALUES (:id, CAST(:said AS jsonb))")
_ALL = text("SELECT id, said FROM thing ORDER BY id")


async def ids(engine: AsyncEngine) -> list[int]:
    async with db.transaction(engine) as connection:
        return list((await connection.execute(_ALL)).scalars())


async def test_rows_have_names_and_numbers(engine: AsyncEngine) -> None:
    async with db.transaction(engine) as connection:
        for n in (1, 2):
            added = await connection.execute(
                _ADD, {"said": '{"a": [1]}', "id": n, "more": "unused"}
            )
            assert added.rowcount == 1
        found = await connection.execute(_ALL)
        assert [(row.id, row[0], row.said) for row in found] == [(n, n, {"a": [1]}) for n in (1, 2)]
        assert dict(found.all()[0]) == {"id": 1, "said": {"a": [1]}}
        with pytest.raises(AttributeError):
            _ = found.all()[0].nothing
        (other,) = await connection.execute(text("SELECT 1 AS nothing"))
        assert other.nothing == 1
        with pytest.raises(LookupError):  # a column, but of others
            _ = found.all()[0].nothing
        same = text("SELECT CAST(:n AS integer) + CAST(:n AS integer), 'a:b', '\\:n'")
        assert tuple((await connection.execute(same, {"n": 2})).one()) == (4, "a:b", ":n")
        with pytest.raises(NoResultFound):
            (await connection.execute(text("SELECT 1 WHERE false"))).one()


async def test_an_error_undoes_all_of_it(engine: AsyncEngine) -> None:
    async def twice() -> None:
        async with db.transaction(engine) as connection:
            await connection.execute(_ADD, {"id": 1, "said": "1"})
            await connection.execute(_ADD, {"id": 1, "said": "1"})

    with pytest.raises(IntegrityError) as caught:
        await twice()
    assert db.sqlstate(caught.value) == "23505"
    assert await ids(engine) == []


async def test_a_part_is_undone_alone(engine: AsyncEngine) -> None:
    async def two_and_one(connection: sql.Connection) -> None:
        async with connection.begin_nested():
            await connection.execute(_ADD, {"id": 2, "said": "1"})
            await connection.execute(_ADD, {"id": 1, "said": "1"})

    async with db.transaction(engine) as connection:
        await connection.execute(_ADD, {"id": 1, "said": "1"})
        with pytest.raises(IntegrityError):
            await two_and_one(connection)
        async with connection.begin_nested():
            await connection.execute(_ADD, {"id": 3, "said": "1"})
    assert await ids(engine) == [1, 3]


async def test_a_failed_statement_that_nobody_minded_is_no_commit(engine: AsyncEngine) -> None:
    async def careless() -> None:
        async with db.transaction(engine) as connection:
            await connection.execute(_ADD, {"id": 1, "said": "1"})
            with pytest.raises(DBAPIError):
                await connection.execute(_ADD, {"id": 1, "said": "1"})

    with pytest.raises(RuntimeError, match="ROLLBACK"):
        await careless()
    assert await ids(engine) == []


async def test_whoever_is_cancelled_holds_no_lock(engine: AsyncEngine) -> None:
    lock, sleep = text("SELECT pg_advisory_xact_lock(1)"), text("SELECT pg_sleep(60)")
    locked = asyncio.Event()

    async def slow() -> None:
        async with db.transaction(engine) as connection:
            await connection.execute(lock)
            locked.set()
            await connection.execute(sleep)

    task = asyncio.create_task(slow())
    await locked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(10), db.transaction(engine) as connection:
        await connection.execute(lock)


async def test_a_lost_session_is_not_given_out_again(engine: AsyncEngine) -> None:
    async with sql.connected(engine) as connection:
        pid = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
        admin = await asyncpg.connect(
            str(engine.url.render_as_string(False)).replace("+asyncpg", "")
        )
        await admin.execute("SELECT pg_terminate_backend($1)", pid)
        with pytest.raises(DBAPIError) as caught:
            await connection.execute(_ALL)
        assert caught.value.connection_invalidated
        await admin.close()
    assert await ids(engine) == []


async def test_a_migration_between_two_uses_of_a_statement(engine: AsyncEngine) -> None:
    async def look(connection: sql.Connection) -> list[sql.Row]:
        return (await connection.execute(text("SELECT * FROM thing"))).all()

    async with sql.connected(engine) as one, sql.connected(engine) as other:
        await one.execute(_ADD, {"id": 1, "said": "1"})
        assert len(await look(one)) == len(await look(other)) == 1
        await one.command("ALTER TABLE thing ADD COLUMN more text DEFAULT 'm'")
    for _ in range(3):
        (row,) = await db.retried(engine, look)
        assert row.more == "m"


async def test_values_that_are_none_of_their_type_harm_nobody(engine: AsyncEngine) -> None:
    async with sql.connected(engine) as connection:
        with pytest.raises(DBAPIError):
            await connection.execute(_ADD, {"id": "one", "said": "1"})
        with pytest.raises(KeyError):
            await connection.execute(_ADD, {"id": 1})
        assert (await connection.execute(_ALL)).all() == []


async def test_what_is_counted_behind_a_lock_is_read_anew_whatever_the_databases_default(
    engine: AsyncEngine,
) -> None:
    async with db.transaction(engine) as connection:
        name = (await connection.execute(text("SELECT current_database()"))).scalar_one()
        await connection.command(
            f"ALTER DATABASE {name} SET default_transaction_isolation = 'repeatable read'"
        )
    await engine.dispose()  # sessions of before
    async with db.transaction(engine) as connection:
        assert len((await connection.execute(_ALL)).all()) == 0
        async with db.transaction(engine) as other:
            await other.execute(_ADD, {"id": 1, "said": "1"})
        assert len((await connection.execute(_ALL)).all()) == 1
