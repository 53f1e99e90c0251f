"""The relay: gives events their position and carries them to the stream, in that order.

One at a time, under an advisory lock held by a dedicated connection; positions are given on that
connection. Order of things: position committed, then published (positions are given while NATS is
away too), then noted as published. At first, after any failure, and whenever the stream is not
where it was left, the stream's last message is compared with Postgres (positions.py) and what is
missing is replayed.
The lock only saves work: positions are given under a row's lock, a batch is written only behind
the sequence that was compared. So a leader that stands still may be replaced: Postgres ends its
session LEAD_IDLE_S after its last query, and another leads LOCK_POLL_S later.
What is gone from the stream's front (aged out, or purged up to a sequence, even between a look
and a write) is not written again behind newer events: subscribers see positions that are not
dense, and read `GET /v1/events?after=`.
Units: seconds.
"""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats.errors
from nats.js import JetStreamContext
from nats.js.api import StreamState
from nats.js.errors import NotFoundError
from pydantic import ValidationError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from wfhub_common import sql, streams, subjects
from wfhub_common.log import get_logger
from wfhub_common.messages import CloudEvent
from wfhub_common.sql import Connection

from wfhub_scheduler import batches, ledger
from wfhub_scheduler.batches import NotStored, OutOfStep, StreamMissing
from wfhub_scheduler.core import Core
from wfhub_scheduler.floors import Floor
from wfhub_scheduler.positions import START, NewGeneration, Position, StreamEnd, compare

LEAD_IDLE_S = 10  # longer than NATS can keep a living leader from its next query
LEAD_IDLE_IN_TRANSACTION_S = 5
LOOK_TIMEOUT_S = 2.0
RELAY_POLL_S = 0.25  # commits of other schedulers ring no bell here
REST_S = 0.02
NOTE_S = 1.0  # between two notes of what is published, while there is always more
CHECK_S = 2.0  # between two looks at streams while there is nothing to tell
FOREIGN_MAX = 100  # messages that an operator, say, wrote behind ours, and that are passed over
LOCK_POLL_S = 1.0
FAILURE_WAIT_S = 1.0
LOCK_NAME = "wfhub-relay"

log = get_logger(__name__)

_TRY_LOCK = text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")
_LEADERS_SESSION = (
    f"SET idle_session_timeout = '{LEAD_IDLE_S}s'",
    f"SET idle_in_transaction_session_timeout = '{LEAD_IDLE_IN_TRANSACTION_S}s'",
    # Always by an index, in its order: without statistics, or with those of an emptier table, the
    # planner would read and sort all that waits for each batch of it.
    *(
        f"SET enable_{way} = off"
        for way in ("bitmapscan", "sort", "seqscan", "hashjoin", "mergejoin")
    ),
)


