"""Migrations beside services that are at work: whose table it is, and who waits for whom."""

import asyncio
from pathlib import Path

import asyncpg
import pytest
from databases import template
from wfhub_common import db
from wfhub_common.errors import RetryLater

REVISION = '''
from alembic import op

revision = "{revision}"
down_revision = {down}
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("""{sql}""")
'''
FIRST = "CREATE TABLE shop.thing (name text)"


def folder(path: Path, *statements: str) -> Path:
    (path / "versions").mkdir(parents=True, exist_ok=True)
    for number, sql in enumerate(statements, 1):
        down = f'"{number - 1:04}"' if number > 1 else None
        text = REVISION.format(revision=f"{number:04}", down=down, sql=sql)
        (path / "versions" / f"{number:04}_some.py").write_text(text)
    return path


@pytest.fixture(scope="module")
def database_template(postgres_server: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    first = folder(tmp_path_factory.mktemp("first"), FIRST)
    return template(postgres_server, lambda url: db.migrate(url, schema="shop", migrations=first))


async def revision(pg: asyncpg.Connection) -> str:
    return str(await pg.fetchval("SELECT version_num FROM shop.migration"))


async def a_wait(pg: asyncpg.Connection) -> None:
    """Until a migration waits for a table."""
    async with asyncio.timeout(30):
        while not await pg.fetchval("SELECT 1 FROM pg_locks WHERE NOT granted"):  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_nobody_waits_for_long_behind_a_migration_that_waits(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "LOCK_WAIT_S", 1)
    monkeypatch.setattr(db, "LOCK_PAUSE_S", 0.2)
    to = folder(tmp_path, FIRST, "ALTER TABLE shop.thing ADD COLUMN size integer")
    reads_long, works = [await asyncpg.connect(database_url) for _ in range(2)]
    reading = reads_long.transaction()
    await reading.start()
    await reads_long.fetch("SELECT * FROM shop.thing")
    migration = asyncio.create_task(
        asyncio.to_thread(db.migrate, database_url, schema="shop", migrations=to)
    )
    for _ in range(3):
        await a_wait(works)
        # Behind the migration, which is behind the reader: it gives way.
        await works.execute("INSERT INTO shop.thing VALUES ('a')", timeout=20)
        assert await revision(works) == "0001"
    await reading.rollback()
    await migration
    assert await revision(works) == "0002"
    await reads_long.close()
    await works.close()


async def test_a_table_that_is_never_free_ends_it(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "LOCK_WAIT_S", 1)
    monkeypatch.setattr(db, "LOCKED_S_MAX", 0.0)
    to = folder(tmp_path, FIRST, "ALTER TABLE shop.thing ADD COLUMN size integer")
    pg = await asyncpg.connect(database_url)
    async with pg.transaction():
        await pg.fetch("SELECT * FROM shop.thing")
        with pytest.raises(RetryLater, match="shop is in use for too long"):
            await asyncio.to_thread(db.migrate, database_url, schema="shop", migrations=to)
    await pg.close()


async def test_what_one_revision_locked_is_free_before_the_next_begins(
    database_url: str, tmp_path: Path
) -> None:
    """And one that fails takes nothing back but itself."""
    to = folder(
        tmp_path,
        FIRST,
        "ALTER TABLE shop.thing ADD COLUMN size integer",
        "SELECT 1 FROM shop.no_such_table",
    )
    with pytest.raises(Exception, match="no_such_table"):
        await asyncio.to_thread(db.migrate, database_url, schema="shop", migrations=to)
    pg = await asyncpg.connect(database_url)
    assert await revision(pg) == "0002"
    await pg.close()


async def test_several_at_once_are_one(database_url: str, tmp_path: Path) -> None:
    to = folder(tmp_path, FIRST, "CREATE TABLE shop.a ()", "CREATE TABLE shop.b ()")
    await asyncio.gather(
        *(
            asyncio.to_thread(db.migrate, database_url, schema="shop", migrations=to)
            for _ in range(3)
        )
    )
    pg = await asyncpg.connect(database_url)
    assert await revision(pg) == "0003"
    await pg.close()
