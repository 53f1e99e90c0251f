"""Settling an exchange: its row, its link in the chain, and what its accounts get back; once.

All of it is one statement where it can be. It cannot when an account was made while the statement
waited for the row: what a statement sees of other rows is as old as its beginning, so that account
would keep its reservation for good. Then nothing is changed, and it is done step by step.
A row is told by `started_at` too: its opening may be gone with a Postgres that crashed
(at_once.py), and its number another's since. It is made anew then, and charged (ledger.py).
Locks: exchange, attempt, then accounts in their order.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from wfhub_common import digests, exchange_chain
from wfhub_common.statements import Statement, Statements

from wfhub_llm_gateway.budgets import accounts
from wfhub_llm_gateway.budgets.grants import Amount

NOTE_CHARS_MAX = 120


@dataclass(frozen=True)
class Settlement:
    status: int
    code: str
    provider: str
    model: str
    response_digest: str
    response_bytes: int
    prompt_tokens: int | None
    completion_tokens: int | None
    cached_tokens: int
    charged_tokens: int
    charged_nusd: int
    first_byte_ms: int | None
    duration_ms: int
    note: str


@dataclass(frozen=True)
class OpenRow:
    """A row that is about to be settled, as it stands."""

    seq: int
    attempt_id: str
    replayed: bool
    request_digest: str
    started_at: datetime


_ITS_ACCOUNTS = """unnest(found.accounts) AS key
      JOIN gateway.account a
        ON a.scope = split_part(key, ' ', 1) AND a.subject = substr(key, strpos(key, ' ') + 1)"""
# Only an open row is settled, linked, and its reservation given back, once.
_SETTLE = """
WITH found AS MATERIALIZED (
    SELECT attempt_id, accounts, reserved_tokens, reserved_nusd, reserved_wall_ms
      FROM gateway.exchange
     WHERE attempt_id = :attempt_id AND seq = :seq AND started_at = :started_at
       AND state = 'open' FOR UPDATE),
held AS MATERIALIZED (SELECT * FROM found {if_}),
linked AS (
    UPDATE gateway.attempt a
       SET chain_count = a.chain_count + 1,
           chain_digest = 'sha256:' || encode(sha256(convert_to(
               a.chain_digest || ' ' || :record_digest, 'UTF8')), 'hex')
      FROM held WHERE a.attempt_id = held.attempt_id
    RETURNING a.chain_count, a.chain_digest),
{more}
settled AS (
    UPDATE gateway.exchange
       SET state = 'settled', status = :status, code = :code, provider = :provider, model = :model,
           response_digest = :response_digest, response_bytes = :response_bytes,
           prompt_tokens = :prompt_tokens, completion_tokens = :completion_tokens,
           cached_tokens = :cached_tokens, charged_tokens = :charged_tokens,
           charged_nusd = :charged_nusd, first_byte_ms = :first_byte_ms,
           duration_ms = :duration_ms, note = :note, record_digest = :record_digest,
           link = linked.chain_count, chain_digest = linked.chain_digest
      FROM linked WHERE attempt_id = :attempt_id AND seq = :seq)
SELECT accounts, reserved_tokens, reserved_nusd, reserved_wall_ms FROM held
"""
_STEP_BY_STEP = text(_SETTLE.format(if_="", more=""))
_ALL_SEEN = f"WHERE cardinality(accounts) = (SELECT count(*) FROM {_ITS_ACCOUNTS})"  # noqa: S608
_AT_ONCE = Statement(
    _SETTLE.format(
        if_=_ALL_SEEN,
        more=f"""
charged AS MATERIALIZED (
    SELECT a.scope, a.subject, found.reserved_tokens, found.reserved_nusd, found.reserved_wall_ms
      FROM held AS found, linked, {_ITS_ACCOUNTS}
     ORDER BY array_position(ARRAY['project', 'day', 'minute', 'task', 'attempt'], a.scope)
       FOR UPDATE OF a),
given_back AS (
    UPDATE gateway.account a
       SET reserved_tokens = a.reserved_tokens - c.reserved_tokens,
           used_tokens = a.used_tokens + :charged_tokens,
           reserved_nusd = a.reserved_nusd - c.reserved_nusd,
           used_nusd = a.used_nusd + :charged_nusd,
           reserved_wall_ms = a.reserved_wall_ms - c.reserved_wall_ms,
           used_wall_ms = a.used_wall_ms + :duration_ms
      FROM charged c WHERE a.scope = c.scope AND a.subject = c.subject),
""",  # noqa: S608 - our own text
    )
)


def record_of(row: OpenRow, settlement: Settlement) -> bytes:
    """The exchange's record, as it is to be stored."""
    return _values(row, settlement)[1]


async def settled_at_once(statements: Statements, row: OpenRow, settlement: Settlement) -> bool:
    """False: nothing has changed."""
    values, _ = _values(row, settlement)
    return await statements.value(_AT_ONCE, values) is not None


async def settle_in(connection: AsyncConnection, row: OpenRow, settlement: Settlement) -> bool:
    """Step by step, within a transaction of the caller's. False: there is no such open row."""
    values, _ = _values(row, settlement)
    held = (await connection.execute(_STEP_BY_STEP, values)).one_or_none()
    if held is None:
        return False
    await accounts.settle(
        connection,
        held.accounts,
        Amount(held.reserved_tokens, held.reserved_nusd, held.reserved_wall_ms),
        Amount(settlement.charged_tokens, settlement.charged_nusd, settlement.duration_ms),
    )
    return True


def _values(row: OpenRow, settlement: Settlement) -> tuple[dict[str, Any], bytes]:
    """The statement's, and the record."""
    values = {
        **settlement.__dict__,
        "attempt_id": row.attempt_id,
        "seq": row.seq,
        "started_at": row.started_at,
    }
    values["note"] = settlement.note[:NOTE_CHARS_MAX]
    fields = {
        **values,
        "replayed": row.replayed,
        "request_digest": row.request_digest,
        "prompt_tokens": settlement.prompt_tokens or 0,
        "completion_tokens": settlement.completion_tokens or 0,
        "nusd": settlement.charged_nusd,
        "started_at": stamp(row.started_at),
        "first_byte_ms": -1 if settlement.first_byte_ms is None else settlement.first_byte_ms,
    }
    record = exchange_chain.record(row.attempt_id, fields)
    values["record_digest"] = digests.of_bytes(record)
    return values, record


def stamp(at: datetime) -> str:
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
