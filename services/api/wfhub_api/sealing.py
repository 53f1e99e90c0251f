"""Sealing: how secrets of webhooks stand in the database, and how that is changed (ADR 0053).

Each is `whsec_…` in clear, or sealed under one of SEALING_KEYS and bound to its webhook; both are
read, always. Which is written is in `api.sealing`: a writer holds that row shared until it commits,
who changes it holds it alone, so that afterwards none is left that was written the other way.
Raises: Rejected; Unopened.
"""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import db, standard_webhooks
from wfhub_common.errors import Rejected
from wfhub_common.sealed import Keys, Unopened
from wfhub_common.sql import Connection, Row

_NUMBER = "SELECT key_number FROM api.sealing"
_ALL = "SELECT webhook_id, secret, secret_before FROM api.webhook ORDER BY webhook_id"
_WRITE = text("""
UPDATE api.webhook SET secret = :now, secret_before = :before WHERE webhook_id = :id
""")


def bound_to(webhook_id: str) -> str:
    return f"api.webhook/{webhook_id}"


def opened(keys: Keys, webhook_id: str, stored: str) -> str:
    return keys.opened(stored, of=bound_to(webhook_id))


async def to_store(connection: Connection, keys: Keys, webhook_id: str, secret: str) -> str:
    """As it is to be written in this transaction."""
    number = (await connection.execute(text(f"{_NUMBER} FOR SHARE"))).scalar()
    return _written(keys, number, webhook_id, secret)


def _written(keys: Keys, number: int | None, webhook_id: str, secret: str) -> str:
    if number is None:
        return secret
    if number not in keys.by_number:
        raise Rejected(
            "no-sealing-key",
            f"there is no key {number} here to seal a webhook's secret with: give the API the"
            " SEALING_KEYS_FILE that `wfhub-admin secrets` writes, and start it again",
            status=409,
        )
    return keys.seal(secret, number, of=bound_to(webhook_id))


async def is_on(engine: AsyncEngine) -> bool:
    async with db.transaction(engine) as connection:
        return (await connection.execute(text(_NUMBER))).scalar() is not None


async def change(engine: AsyncEngine, keys: Keys, *, to: int | None) -> int:
    """From now on secrets are written under this key, or in clear (for the version before); so are
    those that are there. How many webhooks that are. Raises: Unopened, and nothing is changed."""

    async def changed(connection: Connection) -> int:
        await connection.execute(text("UPDATE api.sealing SET key_number = :to"), {"to": to})
        rows = (await connection.execute(text(f"{_ALL} FOR UPDATE"))).all()
        for row in rows:
            now, before = _opened(keys, row)
            await _write(connection, keys, to, row.webhook_id, now, before)
        return len(rows)

    return await db.retried(engine, changed)


async def lost(engine: AsyncEngine, keys: Keys) -> dict[str, str]:
    """Webhooks whose secret no key here opens, and why."""
    async with db.transaction(engine) as connection:
        return _lost(keys, (await connection.execute(text(_ALL))).all())


async def renew_lost(engine: AsyncEngine, keys: Keys) -> list[str]:
    """Each of those gets a secret that nobody knows yet: `wfhub webhook rotate` tells the next."""

    async def renewed(connection: Connection) -> list[str]:
        number = (await connection.execute(text(f"{_NUMBER} FOR SHARE"))).scalar()
        found = _lost(keys, (await connection.execute(text(f"{_ALL} FOR UPDATE"))).all())
        for webhook_id in found:
            new = standard_webhooks.new_secret()
            await _write(connection, keys, number, webhook_id, new, None)
        return [*found]

    return await db.retried(engine, renewed)


def _lost(keys: Keys, rows: list[Row]) -> dict[str, str]:
    found = {}
    for row in rows:
        try:
            _opened(keys, row)
        except Unopened as e:
            found[str(row.webhook_id)] = str(e)
    return found


def _opened(keys: Keys, row: Row) -> tuple[str, str | None]:
    before = row.secret_before and opened(keys, row.webhook_id, row.secret_before)
    return opened(keys, row.webhook_id, row.secret), before


async def _write(
    connection: Connection,
    keys: Keys,
    number: int | None,
    webhook_id: str,
    now: str,
    before: str | None,
) -> None:
    values = {
        "id": webhook_id,
        "now": _written(keys, number, webhook_id, now),
        "before": before and _written(keys, number, webhook_id, before),
    }
    await connection.execute(_WRITE, values)
