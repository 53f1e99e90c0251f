"""A database that goes, or is still coming up, is a reason to ask again later, not an error."""

import asyncio

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError
from wfhub_common import db
from wfhub_common.errors import RetryLater


async def test_a_connection_ended_by_the_server_is_retry_later(database_url: str) -> None:
    engine = db.make_engine(database_url, application="victim")
    admin = await asyncpg.connect(database_url)

    async def interrupted() -> None:
        async with db.transaction(engine) as connection:
            pid = (await connection.execute(text("SELECT pg_backend_pid()"))).scalar_one()
            await admin.execute("SELECT pg_terminate_backend($1)", pid)
            await connection.execute(text("SELECT 1"))

    with pytest.raises(RetryLater):
        await interrupted()
    async with db.transaction(engine) as connection:
        assert (await connection.execute(text("SELECT 1"))).scalar_one() == 1
    with pytest.raises(ProgrammingError):
        async with db.transaction(engine) as connection:
            await connection.execute(text("SELECT * FROM nowhere"))
    await admin.close()
    await engine.dispose()


async def test_a_server_that_is_starting_up_is_retry_later() -> None:
    async def starting(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        ssl_request = (80877103).to_bytes(4, "big")
        while True:
            length = int.from_bytes(await reader.readexactly(4), "big")
            if await reader.readexactly(length - 4) != ssl_request:
                break
            writer.write(b"N")
        fields = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"
        writer.write(b"E" + (len(fields) + 4).to_bytes(4, "big") + fields)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(starting, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    engine = db.make_engine(f"postgresql://postgres@127.0.0.1:{port}/x", application="early")
    with pytest.raises(RetryLater, match="starting up"):
        async with db.transaction(engine):
            pass
    server.close()
    await engine.dispose()
