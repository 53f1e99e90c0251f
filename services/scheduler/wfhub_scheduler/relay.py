"""The relay: gives events their position and carries them to the stream, in that order.

One at a time, under an advisory lock held by a dedicated connection; positions are given on that
connection, so a relay that lost it gives none. Order of things: position committed, then
published (positions are given while NATS is away too), then noted as published. At first, after
any failure, and whenever the stream is not where it was left, the stream's last message is
compared with Postgres (positions.py) and what is missing is replayed.
A stream that is purged between the look and the write has a hole that no relay sees: subscribers
see positions that are not dense, and read `GET /v1/events?after=`.
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
from sqlalchemy.ext.asyncio import AsyncConnection
from wfhub_common import streams, subjects
from wfhub_common.log import get_logger
from wfhub_common.messages import CloudEvent

from wfhub_scheduler import batches, ledger
from wfhub_scheduler.batches import OutOfStep, StreamMissing
from wfhub_scheduler.core import Core
from wfhub_scheduler.positions import START, NewGeneration, Position, StreamEnd, compare

RELAY_POLL_S = 0.25  # commits of other schedulers ring no bell here
CHECK_S = 2.0  # between two looks at streams while there is nothing to tell
LOCK_POLL_S = 1.0
FAILURE_WAIT_S = 1.0
LOCK_NAME = "wfhub-relay"

log = get_logger(__name__)

_TRY_LOCK = text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")


class Relay:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._end: StreamEnd | None = None  # None: compare first
        self._checked_at = 0.0  # monotonic

    async def run(self) -> None:
        """Until the process stops."""
        while not self._core.events.closed:
            try:
                async with self._alone() as connection:
                    if connection is not None:
                        await self._lead(connection)
            except Exception:
                log.exception("relay stopped, starts again")
            await asyncio.sleep(LOCK_POLL_S)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[AsyncConnection | None]:
        """The connection that holds the lock; None while another relay has it."""
        async with self._core.engine.connect() as connection:
            locked = await connection.execute(_TRY_LOCK, {"name": LOCK_NAME})
            mine = bool(locked.scalar_one())
            await connection.commit()
            try:
                yield connection if mine else None
            finally:
                if mine:
                    await connection.invalidate()  # its end is what gives the lock back

    async def _lead(self, connection: AsyncConnection) -> None:
        log.info("relay leads")
        self._end = None
        while not self._core.events.closed:
            ticket = self._core.events.ticket()
            more = await ledger.place(connection)
            try:
                if self._core.connected:
                    more = await self._carry(connection) or more
            except (OutOfStep, StreamMissing, nats.errors.Error, OSError, TimeoutError) as e:
                self._end = None
                log.warning("events not published yet", why=repr(e))
                await asyncio.sleep(FAILURE_WAIT_S)
                continue
            if not more:
                await ticket.wait(RELAY_POLL_S)

    async def _carry(self, connection: AsyncConnection) -> bool:
        """Publish the next batch, if there is one; True: there may be another."""
        js = self._core.broker.connection.jetstream()
        if time.monotonic() - self._checked_at > CHECK_S:
            await _make_missing(js)
            end = await self._look(js, connection)
        else:
            end = self._end or await self._look(js, connection)
        entries = await ledger.entries(connection, end.at)
        if not entries:
            return False
        if await self._look(js, connection) != end:
            return True  # it moved while we read: begin again from where it is now
        seq = await batches.publish(self._core.broker, entries, last_seq=end.seq)
        last = entries[-1].event
        at = Position(last.wfhubgeneration, last.wfhubpos)
        self._end = StreamEnd(seq, at, last.id)
        await ledger.note_published(connection, at)
        return len(entries) == batches.BATCH_MESSAGES_MAX

    async def _look(self, js: JetStreamContext, connection: AsyncConnection) -> StreamEnd:
        """The stream's end: where we left it, or compared anew."""
        state = await _events_state(js)
        self._checked_at = time.monotonic()
        end = self._end
        emptied = end is not None and end.at != START and state.messages == 0
        if end is None or state.last_seq != end.seq or emptied:
            end = await _read_end(js, state)
            await _reconcile(connection, end)
            self._end = end
        return end


async def _reconcile(connection: AsyncConnection, end: StreamEnd) -> None:
    placed = await ledger.placed(connection)
    verdict = compare(end, placed, await ledger.event_at(connection, end.at))
    if isinstance(verdict, NewGeneration):
        log.error("new generation of positions", number=verdict.generation, why=verdict.why)
        await ledger.begin_generation(connection, verdict.generation)
        await ledger.place(connection)
    elif end.at != placed:
        log.info("events to replay", stream_at=end.at, database_at=placed)


async def _read_end(js: JetStreamContext, state: StreamState) -> StreamEnd:
    if state.messages == 0:
        return StreamEnd(state.last_seq)
    message = await js.get_msg(subjects.EVENTS_STREAM, seq=state.last_seq)
    try:
        event = CloudEvent.model_validate_json(message.data or b"")
    except ValidationError:
        log.error("the stream's last message is no event of ours: everything is replayed")
        return StreamEnd(state.last_seq)
    return StreamEnd(state.last_seq, Position(event.wfhubgeneration, event.wfhubpos), event.id)


async def _events_state(js: JetStreamContext) -> StreamState:
    try:
        return (await js.stream_info(subjects.EVENTS_STREAM)).state
    except NotFoundError:
        await _make_missing(js)
        return (await js.stream_info(subjects.EVENTS_STREAM)).state


async def _make_missing(js: JetStreamContext) -> None:
    for config in streams.configs():
        assert config.name is not None
        try:
            await js.stream_info(config.name)
        except NotFoundError:
            log.warning("a stream is missing, making it", stream=config.name)
            await streams.provision(js)
            return
