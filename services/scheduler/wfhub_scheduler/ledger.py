"""The ledger: the outbox as a log with positions (sched.event_batch, sched.event, sched.relay).

Only the relay writes positions, on the connection that holds its lock, a statement at a time, each
a transaction (but where a generation begins): one a batch, that of its last event. A batch keeps
its position for good, but for those not known to be published when a new generation begins. It is
published as a whole, so that the stream never ends within one.
Rows are kept as long as the stream keeps its messages.
"""

import time
from datetime import timedelta

from sqlalchemy import text
from wfhub_common import streams
from wfhub_common.sql import Connection

from wfhub_scheduler import cloud_events
from wfhub_scheduler.batches import BATCH_MESSAGES_MAX, Entry, first_batch
from wfhub_scheduler.floors import Floor, Look
from wfhub_scheduler.positions import Position

PLACE_BATCHES_MAX = 1000
KEPT = timedelta(seconds=streams.EVENTS_AGE_S)
FORGET_BATCHES_MAX = 2000

_LOCK = text("SELECT generation, last_pos FROM sched.relay FOR UPDATE")
_PLACE = text("""
-- Dense, in the order of the ids among the batches committed by now. Those of one task are in the
-- order of their commits, since each writer holds the task's lock before it draws an id.
WITH fresh AS (SELECT batch_id, sum(events) OVER (ORDER BY batch_id) AS so_far
                 FROM (SELECT batch_id, events FROM sched.event_batch
                        WHERE up_to IS NULL AND batch_id > :above
                        ORDER BY batch_id LIMIT :count) f),
     done AS (UPDATE sched.event_batch b
                 SET generation = r.generation, up_to = r.last_pos + fresh.so_far
                FROM fresh, sched.relay r WHERE b.batch_id = fresh.batch_id
              RETURNING b.batch_id, b.events),
     total AS (SELECT count(*) AS batches, sum(events) AS events, max(batch_id) AS up_to FROM done),
     moved AS (UPDATE sched.relay SET last_pos = last_pos + total.events FROM total
                WHERE total.batches > 0)
SELECT total.batches, total.up_to,
       (SELECT CASE WHEN is_called THEN last_value ELSE 0 END
          FROM sched.event_batch_batch_id_seq) AS last_id,
       CAST(CAST(pg_snapshot_xmin(now.snapshot) AS text) AS bigint) AS xmin,
       CAST(CAST(pg_snapshot_xmax(now.snapshot) AS text) AS bigint) AS xmax
  FROM total, (SELECT pg_current_snapshot() AS snapshot) now
""")
_NOTE = text("""
UPDATE sched.relay SET published_pos = greatest(published_pos, :pos)
  FROM (SELECT set_config('synchronous_commit', 'off', true) AS said OFFSET 0) hint
 WHERE generation = :generation AND hint.said = 'off'
""")
_EVENT_AT = text("""
SELECT e.event_id
  FROM (SELECT batch_id, up_to - events AS before FROM sched.event_batch
         WHERE generation = :generation AND up_to >= :pos ORDER BY up_to LIMIT 1) b
  JOIN sched.event e ON e.batch_id = b.batch_id AND e.n = :pos - b.before
""")
_ENTRIES = text("""
SELECT e.event_id, b.generation, b.up_to - b.events + e.n AS pos, e.project_id, e.kind,
       e.entity_id, e.type, b.time, CAST(e.data AS text) AS data, e.n = b.events AS last
  FROM sched.event_batch b JOIN sched.event e ON e.batch_id = b.batch_id
 WHERE b.up_to IS NOT NULL AND (b.generation, b.up_to) > (:generation, :pos)
   AND (b.generation, b.up_to - b.events + e.n) > (:generation, :pos)
   AND b.time > now() - CAST(:kept AS interval)
 ORDER BY b.generation, b.up_to, e.n LIMIT :count
""")
_UNPLACE = text("""
-- Placed by a history that the stream does not share, and not known to be in it.
UPDATE sched.event_batch SET generation = NULL, up_to = NULL
 WHERE generation = (SELECT generation FROM sched.relay)
   AND up_to - events >= (SELECT published_pos FROM sched.relay)
""")
_BEGIN = text("UPDATE sched.relay SET generation = :generation, last_pos = 0, published_pos = 0")
_FORGET = text("""
-- From the front of the log, which is in the order of time but for what took long to commit.
WITH old AS (SELECT batch_id FROM (SELECT batch_id, time FROM sched.event_batch
                                    WHERE up_to IS NOT NULL
                                    ORDER BY generation, up_to LIMIT :count) oldest
              WHERE time < now() - CAST(:kept AS interval) - interval '1 hour'),
     gone AS (DELETE FROM sched.event e USING old WHERE e.batch_id = old.batch_id)
DELETE FROM sched.event_batch b USING old WHERE b.batch_id = old.batch_id
""")
# A restore is another timeline, or another server or database, or another table of that name.
_DATABASE = text("""
SELECT concat_ws('/', c.system_identifier, left(pg_walfile_name(pg_current_wal_lsn()), 8), d.oid,
                 CAST('sched.relay'::regclass AS oid)) AS here, r.database AS known
  FROM pg_control_system() c, pg_database d, sched.relay r
 WHERE d.datname = current_database() FOR UPDATE OF r
""")
_SETTLE = text("UPDATE sched.relay SET database = :here")


