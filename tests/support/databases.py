"""Test support: a database that is migrated once and copied for each test."""

import asyncio
import secrets
from collections.abc import Callable

import asyncpg


def template(postgres_server: str, *migrations: Callable[[str], None]) -> str:
    """The name of a new database after `migrations`, each called with its URL. Blocking."""
    name = "template_" + secrets.token_hex(6)
    asyncio.run(_create(postgres_server, name))
    for migrate in migrations:
        migrate(f"{postgres_server}/{name}")
    return name


async def _create(postgres_server: str, name: str) -> None:
    admin = await asyncpg.connect(postgres_server + "/postgres")
    await admin.execute(f"CREATE DATABASE {name}")
    await admin.close()
