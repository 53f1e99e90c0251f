"""The ledger: the outbox's rows as a log with positions (sched.event, sched.relay).

Only the relay writes positions, on the connection that holds its lock. A row keeps its position
for good, but for rows not known to be published when a new generation begins.
Rows are kept as long as the stream keeps its messages.
"""

import time
from datetime import timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from wfhub_common import streams

from wfhub_scheduler import cloud_events
from wfhub_scheduler.batches import BATCH_MESSAGES_MAX, Entry, first_batch
from wfhub_scheduler.floors import Floor, Look
from wfhub_scheduler.positions import Position

PLACE_ROWS_MAX = BATCH_MESSAGES_MAX
KEPT = timedelta(seconds=streams.EVENTS_AGE_S)
FORGET_ROWS_MAX = 10_000

_LOCK = text("SELECT generation, last_pos FROM sched.relay FOR UPDATE")
_LOOK = text("""
SELECT r.generation, r.last_pos, (SELECT CASE WHEN is_called THEN last_value ELSE 0 END
                                            FROM sched.event_id_seq) AS last_id,
       CAST(CAST(pg_snapshot_xmin(now.snapshot) AS text) AS bigint) AS xmin,
       CAST(CAST(pg_snapshot_xmax(now.snapshot) AS text) AS bigint) AS xmax
  FROM sched.relay r, (SELECT pg_current_snapshot() AS snapshot) now
   FOR UPDATE OF r
""")
_PLACE = text("""
-- Dense, in the order of the ids among the rows committed by now. Rows of one task are in the
-- order of their commits, since each writer holds the task's lock before it draws an id.
WITH fresh AS (SELECT id, row_number() OVER (ORDER BY id) AS n
                 FROM (SELECT id FROM sched.event WHERE pos IS NULL AND id > :above
                        ORDER BY id LIMIT :count) f),
     done AS (UPDATE sched.event e SET generation = :generation, pos = :last_pos + fresh.n
                FROM fresh WHERE e.id = fresh.id RETURNING e.id)
SELECT count(*) AS rows, max(id) AS up_to FROM done
""")
_ADVANCE = text("UPDATE sched.relay SET last_pos = last_pos + :count")
_HINT = text("SET LOCAL synchronous_commit = off")
_NOTE = text("""
UPDATE sched.relay SET published_pos = greatest(published_pos, :pos)
 WHERE generation = :generation
""")
_EVENT_AT = text("""
SELECT event_id FROM sched.event WHERE generation = :generation AND pos = :pos
""")
_ENTRIES = text("""
SELECT event_id, generation, pos, project_id, kind, entity_id, type, time,
       CAST(data AS text) AS data
  FROM sched.event
 WHERE pos IS NOT NULL AND (generation, pos) > (:generation, :pos)
   AND time > now() - CAST(:kept AS interval)
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
-- From the front of the log, which is in the order of time but for what took long to commit.
DELETE FROM sched.event WHERE id IN (
    SELECT id FROM (SELECT id, time FROM sched.event WHERE pos IS NOT NULL
                     ORDER BY generation, pos LIMIT :count) oldest
     WHERE time < now() - CAST(:kept AS interval) - interval '1 hour')
""")
# A restore is another timeline, or another server or database, or another table of that name.
_DATABASE = text("""
SELECT concat_ws('/', c.system_identifier, left(pg_walfile_name(pg_current_wal_lsn()), 8), d.oid,
                 CAST('sched.relay'::regclass AS oid)) AS here, r.database AS known
  FROM pg_control_system() c, pg_database d, sched.relay r
 WHERE d.datname = current_database() FOR UPDATE OF r
""")
_SETTLE = text("UPDATE sched.relay SET database = :here")


async def place(connection: AsyncConnection, floor: Floor) -> bool:
    """Give positions to rows that have none, in a committed transaction; True: there are more."""
    async with connection.begin():
        relay = (await connection.execute(_LOOK)).one()
        search = {"above": floor.above(time.monotonic()), "count": PLACE_ROWS_MAX}
        at = {"generation": relay.generation, "last_pos": relay.last_pos}
        done = (await connection.execute(_PLACE, {**at, **search})).one()
        if done.rows:
            await connection.execute(_ADVANCE, {"count": done.rows})
    more = bool(done.rows == PLACE_ROWS_MAX)
    look = Look(relay.last_id, relay.xmin, relay.xmax)
    floor.placed(look, up_to=done.up_to if more else relay.last_id)
    return more


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
        return first_batch([cloud_events.entry(*row) for row in rows])


async def note_published(connection: AsyncConnection, at: Position) -> None:
    """A hint for the next generation: losing it to a crash of Postgres loses nothing."""
    async with connection.begin():
        await connection.execute(_HINT)
        await connection.execute(_NOTE, {"generation": at.generation, "pos": at.pos})


async def begin_generation(connection: AsyncConnection, generation: int) -> None:
    async with connection.begin():
        await connection.execute(_LOCK)
        await _begin(connection, generation)


async def _begin(connection: AsyncConnection, generation: int) -> None:
    await connection.execute(_UNPLACE)
    await connection.execute(_BEGIN, {"generation": generation})


async def is_another_database(connection: AsyncConnection) -> bool:
    """Whether positions were given by a database that this one is a copy of; then a generation
    begins. The stream alone need not show it: it may have been restored to the same moment."""
    async with connection.begin():
        row = (await connection.execute(_DATABASE)).one()
        if row.here == row.known:
            return False
        relay = (await connection.execute(_LOCK)).one()
        await connection.execute(_SETTLE, {"here": row.here})
        if not row.known:
            return False
        await _begin(connection, relay.generation + 1)
        return True


async def forget_old(connection: AsyncConnection) -> int:
    """Drop rows that the stream no longer keeps either."""
    forgotten = await connection.execute(_FORGET, {"kept": KEPT, "count": FORGET_ROWS_MAX})
    return forgotten.rowcount
