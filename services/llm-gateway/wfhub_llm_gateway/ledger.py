"""The ledger: each exchange as a row, written before the model is asked, settled after; and the
token budget of each attempt, which any number of gateways share.

An exchange reserves what it may cost when it is opened (all that is left, if that is less), more
while a stream runs on, and is charged what it did cost when it is settled. used + reserved never
passes the budget by reservation; only an answer that no stream could cut short can pass it, once.
The row of a gateway that was killed stays open, with its reservation: evidence, at the worst cost.
Raises: Rejected (429 `budget-exceeded`, `too-many-exchanges`), RetryLater.
"""

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import messages
from wfhub_common.db import transaction
from wfhub_common.errors import Rejected

# Bounded by what fits one reply to `exchanges` (RPC_BYTES_MAX): about 500 bytes each.
EXCHANGES_PER_ATTEMPT_MAX = 1200
NOTE_CHARS_MAX = 120
COMPLETION_RESERVE_TOKENS = 512  # for an answer whose length the client did not limit
EXTEND_TOKENS = 256  # what a stream reserves at a time beyond that
UNLIMITED_TOKENS = 2**62
SETTLED_WAIT_S = 2.0  # `exchanges` waits so long for streams that were cut a moment ago
_SETTLED_POLL_S = 0.1
NOT_SETTLED = "never settled: the gateway stopped in the middle of it"
NO_USAGE = "usage not reported"


@dataclass(frozen=True)
class Opening:
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
    budget_tokens: int | None
    tokens_min: int  # refused unless this much is left
    tokens_wanted: int


@dataclass(frozen=True)
class Entry:
    """An open exchange of this process."""

    attempt_id: str
    seq: int
    budget_tokens: int | None
    granted_tokens: int


@dataclass(frozen=True)
class Settlement:
    status: int
    code: str
    model: str
    response_digest: str
    response_bytes: int
    prompt_tokens: int | None
    completion_tokens: int | None
    charged_tokens: int
    first_byte_ms: int | None
    duration_ms: int
    note: str


_ATTEMPT = text("""
INSERT INTO gateway.attempt (attempt_id, task_id, project_id)
VALUES (:attempt_id, :task_id, :project_id) ON CONFLICT DO NOTHING
""")

# Reserve what is wanted or what is left; 0 rows = not even :tokens_min is left, or too many.
# The row lock makes it one decision after the other, whichever gateway asks.
_RESERVE = text("""
WITH held AS (
    SELECT attempt_id, used_tokens + reserved_tokens AS taken
      FROM gateway.attempt WHERE attempt_id = :attempt_id FOR UPDATE)
UPDATE gateway.attempt a
   SET reserved_tokens = a.reserved_tokens + LEAST(:tokens_wanted, :budget - held.taken),
       exchange_count = a.exchange_count + :opened
  FROM held
 WHERE a.attempt_id = held.attempt_id AND held.taken + :tokens_min <= :budget
   AND a.exchange_count + :opened <= :exchanges_max
RETURNING a.exchange_count, LEAST(:tokens_wanted, :budget - held.taken) AS granted
""")

_STANDING = text("""
SELECT exchange_count, used_tokens, reserved_tokens FROM gateway.attempt
 WHERE attempt_id = :attempt_id
""")

_OPEN = text("""
INSERT INTO gateway.exchange (attempt_id, seq, task_id, project_id, state, provider, model,
    replayed, stream, request_digest, request_bytes, reserved_tokens, started_at)
VALUES (:attempt_id, :seq, :task_id, :project_id, 'open', :provider, :model,
    :replayed, :stream, :request_digest, :request_bytes, :granted, :started_at)
""")

_EXTEND = text("""
UPDATE gateway.exchange SET reserved_tokens = reserved_tokens + :granted
 WHERE attempt_id = :attempt_id AND seq = :seq
""")

# Only an open row is settled, and its reservation given back, once.
_SETTLE = text("""
WITH settled AS (
    UPDATE gateway.exchange
       SET state = 'settled', status = :status, code = :code, model = :model,
           response_digest = :response_digest, response_bytes = :response_bytes,
           prompt_tokens = :prompt_tokens, completion_tokens = :completion_tokens,
           charged_tokens = :charged_tokens, first_byte_ms = :first_byte_ms,
           duration_ms = :duration_ms, note = :note
     WHERE attempt_id = :attempt_id AND seq = :seq AND state = 'open'
    RETURNING attempt_id, reserved_tokens)
UPDATE gateway.attempt a
   SET reserved_tokens = a.reserved_tokens - settled.reserved_tokens,
       used_tokens = a.used_tokens + :charged_tokens
  FROM settled WHERE a.attempt_id = settled.attempt_id
""")

