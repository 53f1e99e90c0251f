"""The ledger: each exchange as a row, written before the model is asked, settled after; and what
it holds of budgets, which any number of gateways share.

An exchange reserves what it may cost when it is opened (all that is left, if that is less), more
while a stream runs on, and is charged what it did cost when it is settled. used + reserved never
passes a limit by reservation. What can pass one: an answer that is not streamed, by what its prompt
counts more than we estimated (its length is clamped to the grant), the last event of a stream, and
what a model thinks in silence faster than it is taken to (usage.UNSEEN_TOKENS_PER_S).
A gateway that was killed leaves its rows open, with their reservations: another one charges those
(instances.py). Then the row is settled, and its own gateway, were it alive, gets nothing more.
Locks: attempt or exchange, then accounts (accounts.py).
Raises: Rejected (429 `budget-exceeded`, `too-many-exchanges`), RateLimited, RetryLater.
"""

from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import db
from wfhub_common.errors import Rejected
from wfhub_common.log import get_logger
from wfhub_common.messages import SpendingLimit
from wfhub_common.sql import Connection

from wfhub_llm_gateway import settlements
from wfhub_llm_gateway.budgets import accounts, at_once, refusals
from wfhub_llm_gateway.budgets.accounts import Subjects
from wfhub_llm_gateway.budgets.grants import Ask, Grant, Refused, grant
from wfhub_llm_gateway.budgets.prices import FREE, Price
from wfhub_llm_gateway.settlements import OpenRow, Settlement

# Bounded by what fits one reply to `exchanges` (RPC_BYTES_MAX): up to 780 bytes each.
EXCHANGES_PER_ATTEMPT_MAX = 1000
COMPLETION_RESERVE_TOKENS = 512  # of a stream, at first
WHOLE_RESERVE_TOKENS = 8192  # of an answer that is not streamed and whose client sets no length
EXTEND_TOKENS = 256  # what a stream reserves at a time beyond that
WALL_RESERVE_MS = 10_000  # of any, at a time
NOT_SETTLED = "never settled: the gateway stopped in the middle of it"
NO_USAGE = "usage not reported"
GATEWAY_LOST = "gateway-lost"

log = get_logger(__name__)


@dataclass(frozen=True)
class Opening:
    """`prompt` and `completion` are tokens that it may cost, `price` the highest of those who may
    answer it."""

    attempt_id: str
    task_id: str
    project_id: str
    provider: str
    model: str
    replayed: bool
    stream: bool
    request_digest: str
    request_bytes: int
    started_at: datetime
    prompt: int
    completion: int
    limits: tuple[SpendingLimit, ...] = ()
    price: Price = FREE

    @property
    def subjects(self) -> Subjects:
        return Subjects(self.project_id, self.task_id, self.attempt_id, self.started_at)


@dataclass(frozen=True)
class Entry:
    """An open exchange of this process; `granted` is what it may use up to now."""

    opening: Opening
    seq: int
    granted: Grant

    @property
    def attempt_id(self) -> str:
        return self.opening.attempt_id

    def with_more(self, more: Grant) -> "Entry":
        had = self.granted
        granted = replace(
            had,
            completion=had.completion + more.completion,
            wall_ms=had.wall_ms + more.wall_ms,
            nusd=had.nusd + more.nusd,
        )
        return replace(self, granted=granted)

    @cached_property  # each event of a stream asks
    def counts_tokens(self) -> bool:
        return any(x.tokens is not None or x.nusd is not None for x in _running(self.opening))

    @property
    def counts_time(self) -> bool:
        return any(limit.wall_ms is not None for limit in _running(self.opening))