async def place(connection: Connection, floor: Floor) -> bool:
    """Give positions to batches that have none, in a committed transaction; True: there is more."""
    search = {"above": floor.above(time.monotonic()), "count": PLACE_BATCHES_MAX}
    done = (await connection.execute(_PLACE, search)).one()
    more = bool(done.batches == PLACE_BATCHES_MAX)
    look = Look(done.last_id, done.xmin, done.xmax)
    floor.placed(look, up_to=done.up_to if more else done.last_id)
    return more


async def placed(connection: Connection) -> Position:
    """The last position that was given."""
    relay = (await connection.execute(_LOCK)).one()
    return Position(relay.generation, relay.last_pos)


async def event_at(connection: Connection, at: Position) -> str | None:
    wanted = {"generation": at.generation, "pos": at.pos}
    found: str | None = (await connection.execute(_EVENT_AT, wanted)).scalar_one_or_none()
    return found


async def entries(connection: Connection, after: Position) -> tuple[list[Entry], bool]:
    """What follows `after`, as it is published: whole batches, as many as the stream takes; and
    whether there is more."""
    follow = {"generation": after.generation, "pos": after.pos}
    found = await connection.execute(
        _ENTRIES, {**follow, "kept": KEPT, "count": BATCH_MESSAGES_MAX}
    )
    rows = found.all()
    fit = first_batch([cloud_events.entry(*row[:-1]) for row in rows])
    whole = next((n for n in range(len(fit), 0, -1) if rows[n - 1].last), len(fit))
    return fit[:whole], whole < len(rows) or len(rows) == BATCH_MESSAGES_MAX


async def note_published(connection: Connection, at: Position) -> None:
    """A hint for the next generation: losing it to a crash of Postgres loses nothing."""
    await connection.execute(_NOTE, {"generation": at.generation, "pos": at.pos})


async def begin_generation(connection: Connection, generation: int) -> None:
    async with connection.begin():
        await connection.execute(_LOCK)
        await _begin(connection, generation)


async def _begin(connection: Connection, generation: int) -> None:
    await connection.execute(_UNPLACE)
    await connection.execute(_BEGIN, {"generation": generation})


async def is_another_database(connection: Connection) -> bool:
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


async def forget_old(connection: Connection) -> int:
    """Drop batches that the stream no longer keeps either; how many."""
    forgotten = await connection.execute(_FORGET, {"kept": KEPT, "count": FORGET_BATCHES_MAX})
    return forgotten.rowcount