_EXCHANGES = text("""
SELECT seq, state, provider, model, replayed, status, request_digest, response_digest,
       coalesce(prompt_tokens, 0) AS prompt_tokens,
       coalesce(completion_tokens, 0) AS completion_tokens, started_at, duration_ms, note
  FROM gateway.exchange WHERE attempt_id = :attempt_id ORDER BY seq
""")

_USAGE = text("""
SELECT coalesce(sum(prompt_tokens), 0)::bigint AS prompt_tokens,
       coalesce(sum(completion_tokens), 0)::bigint AS completion_tokens, count(*) AS requests
  FROM gateway.exchange WHERE task_id = :task_id
""")


class Ledger:
    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def open(self, opening: Opening) -> Entry:
        values = opening.__dict__
        async with transaction(self._engine) as connection:
            await connection.execute(_ATTEMPT, values)
            reserve = _reserve(opening.attempt_id, opening.budget_tokens, opened=1)
            row = (await connection.execute(_RESERVE, {**values, **reserve})).one_or_none()
            if row is None:
                standing = (await connection.execute(_STANDING, values)).one()
                raise _refusal(opening, *standing)
            seq, granted = row
            await connection.execute(_OPEN, {**values, "seq": seq, "granted": granted})
        return Entry(opening.attempt_id, seq, opening.budget_tokens, granted)

    async def extend(self, entry: Entry) -> Entry:
        """With more tokens granted. Raises: Rejected (`budget-exceeded`) when none are left."""
        values = _reserve(entry.attempt_id, entry.budget_tokens, opened=0)
        values |= {"tokens_min": 1, "tokens_wanted": EXTEND_TOKENS}
        async with transaction(self._engine) as connection:
            row = (await connection.execute(_RESERVE, values)).one_or_none()
            if row is None:
                raise over_budget(entry.budget_tokens, "the answer was cut off there")
            granted = int(row.granted)
            await connection.execute(_EXTEND, {**entry.__dict__, "granted": granted})
        return replace(entry, granted_tokens=entry.granted_tokens + granted)

    async def settle(self, entry: Entry, settlement: Settlement) -> None:
        """Safe to repeat."""
        values = settlement.__dict__ | {"attempt_id": entry.attempt_id, "seq": entry.seq}
        values["note"] = settlement.note[:NOTE_CHARS_MAX]
        async with transaction(self._engine) as connection:
            await connection.execute(_SETTLE, values)

    async def exchanges(self, attempt_id: str) -> messages.Exchanges:
        """Of an attempt, in order; open ones get a moment to be settled."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + SETTLED_WAIT_S
        while True:
            async with transaction(self._engine) as connection:
                result = await connection.execute(_EXCHANGES, {"attempt_id": attempt_id})
                rows = result.mappings().all()
            if loop.time() > deadline or all(row["state"] == "settled" for row in rows):
                break
            await asyncio.sleep(_SETTLED_POLL_S)
        exchanges = tuple(_exchange(dict(row)) for row in rows)
        return messages.Exchanges(
            attempt_id=attempt_id,
            exchanges=exchanges,
            prompt_tokens=sum(e.prompt_tokens for e in exchanges),
            completion_tokens=sum(e.completion_tokens for e in exchanges),
        )

    async def usage(self, task_id: str) -> messages.Usage:
        async with transaction(self._engine) as connection:
            row = (await connection.execute(_USAGE, {"task_id": task_id})).mappings().one()
        return messages.Usage.model_validate(dict(row))


def over_budget(budget_tokens: int | None, what: str) -> Rejected:
    return Rejected(
        "budget-exceeded",
        f"this attempt's budget of {budget_tokens} model tokens is used up or held by its other "
        f"requests; {what}. A task's budget_tokens sets it",
        status=429,
    )


def _reserve(attempt_id: str, budget_tokens: int | None, *, opened: int) -> dict[str, Any]:
    return {
        "attempt_id": attempt_id,
        "budget": UNLIMITED_TOKENS if budget_tokens is None else budget_tokens,
        "opened": opened,
        "exchanges_max": EXCHANGES_PER_ATTEMPT_MAX,
    }


def _refusal(opening: Opening, count: int, used: int, reserved: int) -> Rejected:
    if count >= EXCHANGES_PER_ATTEMPT_MAX:
        return Rejected(
            "too-many-exchanges",
            f"this attempt has asked {count} times, the most that are allowed",
            status=429,
        )
    standing = f"{used} used, {reserved} held, about {opening.tokens_min} asked for"
    return over_budget(opening.budget_tokens, f"this request was not sent ({standing})")


def _exchange(row: dict[str, Any]) -> messages.Exchange:
    started_at: datetime = row.pop("started_at")
    if row.pop("state") == "open":
        row["note"] = NOT_SETTLED
    stamp = started_at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return messages.Exchange(**row, started_at=stamp)
