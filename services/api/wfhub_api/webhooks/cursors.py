"""Cursors: how far each webhook has come, and who works on it until when.

A lease is (random token, until); it is taken by `claim` alone, and every other write here is
WHERE lease = ours: who lost it changes nothing. A cursor moves behind an event when that was
answered with 2xx, or was not asked for. Times are the database's.
Units: seconds. Raises: LeaseLost; RetryLater.
"""

import secrets
from dataclasses import dataclass
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import db
from wfhub_common.errors import LeaseLost
from wfhub_common.sql import Connection, Row

from wfhub_api.positions import Position
from wfhub_api.webhooks import retries
from wfhub_api.webhooks.rows import stored_secrets

_FOR_S = "clock_timestamp() + make_interval(secs => CAST(:lease_s AS double precision))"
_CONFIGURED = """
    w.paused OR w.disabled IS NOT NULL AS shut, w.secret,
    CASE WHEN w.secret_before_until > clock_timestamp() THEN w.secret_before END AS secret_before
"""
_CLAIM = f"""
-- Those behind the end of the log that nobody works on, the longest due first.
WITH log AS (SELECT generation, up_to FROM sched.api_event
              ORDER BY generation DESC, up_to DESC LIMIT 1),
     due AS (SELECT c.webhook_id
               FROM log, api.webhook_cursor c JOIN api.webhook w USING (webhook_id)
              WHERE NOT w.paused AND w.disabled IS NULL AND c.next_try_at <= clock_timestamp()
                AND (c.lease_until IS NULL OR c.lease_until <= clock_timestamp())
                AND (c.generation, c.pos) < (log.generation, log.up_to)
              ORDER BY c.next_try_at LIMIT :limit FOR UPDATE OF c SKIP LOCKED)
UPDATE api.webhook_cursor c SET lease = :lease, lease_until = {_FOR_S}
  FROM due, api.webhook w
 WHERE c.webhook_id = due.webhook_id AND w.webhook_id = c.webhook_id
RETURNING c.webhook_id, c.generation, c.pos, c.failures, w.project_id, w.url, w.events,
          {_CONFIGURED}
"""  # noqa: S608 - constant parts
# The lease begins anew with each write of its holder.
_MOVE = f"""
UPDATE api.webhook_cursor c
   SET generation = :generation, pos = :pos, lease_until = {_FOR_S},
       note = coalesce(CAST(:note AS text), c.note),
       note_at = CASE WHEN CAST(:note AS text) IS NULL THEN c.note_at ELSE clock_timestamp() END
       {{delivered}}
  FROM api.webhook w
 WHERE c.webhook_id = :id AND c.lease = :lease AND w.webhook_id = c.webhook_id
RETURNING {_CONFIGURED}
"""  # noqa: S608 - constant parts
_PASSED = text(_MOVE.format(delivered=""))
_DELIVERED = text(
    _MOVE.format(
        delivered=""", failures = 0, failing_since = NULL, last_outcome = 'delivered',
            last_status = CAST(:status AS integer), last_at = clock_timestamp()"""
    )
)
_FAILED = text("""
UPDATE api.webhook_cursor
   SET failures = failures + 1, failing_since = coalesce(failing_since, clock_timestamp()),
       next_try_at = clock_timestamp() + make_interval(secs => CAST(:delay_s AS double precision)),
       last_outcome = :outcome, last_status = :status, last_at = clock_timestamp(),
       lease = NULL, lease_until = NULL
 WHERE webhook_id = :id AND lease = :lease
RETURNING extract(epoch FROM clock_timestamp() - failing_since) AS failing_s
""")
_DISABLE = text("""
UPDATE api.webhook SET disabled = :why, updated_at = clock_timestamp() WHERE webhook_id = :id
""")
_RELEASE = text("""
UPDATE api.webhook_cursor SET lease = NULL, lease_until = NULL
 WHERE webhook_id = :id AND lease = :lease
""")


@dataclass
class Claimed:
    """A webhook under our lease; what people may change is as of the last write."""

    webhook_id: str
    lease: str
    project_id: str | None
    url: str
    events: list[str]
    at: Position
    failures: int
    shut: bool
    stored_secrets: list[str]


async def any_at_work(engine: AsyncEngine) -> bool:
    sql = "SELECT EXISTS (SELECT FROM api.webhook WHERE NOT paused AND disabled IS NULL)"
    async with db.transaction(engine) as connection:
        return bool((await connection.execute(text(sql))).scalar())


async def claim(engine: AsyncEngine, *, limit: int, lease_s: float) -> list[Claimed]:
    lease = secrets.token_hex(16)
    async with db.transaction(engine) as connection:
        values = {"lease": lease, "lease_s": lease_s, "limit": limit}
        rows = (await connection.execute(text(_CLAIM), values)).all()
    return [_claimed(row, lease) for row in rows]


async def moved(
    engine: AsyncEngine,
    hook: Claimed,
    to: Position,
    *,
    lease_s: float,
    status: int | None = None,
    note: str | None = None,
) -> None:
    """`status`: of a delivery; None: what lies between was not asked for."""
    values: dict[str, Any] = {"id": hook.webhook_id, "lease": hook.lease, "lease_s": lease_s}
    values |= {"generation": to.generation, "pos": to.pos, "note": note}
    statement = _PASSED if status is None else _DELIVERED
    values |= {} if status is None else {"status": status}
    async with db.transaction(engine) as connection:
        row = (await connection.execute(statement, values)).first()
    if row is None:
        raise LeaseLost("lease-lost", f"somebody else works on {hook.webhook_id}, or it is gone")
    hook.at, hook.shut, hook.stored_secrets = to, row.shut, stored_secrets(row)
    hook.failures = 0 if status is not None else hook.failures


async def failed(
    engine: AsyncEngine, hook: Claimed, outcome: retries.Outcome, delay_s: float
) -> str | None:
    """Gives the lease back. Why it is disabled now, or None."""
    values = {"id": hook.webhook_id, "lease": hook.lease, "delay_s": delay_s}
    values |= {"outcome": outcome.outcome, "status": outcome.status}

    async def noted(connection: Connection) -> str | None:
        row = (await connection.execute(_FAILED, values)).first()
        if row is None:
            raise LeaseLost("lease-lost", f"somebody else works on {hook.webhook_id}")
        why = retries.disabling(outcome, failing_s=float(row.failing_s))
        if why is not None:
            await connection.execute(_DISABLE, {"id": hook.webhook_id, "why": why})
        return why

    return await db.retried(engine, noted)


async def release(engine: AsyncEngine, hook: Claimed) -> None:
    async with db.transaction(engine) as connection:
        await connection.execute(_RELEASE, {"id": hook.webhook_id, "lease": hook.lease})


def _claimed(row: Row, lease: str) -> Claimed:
    return Claimed(
        webhook_id=row.webhook_id,
        lease=lease,
        project_id=row.project_id,
        url=row.url,
        events=list(row.events),
        at=Position(row.generation, row.pos),
        failures=row.failures,
        shut=row.shut,
        stored_secrets=stored_secrets(row),
    )
