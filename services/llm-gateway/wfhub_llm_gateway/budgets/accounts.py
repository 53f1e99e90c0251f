"""Accounts in Postgres: found and locked, made from the ledger when their scope is first limited.

Locked in the order project, day, minute, task, attempt, after the rows of attempt and exchange;
so that whichever gateway asks, it is one decision after the other. The writer that makes an account
takes into it what the ledger knows of its scope, and ties the exchanges that are open to it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text
from wfhub_common.messages import SpendingLimit
from wfhub_common.sql import Connection

from wfhub_llm_gateway.budgets.grants import Account, Amount

MINUTES_KEPT_S = 3600.0

_LOCK = text("""
SELECT a.scope, a.used_tokens + a.reserved_tokens AS tokens, a.used_nusd + a.reserved_nusd AS nusd,
       a.used_wall_ms + a.reserved_wall_ms AS wall_ms, a.used_requests AS requests
  FROM unnest(CAST(:scopes AS text[]), CAST(:subjects AS text[])) WITH ORDINALITY
       AS asked (scope, subject, rank)
  JOIN gateway.account a USING (scope, subject)
 ORDER BY asked.rank FOR UPDATE OF a
""")
_MAKE = text("""
INSERT INTO gateway.account (scope, subject) VALUES (:scope, :subject) ON CONFLICT DO NOTHING
""")
# Before the sums: an exchange that is being settled at this moment is waited for, and the next
# statement sees how it ended.
_TIE = """
UPDATE gateway.exchange SET accounts = accounts || :key
 WHERE {in_scope} AND state = 'open' AND NOT :key = ANY(accounts)
"""
_SEED = """
UPDATE gateway.account SET
    used_tokens = s.tokens, used_nusd = s.nusd, used_wall_ms = s.wall_ms,
    used_requests = s.requests, reserved_tokens = s.held_tokens, reserved_nusd = s.held_nusd,
    reserved_wall_ms = s.held_wall_ms
  FROM (SELECT coalesce(sum(charged_tokens), 0) AS tokens, coalesce(sum(charged_nusd), 0) AS nusd,
               coalesce(sum(duration_ms), 0) AS wall_ms, count(*) AS requests,
               coalesce(sum(reserved_tokens) FILTER (WHERE state = 'open'), 0) AS held_tokens,
               coalesce(sum(reserved_nusd) FILTER (WHERE state = 'open'), 0) AS held_nusd,
               coalesce(sum(reserved_wall_ms) FILTER (WHERE state = 'open'), 0) AS held_wall_ms
          FROM gateway.exchange WHERE {in_scope}) s
 WHERE scope = :scope AND subject = :subject
"""
# A text for each, so that each has one plan: by the index of its scope.
_IN_SCOPE = {
    "task": "task_id = :task_id",
    "attempt": "attempt_id = :attempt_id",
    **dict.fromkeys(
        ("project", "day", "minute"), "project_id = :project_id AND started_at >= :since"
    ),
}
_TAKE_OVER = {
    scope: [text(each.format(in_scope=in_scope)) for each in (_TIE, _SEED)]
    for scope, in_scope in _IN_SCOPE.items()
}
_HOLD = text("""
UPDATE gateway.account SET reserved_tokens = reserved_tokens + :tokens,
       reserved_nusd = reserved_nusd + :nusd, reserved_wall_ms = reserved_wall_ms + :wall_ms,
       used_requests = used_requests + :requests
 WHERE (scope, subject) IN (SELECT * FROM unnest(CAST(:scopes AS text[]),
                                                 CAST(:subjects AS text[])))
