"""The ledger: the outbox's rows as a log with positions (sched.event, sched.relay).

Only the relay writes positions, on the connection that holds its lock. A row keeps its position
for good, but for rows not known to be published when a new generation begins.
Rows are kept as long as the stream keeps its messages.
"""

from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from wfhub_common import streams, subjects
from wfhub_common.messages import CloudEvent

from wfhub_scheduler.batches import BATCH_MESSAGES_MAX, Entry
from wfhub_scheduler.positions import Position

PLACE_ROWS_MAX = 2000
KEPT = timedelta(seconds=streams.EVENTS_AGE_S)
FORGET_ROWS_MAX = 10_000

_LOCK = text("SELECT generation, last_pos FROM sched.relay FOR UPDATE")
_PLACE = text("""
-- Dense, in the order of the ids among the rows committed by now.
WITH fresh AS (SELECT id, row_number() OVER (ORDER BY id) AS n
                 FROM (SELECT id FROM sched.event WHERE pos IS NULL ORDER BY id LIMIT :count) f)
UPDATE sched.event e SET generation = :generation, pos = :last_pos + fresh.n
  FROM fresh WHERE e.id = fresh.id
""")
_ADVANCE = text("UPDATE sched.relay SET last_pos = last_pos + :count")
_NOTE = text("""
UPDATE sched.relay SET published_pos = greatest(published_pos, :pos)
 WHERE generation = :generation
""")
_EVENT_AT = text("""
SELECT event_id FROM sched.event WHERE generation = :generation AND pos = :pos
""")
_ENTRIES = text("""
SELECT event_id, generation, pos, project_id, kind, entity_id, type, time, data
  FROM sched.event
 WHERE (generation, pos) > (:generation, :pos) AND time > now() - CAST(:kept AS interval)
 ORDER BY generation, pos LIMIT :count
""")
_UNPLACE = text("""
-- Placed by a history that the stream does not share, and not known to be in it.
UPDATE sched.event SET generation = NULL, pos = NULL
 WHERE generation = (SELECT generation FROM sched.relay)
   AND pos > (SELECT published_pos FROM sched.relay)
""")
_BEGIN = text("UPDATE sched.relay SET generation = :generation, last_pos = 0, published_pos = 0")
_FORGET = text("""
DELETE FROM sched.event WHERE id IN (
    SELECT id FROM sched.event
     WHERE pos IS NOT NULL AND time < now() - CAST(:kept AS interval) - interval '1 hour'
     ORDER BY time LIMIT :count)
""")


async def place(connection: AsyncConnection) -> bool:
    """Give positions to rows that have none, in a committed transaction; True: there are more."""
    async with connection.begin():
        relay = (await connection.execute(_LOCK)).one()
        rows = await connection.execute(
            _PLACE,
            {
                "generation": relay.generation,
                "last_pos": relay.last_pos,
                "count": PLACE_ROWS_MAX,
            },
        )
        if rows.rowcount:
            await connection.execute(_ADVANCE, {"count": rows.rowcount})
        return rows.rowcount == PLACE_ROWS_MAX


async def placed(connection: AsyncConnection) -> Position:
    """The last position that was given."""
    async with connection.begin():
        relay = (await connection.execute(_LOCK)).one()
        return Position(relay.generation, relay.last_pos)


async def event_at(connection: AsyncConnection, at: Position) -> str | None:
    async with connection.begin():
        wanted = {"generation": at.generation, "pos": at.pos}
        found: str | None = (await connection.execute(_EVENT_AT, wanted)).scalar_one_or_none()
        return found


async def entries(connection: AsyncConnection, after: Position) -> list[Entry]:
    """The next batch behind `after`, as it is published."""
    async with connection.begin():
        rows = await connection.execute(
            _ENTRIES,
            {
                "generation": after.generation,
                "pos": after.pos,
                "kept": KEPT,
                "count": BATCH_MESSAGES_MAX,
            },
        )
        return [
            Entry(
                subjects.event(
                    row.project_id, row.kind, row.entity_id, row.type.removeprefix(f"{row.kind}.")
                ),
                CloudEvent.model_validate(
                    {
                        "id": row.event_id,
                        "type": row.type,
                        "subject": row.entity_id,
                        "time": row.time,
                        "data": row.data,
                        "wfhubproject": row.project_id,
                        "wfhubpos": row.pos,
                        "wfhubgeneration": row.generation,
                    }
                ),
            )
            for row in rows
        ]


async def note_published(connection: AsyncConnection, at: Position) -> None:
    async with connection.begin():
        await connection.execute(_NOTE, {"generation": at.generation, "pos": at.pos})


async def begin_generation(connection: AsyncConnection, generation: int) -> None:
    async with connection.begin():
        await connection.execute(_LOCK)
        await connection.execute(_UNPLACE)
        await connection.execute(_BEGIN, {"generation": generation})


async def forget_old(connection: AsyncConnection) -> int:
    """Drop rows that the stream no longer keeps either."""
    forgotten = await connection.execute(_FORGET, {"kept": KEPT, "count": FORGET_ROWS_MAX})
    return forgotten.rowcount
