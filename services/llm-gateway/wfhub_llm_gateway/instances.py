"""Gateways that hold reservations: a lease each, and what becomes of a dead one's exchanges.

Each process has an id and renews its lease; an open exchange names its process. When a lease is
over, any other gateway settles what that process left open, at what it had reserved: the worst that
it may have cost. So a killed gateway costs each of its open requests one reservation at most, and
holds it no longer than LEASE_S and one turn of this. All by the database's clock.
Raises: nothing; a database that is down is tried again.
"""

import asyncio
import secrets
from collections.abc import Awaitable, Callable

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import db
from wfhub_common.errors import RetryLater
from wfhub_common.log import get_logger
from wfhub_common.sql import Connection

from wfhub_llm_gateway.budgets import accounts
from wfhub_llm_gateway.ledger import GATEWAY_LOST, NOT_SETTLED
from wfhub_llm_gateway.settlements import OpenRow, Settlement, record_of, settle_in

LEASE_S = 30.0
TURNS_PER_LEASE = 6  # it is renewed so often, and others' are looked at
LOST_AT_ONCE_MAX = 100

log = get_logger(__name__)

_RENEW = text("""
INSERT INTO gateway.instance (instance_id, lease_until)
VALUES (:instance_id, now() + make_interval(secs => :lease_s))
    ON CONFLICT (instance_id) DO UPDATE SET lease_until = excluded.lease_until
""")
_END = text("DELETE FROM gateway.instance WHERE instance_id = :instance_id")
# An instance without open exchanges is forgotten; one that comes back makes its row anew.
_FORGET = text("""
DELETE FROM gateway.instance i WHERE lease_until < now() - make_interval(secs => :lease_s)
   AND NOT EXISTS (SELECT FROM gateway.exchange e
                    WHERE e.instance_id = i.instance_id AND e.state = 'open')
""")
_LOST = text("""
SELECT e.attempt_id, e.seq, e.replayed, e.request_digest, e.started_at, e.provider, e.model,
       e.reserved_tokens, e.reserved_nusd, e.reserved_wall_ms
  FROM gateway.exchange e LEFT JOIN gateway.instance i USING (instance_id)
 WHERE e.state = 'open' AND (i.lease_until IS NULL OR i.lease_until < now())
 ORDER BY e.attempt_id, e.seq LIMIT :count FOR UPDATE OF e SKIP LOCKED
""")


class Instances:
    def __init__(
        self,
        engine: AsyncEngine,
        keep: Callable[[bytes], Awaitable[object]],
        *,
        lease_s: float = LEASE_S,
    ) -> None:
        """`keep` stores the record of an exchange."""
        self.instance_id = "gwi_" + secrets.token_hex(12)
        self._engine, self._keep, self._lease_s = engine, keep, lease_s
        self._known = False  # to the others: there is a row

    async def renew(self) -> None:
        async with db.transaction(self._engine) as connection:
            values = {"instance_id": self.instance_id, "lease_s": self._lease_s}
            await connection.execute(_RENEW, values)
        self._known = True

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            try:
                await self.renew()
                more = True
                while more:
                    records = await db.retried(self._engine, self._settle_lost)
                    for record in records:
                        await self._keep(record)
                    more = len(records) == LOST_AT_ONCE_MAX
            except RetryLater as e:
                log.warning("lease not renewed", why=str(e))
            await asyncio.sleep(self._lease_s / TURNS_PER_LEASE)

    async def _settle_lost(self, connection: Connection) -> list[bytes]:
        records = []
        rows = (await connection.execute(_LOST, {"count": LOST_AT_ONCE_MAX})).all()
        for row in rows:
            settlement = Settlement(
                status=0,
                code=GATEWAY_LOST,
                provider=row.provider,
                model=row.model,
                response_digest="",
                response_bytes=0,
                prompt_tokens=None,
                completion_tokens=None,
                cached_tokens=0,
                charged_tokens=row.reserved_tokens,
                charged_nusd=row.reserved_nusd,
                first_byte_ms=None,
                duration_ms=row.reserved_wall_ms,
                note=NOT_SETTLED,
            )
            opened = OpenRow(
                row.seq, row.attempt_id, row.replayed, row.request_digest, row.started_at
            )
            await settle_in(connection, opened, settlement)
            records.append(record_of(opened, settlement))
            log.warning("exchange of a lost gateway settled", attempt_id=row.attempt_id)
        await accounts.forget_minutes(connection)
        await connection.execute(_FORGET, {"lease_s": self._lease_s})
        return records

    async def end(self) -> None:
        """All is settled: what is not is anybody's."""
        if not self._known:
            return
        try:
            async with db.transaction(self._engine) as connection:
                await connection.execute(_END, {"instance_id": self.instance_id})
        except RetryLater as e:
            log.warning("lease not ended", why=str(e))