class Relay:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._end: StreamEnd | None = None  # None: compare first
        self._floor = Floor()
        self._checked_at = 0.0  # monotonic
        self._noted: Position | None = None  # as published
        self._noted_at = 0.0  # monotonic

    async def run(self) -> None:
        """Until the process stops."""
        while not self._core.events.closed:
            try:
                async with self._alone() as connection:
                    if connection is not None:
                        self._core.metrics.leads(True)
                        await self._lead(connection)
            except (DBAPIError, OSError) as e:
                log.warning("relay lost its database session, starts again", why=str(e)[:300])
            except Exception:
                log.exception("relay stopped, starts again")
            self._core.metrics.leads(False)
            await asyncio.sleep(LOCK_POLL_S)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[Connection | None]:
        """The connection that holds the lock; None while another relay has it."""
        async with sql.connected(self._core.engine) as connection:
            locked = await connection.execute(_TRY_LOCK, {"name": LOCK_NAME})
            mine = bool(locked.scalar_one())
            try:
                yield connection if mine else None
            finally:
                if mine:
                    await connection.invalidate()  # its end is what gives the lock back

    async def _lead(self, connection: Connection) -> None:
        for setting in _LEADERS_SESSION:
            await connection.command(setting)
        log.info("relay leads")
        if await ledger.is_another_database(connection):
            log.error("new generation of positions", why="this database is a copy or was restored")
        self._end, self._floor, self._noted = None, Floor(), None
        while not self._core.events.closed:
            ticket = self._core.events.ticket()
            more = await ledger.place(connection, self._floor)
            try:
                if self._core.connected:
                    more = await self._carry(connection, unplaced=more)
            except (OutOfStep, NotStored, StreamMissing, nats.errors.Error) as e:
                self._end = None
                log.warning("events not published yet", why=repr(e))
                await ticket.wait(FAILURE_WAIT_S)
                continue
            if not more:
                await asyncio.sleep(REST_S)  # what is written meanwhile is one look and one batch
                await ticket.wait(RELAY_POLL_S)

    async def _carry(self, connection: Connection, *, unplaced: bool) -> bool:
        """Publish what is placed, and place what is `unplaced` meanwhile; True: there is more."""
        client = self._core.broker.connection
        js = client.jetstream(timeout=LOOK_TIMEOUT_S)
        if time.monotonic() - self._checked_at > CHECK_S:
            await _make_missing(js, self._core.stream_replicas)
            await self._look(js, connection)
        end = self._end or await self._look(js, connection)
        entries, more = await ledger.entries(connection, end.at)
        if not entries:
            await self._note(connection, end.at)
        while entries and not self._core.events.closed:
            if await self._look(js, connection) != end:
                return True  # it moved while we read: begin again from where it is now
            self._end = None  # unknown until the answer is here
            sending = asyncio.create_task(batches.publish(client, entries, last_seq=end.seq))
            last = entries[-1]
            try:
                if unplaced:
                    unplaced, more = await ledger.place(connection, self._floor), True
                entries = []
                if more:
                    entries, more = await ledger.entries(connection, last.at)
            finally:
                (seq,) = await asyncio.gather(sending)
                self._core.metrics.published(seq - end.seq)
            self._end = end = StreamEnd(seq, last.at, last.event_id)
            if time.monotonic() - self._noted_at > NOTE_S:
                await self._note(connection, end.at)
        return unplaced

    async def _note(self, connection: Connection, at: Position) -> None:
        if self._noted != at:
            await ledger.note_published(connection, at)
            self._noted = at
        self._noted_at = time.monotonic()

    async def _look(self, js: JetStreamContext, connection: Connection) -> StreamEnd:
        """The stream's end: where we left it, or compared anew."""
        state = await _events_state(js, self._core.stream_replicas)
        self._checked_at = time.monotonic()
        end = self._end
        emptied = end is not None and end.at != START and state.messages == 0
        if end is None or state.last_seq != end.seq or emptied:
            end = await _read_end(js, state)
            await self._reconcile(connection, end)
            self._end = end
        return end

    async def _reconcile(self, connection: Connection, end: StreamEnd) -> None:
        placed = await ledger.placed(connection)
        verdict = compare(end, placed, await ledger.event_at(connection, end.at))
        if isinstance(verdict, NewGeneration):
            log.error("new generation of positions", number=verdict.generation, why=verdict.why)
            await ledger.begin_generation(connection, verdict.generation)
            self._floor = Floor()  # rows lost their positions
            await ledger.place(connection, self._floor)
        elif end.at != placed:
            log.info("events to replay", stream_at=end.at, database_at=placed)


async def _read_end(js: JetStreamContext, state: StreamState) -> StreamEnd:
    if state.messages == 0:
        return StreamEnd(state.last_seq)
    for seq in range(state.last_seq, max(state.first_seq, state.last_seq - FOREIGN_MAX) - 1, -1):
        message = await js.get_msg(subjects.EVENTS_STREAM, seq=seq)
        try:
            event = CloudEvent.model_validate_json(message.data or b"")
        except ValidationError:
            log.error("a message in the stream is no event of ours: passed over", seq=seq)
            continue
        at = Position(event.wfhubgeneration, event.wfhubpos)
        return StreamEnd(state.last_seq, at, event.id)
    log.error("no event of ours is found in the stream: everything is replayed")
    return StreamEnd(state.last_seq)


async def _events_state(js: JetStreamContext, replicas: int) -> StreamState:
    try:
        return (await js.stream_info(subjects.EVENTS_STREAM)).state
    except NotFoundError:
        await _make_missing(js, replicas)
        return (await js.stream_info(subjects.EVENTS_STREAM)).state


async def _make_missing(js: JetStreamContext, replicas: int) -> None:
    for config in streams.configs(replicas):
        assert config.name is not None
        try:
            await js.stream_info(config.name)
        except NotFoundError:
            log.warning("a stream is missing, making it", stream=config.name)
            await streams.provision(js, replicas=replicas)
            return