_NUMBER = """
INSERT INTO gateway.attempt (attempt_id, task_id, project_id, exchange_count)
VALUES (:attempt_id, :task_id, :project_id, 1)
    ON CONFLICT (attempt_id) DO UPDATE SET exchange_count = gateway.attempt.exchange_count + 1
 WHERE gateway.attempt.exchange_count < :exchanges_max
RETURNING exchange_count AS seq
"""
_INSERT = """
INSERT INTO gateway.exchange (attempt_id, seq, task_id, project_id, state, provider, model,
    replayed, stream, request_digest, request_bytes, started_at, instance_id, accounts,
    reserved_tokens, reserved_nusd, reserved_wall_ms)
SELECT :attempt_id, {seq}, :task_id, :project_id, 'open', :provider, :model,
    :replayed, :stream, :request_digest, :request_bytes, :started_at, :instance_id,
    CAST(:accounts AS text[]), :tokens, :nusd, :wall_ms
"""
# 0 rows: it has asked too often.
_OPEN = text(f"""
WITH {at_once.NOT_AWAITED}, numbered AS ({_NUMBER})
{_INSERT.format(seq="seq")} FROM numbered, soon RETURNING seq
""")
_TAKE_NUMBER = text(_NUMBER)
_OPEN_NUMBERED = text(_INSERT.format(seq=":seq"))

_HELD = text("""
SELECT accounts FROM gateway.exchange
 WHERE attempt_id = :attempt_id AND seq = :seq AND started_at = :started_at AND state = 'open'
   FOR UPDATE
""")
# Under whichever number: one that was made anew has another.
_IS_KNOWN = text("""
SELECT EXISTS (SELECT FROM gateway.exchange WHERE attempt_id = :attempt_id
                  AND instance_id = :instance_id AND started_at = :started_at)
""")
_EXTEND = text("""
UPDATE gateway.exchange SET reserved_tokens = reserved_tokens + :tokens,
       reserved_nusd = reserved_nusd + :nusd, reserved_wall_ms = reserved_wall_ms + :wall_ms
 WHERE attempt_id = :attempt_id AND seq = :seq
""")