""")
_SETTLE = text("""
UPDATE gateway.account SET
    reserved_tokens = reserved_tokens - :held_tokens, used_tokens = used_tokens + :tokens,
    reserved_nusd = reserved_nusd - :held_nusd, used_nusd = used_nusd + :nusd,
    reserved_wall_ms = reserved_wall_ms - :held_wall_ms, used_wall_ms = used_wall_ms + :wall_ms
 WHERE (scope, subject) IN (
    SELECT scope, subject FROM gateway.account
     WHERE (scope, subject) IN (SELECT * FROM unnest(CAST(:scopes AS text[]),
                                                     CAST(:subjects AS text[])))
     ORDER BY array_position(ARRAY['project', 'day', 'minute', 'task', 'attempt'], scope)
       FOR UPDATE)
""")
_FORGET = text("""
DELETE FROM gateway.account WHERE scope = 'minute'
   AND created_at < now() - make_interval(secs => :kept_s)
""")


@dataclass(frozen=True)
class Subjects:
    """Of one exchange: whose, and when it began."""

    project_id: str
    task_id: str
    attempt_id: str
    started_at: datetime

    def of(self, scope: str) -> str:
        at = self.started_at.astimezone(UTC)
        match scope:
            case "project":
                return self.project_id
            case "day":
                return f"{self.project_id} {at:%Y-%m-%d}"
            case "minute":
                return f"{self.project_id} {at:%Y-%m-%dT%H:%M}"
            case "task":
                return self.task_id
        return self.attempt_id

    def key(self, scope: str) -> str:
        return f"{scope} {self.of(scope)}"

    def seconds_to_next_minute(self) -> float:
        return 60.0 - self.started_at.astimezone(UTC).timestamp() % 60


async def lock(
    connection: Connection, limits: Sequence[SpendingLimit], subjects: Subjects
) -> list[Account]:
    """Of each limit, in the order of `limits`, which is the order of locks."""
    asked = {
        "scopes": [limit.scope for limit in limits],
        "subjects": [subjects.of(limit.scope) for limit in limits],
    }
    rows = (await connection.execute(_LOCK, asked)).all()
    if len(rows) < len(limits):
        known = {row.scope for row in rows}
        for limit in limits:
            if limit.scope not in known:
                await _make(connection, limit.scope, subjects)
        rows = (await connection.execute(_LOCK, asked)).all()
    taken = {r.scope: Amount(r.tokens, r.nusd, r.wall_ms, r.requests) for r in rows}
    return [Account(limit, taken[limit.scope]) for limit in limits]


async def _make(connection: Connection, scope: str, subjects: Subjects) -> None:
    made = await connection.execute(_MAKE, {"scope": scope, "subject": subjects.of(scope)})
    if made.rowcount == 0:  # another gateway was first
        return
    began = datetime(1970, 1, 1, tzinfo=UTC)
    at = subjects.started_at.astimezone(UTC)
    if scope == "day":
        began = at.replace(hour=0, minute=0, second=0, microsecond=0)
    elif scope == "minute":
        began = at.replace(second=0, microsecond=0)
    values = {
        "scope": scope,
        "subject": subjects.of(scope),
        "key": subjects.key(scope),
        "project_id": subjects.project_id,
        "since": began,
        "task_id": subjects.task_id,
        "attempt_id": subjects.attempt_id,
    }
    for statement in _TAKE_OVER[scope]:
        await connection.execute(statement, values)


async def hold(connection: Connection, keys: Sequence[str], amount: Amount) -> None:
    """Locked by `lock` before."""
    await connection.execute(_HOLD, {**_parts(keys), **vars(amount)})


async def settle(connection: Connection, keys: Sequence[str], held: Amount, used: Amount) -> None:
    if keys:
        values = {f"held_{name}": value for name, value in vars(held).items()}
        await connection.execute(_SETTLE, {**_parts(keys), **values, **vars(used)})


async def forget_minutes(connection: Connection) -> None:
    await connection.execute(_FORGET, {"kept_s": MINUTES_KEPT_S})


def _parts(keys: Sequence[str]) -> dict[str, Any]:
    split = [key.split(" ", 1) for key in keys]
    return {"scopes": [scope for scope, _ in split], "subjects": [subject for _, subject in split]}