class Ledger:
    def __init__(self, engine: AsyncEngine, instance_id: str = "") -> None:
        self._engine, self._instance_id = engine, instance_id
        self._single = db.autocommitting(engine)

    async def open(self, opening: Opening) -> Entry:
        # What is not limited, or fits whole, costs one statement.
        single = self._open_fitting if opening.limits else self._open_free
        entry = await db.retried(self._single, lambda connection: single(connection, opening))
        if entry is not None:
            return entry
        careful = self._open_limited
        return await db.retried(self._engine, lambda connection: careful(connection, opening))

    async def _open_fitting(self, connection: Connection, opening: Opening) -> Entry | None:
        given = grant((), _ask(opening))
        limited = at_once.values_of(opening.limits, opening.subjects, given.amount)
        values = self._values(opening, given) | limited
        seq = (await connection.execute(at_once.OPEN_AT_ONCE, values)).scalar()
        return None if seq is None else Entry(opening, seq, given)

    async def _open_free(self, connection: Connection, opening: Opening) -> Entry | None:
        given = grant((), _ask(opening))
        seq = (await connection.execute(_OPEN, self._values(opening, given))).scalar()
        if seq is None:
            raise _too_many()
        return Entry(opening, seq, given)

    async def _open_limited(self, connection: Connection, opening: Opening) -> Entry:
        values = {**opening.__dict__, "exchanges_max": EXCHANGES_PER_ATTEMPT_MAX}
        seq = (await connection.execute(_TAKE_NUMBER, values)).scalar()
        if seq is None:
            raise _too_many()
        found = await accounts.lock(connection, opening.limits, opening.subjects)
        try:
            given = grant(found, _ask(opening))
        except Refused as e:
            raise refusals.before(e, opening.subjects) from e
        keys = [opening.subjects.key(limit.scope) for limit in opening.limits]
        await accounts.hold(connection, keys, given.amount)
        values = self._values(opening, given, seq=seq, accounts=keys)
        await connection.execute(_OPEN_NUMBERED, values)
        return Entry(opening, seq, given)

    def _values(self, opening: Opening, given: Grant, **more: Any) -> dict[str, Any]:
        return {
            **opening.__dict__,
            **given.amount.__dict__,
            "instance_id": self._instance_id,
            "exchanges_max": EXCHANGES_PER_ATTEMPT_MAX,
            "accounts": [],
            **more,
        }

    async def extend(self, entry: Entry, *, tokens: int = 0, wall_ms: int = 0) -> Grant:
        """What more it may use, of what is asked for. Raises: Rejected (`budget-exceeded`) when
        nothing is left, (`gateway-lost`) when others took this gateway for dead."""
        opening = entry.opening
        ask = Ask(
            prompt=0,
            completion=tokens,
            wall_ms=wall_ms,
            completion_min=min(tokens, 1),
            wall_ms_min=min(wall_ms, 1),
            requests=0,
            price=opening.price,
            more=True,
        )

        async def work(connection: Connection) -> Grant:
            at = {"attempt_id": entry.attempt_id, "seq": entry.seq}
            found_at = {**at, "started_at": opening.started_at}
            keys = (await connection.execute(_HELD, found_at)).scalar()
            if keys is None:
                raise refusals.lost()
            found = await accounts.lock(connection, opening.limits, opening.subjects)
            try:
                given = grant(found, ask)
            except Refused as e:
                raise refusals.within(e) from e
            await accounts.hold(connection, keys, given.amount)
            await connection.execute(_EXTEND, {**at, **given.amount.__dict__})
            return given

        return await db.retried(self._engine, work)

    async def settle(self, entry: Entry, settlement: Settlement) -> bytes | None:
        """Safe to repeat. Another record than `record`'s where the row was gone."""
        row = _row(entry.opening, entry.seq)
        if await settlements.settled_at_once(self._single, row, settlement):
            return None
        work = self._settle_with_care
        return await db.retried(self._engine, lambda c: work(c, entry, settlement))

    async def _settle_with_care(
        self, connection: Connection, entry: Entry, settlement: Settlement
    ) -> bytes | None:
        opening = entry.opening
        if await settlements.settle_in(connection, _row(opening, entry.seq), settlement):
            return None
        asked = {**opening.__dict__, "instance_id": self._instance_id}
        if (await connection.execute(_IS_KNOWN, asked)).scalar():  # others took us for dead
            return None
        row = _row(opening, await self._open_again(connection, opening))
        await settlements.settle_in(connection, row, settlement)
        return settlements.record_of(row, settlement)

    async def _open_again(self, connection: Connection, opening: Opening) -> int:
        """What Postgres lost: it was admitted, so no limit is asked. Its number."""
        numbered = {**opening.__dict__, "exchanges_max": 2 * EXCHANGES_PER_ATTEMPT_MAX}
        seq = (await connection.execute(_TAKE_NUMBER, numbered)).scalar_one()
        await accounts.lock(connection, opening.limits, opening.subjects)
        keys = [opening.subjects.key(limit.scope) for limit in opening.limits]
        given = Grant(prompt=0, completion=0, wall_ms=0, nusd=0, requests=1)
        await accounts.hold(connection, keys, given.amount)
        values = self._values(opening, given, seq=seq, accounts=keys)
        await connection.execute(_OPEN_NUMBERED, values)
        log.warning("opening lost by the database, made anew", attempt_id=opening.attempt_id)
        return int(seq)


def record(entry: Entry, settlement: Settlement) -> bytes:
    """The exchange's record, as it is to be stored."""
    return settlements.record_of(_row(entry.opening, entry.seq), settlement)


def _row(opening: Opening, seq: int) -> OpenRow:
    return OpenRow(
        seq, opening.attempt_id, opening.replayed, opening.request_digest, opening.started_at
    )


def _ask(opening: Opening) -> Ask:
    return Ask(
        prompt=opening.prompt,
        completion=opening.completion,
        wall_ms=WALL_RESERVE_MS,
        completion_min=min(opening.completion, 1),
        price=opening.price,
    )


def _running(opening: Opening) -> list[SpendingLimit]:
    return [limit for limit in opening.limits if limit.scope != "minute"]


def _too_many() -> Rejected:
    return Rejected(
        "too-many-exchanges",
        f"this attempt has asked {EXCHANGES_PER_ATTEMPT_MAX} times, the most that are allowed",
        status=429,
    )
