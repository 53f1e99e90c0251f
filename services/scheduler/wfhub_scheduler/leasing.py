"""Leasing: units found for runners become attempts, all of a group in a few statements.

`pick` locks units that wait (and their tasks), publications first, then by priority and age;
`lease` makes them attempts of the given runners and tells of it. Both in the claim's transaction,
which holds the pool (fairness.py), so that only an end or a cancel of the task can be in the way:
such units are skipped.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from wfhub_common import httpauth, ids
from wfhub_common.messages import (
    BUNDLE_ARTIFACT,
    Assignment,
    AttemptState,
    PublishOrder,
    TaskState,
    UnitKind,
)
from wfhub_common.sql import Connection

from wfhub_scheduler import specs
from wfhub_scheduler.core import Leased, Tx
from wfhub_scheduler.fairness import ADVANCE, NOT_HELD, STARTED_WHILE_PAUSED, Share
from wfhub_scheduler.heartbeats import ENDS_AT, ends
from wfhub_scheduler.outbox import EVENTS, Event, execute_telling
from wfhub_scheduler.rows import SAME_TIMES
from wfhub_scheduler.states import Facts, TaskEvent, decide

UNREADABLE_S = 60.0  # a task whose spec this version cannot read waits; a newer one may come
FIELDS_BYTES = 1024  # of an assignment, beside its spec and MCP servers

_OF_TASK = f"""
       CAST(t.spec AS text) AS spec, t.traceparent, t.commit_id, t.base_commit, p.name AS project,
       p.mcp, p.debuggers,
       CASE WHEN t.winner IS NOT NULL THEN (
           SELECT r ->> 'digest' FROM sched.attempt w, jsonb_array_elements(w.receipts) r
            WHERE w.attempt_id = t.winner AND r ->> 'name' = '{BUNDLE_ARTIFACT}' LIMIT 1)
       END AS bundle_digest
"""  # noqa: S608 - our own text
_PICK = text(f"""
WITH picked AS MATERIALIZED (
    SELECT best.* FROM unnest(CAST(:projects AS text[]), CAST(:counts AS integer[]),
                              CAST(:paused AS boolean[])) AS a (project_id, count, paused)
     CROSS JOIN LATERAL (
        SELECT first.*, k.rank
          FROM sched.lane l
         CROSS JOIN unnest(CAST(:kinds AS text[])) WITH ORDINALITY AS k (kind, rank)
         CROSS JOIN LATERAL (
            SELECT u.unit_id, u.priority, u.created_at FROM sched.unit u
             WHERE u.lane_id = l.lane_id AND u.kind = k.kind AND u.state = 'ready' AND u.due
               AND u.run_at <= clock_timestamp()
               AND {NOT_HELD}
             ORDER BY u.priority DESC, u.created_at LIMIT a.count) first
         WHERE l.pool = :pool AND l.project_id = a.project_id
           AND l.labels <@ CAST(:labels AS text[])
           AND (NOT a.paused OR k.kind = '{STARTED_WHILE_PAUSED}')
         ORDER BY k.rank, first.priority DESC, first.created_at LIMIT a.count) best)
SELECT u.unit_id, u.task_id, u.project_id, u.kind, u.tries + u.losses + 1 AS number, t.state,
       u.exclusive, u.pool,
       CAST(extract(epoch FROM clock_timestamp() - greatest(u.created_at, u.run_at))
            AS double precision) AS waited_s,
       {_OF_TASK}
  FROM picked b JOIN sched.unit u USING (unit_id) JOIN sched.task t USING (task_id)
  JOIN sched.project p ON p.project_id = u.project_id
 WHERE u.state = 'ready'
 ORDER BY b.rank, b.priority DESC, b.created_at
   FOR UPDATE OF t, u SKIP LOCKED
""")  # noqa: S608 - our own text
_LOCK_EXCLUSIVE = text("""
-- Units of other pools, and so other claims, may want the same. Not waited for: no deadlock.
SELECT name FROM unnest(CAST(:names AS text[])) AS n (name)
 WHERE pg_try_advisory_xact_lock(hashtextextended('exclusive ' || name, 0))
""")
_HELD = text("""
SELECT exclusive FROM sched.unit
 WHERE state = 'leased' AND exclusive = ANY(CAST(:names AS text[]))
""")
_LEASE = text(f"""
WITH given AS (
    SELECT * FROM unnest(
        CAST(:attempt_ids AS text[]), CAST(:unit_ids AS text[]), CAST(:task_ids AS text[]),
        CAST(:project_ids AS text[]), CAST(:kinds AS text[]), CAST(:numbers AS integer[]),
        CAST(:runner_ids AS text[]), CAST(:incarnations AS text[]), CAST(:claim_ids AS text[]),
        CAST(:claim_slots AS integer[]), CAST(:sha256s AS text[]), CAST(:from_states AS text[]),
        CAST(:to_states AS text[]))
      AS g (attempt_id, unit_id, task_id, project_id, kind, number, runner_id, incarnation,
            claim_id, claim_slot, token_sha256, from_state, to_state)),
leased AS (
    UPDATE sched.unit u SET state = 'leased' FROM given g
     WHERE u.unit_id = g.unit_id AND u.state = 'ready' RETURNING u.unit_id),
moved AS (
    UPDATE sched.task t SET state = g.to_state, current_attempt = g.attempt_id,
           reason = '', message = '', updated_at = now(), {SAME_TIMES}
      FROM given g
     WHERE t.task_id = g.task_id AND t.state = g.from_state AND t.current_attempt IS NULL
    RETURNING t.task_id),
made AS (
    INSERT INTO sched.attempt (attempt_id, unit_id, task_id, project_id, kind, number, runner_id,
                               incarnation, claim_id, claim_slot, state, lease_until, token_sha256)
    SELECT g.attempt_id, g.unit_id, g.task_id, g.project_id, g.kind, g.number, g.runner_id,
           g.incarnation, g.claim_id, g.claim_slot, 'leased',
           now() + make_interval(secs => :ttl_s), g.token_sha256
      FROM given g
    RETURNING lease_until),
{ADVANCE}, {EVENTS}
SELECT (SELECT count(*) FROM leased) AS leased, (SELECT count(*) FROM moved) AS moved,
       count(*) AS made, min(lease_until) AS lease_until
  FROM made
""")  # noqa: S608 - our own text
_REMINT = text(f"""
UPDATE sched.attempt a
   SET token_sha256 = n.token_sha256,
       lease_until = least(now() + make_interval(secs => :ttl_s), {ENDS_AT})
  FROM unnest(CAST(:attempt_ids AS text[]), CAST(:sha256s AS text[]))
       AS n (attempt_id, token_sha256), sched.task t, sched.project p
 WHERE a.attempt_id = n.attempt_id AND t.task_id = a.task_id AND p.project_id = a.project_id
   AND a.state || '' IN ('leased', 'running', 'verifying')  -- found by its id alone
RETURNING a.attempt_id, a.task_id, a.project_id, a.kind, a.number, a.lease_until, {_OF_TASK}
""")  # noqa: S608 - our own text
_PUT_OFF = text("""
UPDATE sched.unit SET due = false, run_at = now() + make_interval(secs => :seconds)
 WHERE task_id = :task_id AND state = 'ready'
""")


@dataclass(frozen=True)
class Holder:
    """Who gets a unit: a runner's process, for one slot of one claim. `token_key`: the claim's."""

    runner_id: str
    incarnation: str
    claim_id: str
    slot: int
    token_key: str


async def pick(
    connection: Connection,
    pool: str,
    kinds: Sequence[str],
    labels: Collection[str],
    allotted: Mapping[Share, int],
) -> list[Any]:
    """Rows of units and their tasks, locked: the best of each project, or fewer."""
    found = await connection.execute(
        _PICK,
        {
            "pool": pool,
            "kinds": list(kinds),
            "labels": list(labels),
            "projects": [share.project_id for share in allotted],
            "counts": list(allotted.values()),
            "paused": [share.paused for share in allotted],
        },
    )
    return await _alone(connection, list(found))


async def _alone(connection: Connection, units: list[Any]) -> list[Any]:
    """Without those that want exclusively what another unit has, or one before them gets."""
    wanted = sorted({unit.exclusive for unit in units} - {None})
    if not wanted:
        return units
    locked = set((await connection.execute(_LOCK_EXCLUSIVE, {"names": wanted})).scalars())
    # A statement of its own: it sees what was committed before the locks were ours.
    free = locked - set((await connection.execute(_HELD, {"names": wanted})).scalars())
    alone = []
    for unit in units:
        if unit.exclusive is None or unit.exclusive in free:
            free.discard(unit.exclusive)
            alone.append(unit)
    return alone


async def lease(
    tx: Tx, units: Sequence[Any], holders: Sequence[Holder], clocks: Mapping[str, Any]
) -> list[Assignment]:
    """An attempt for each picked unit, in that order. `clocks`: of fairness.advanced."""
    attempt_ids = ids.new_attempt_ids(len(units))
    tokens = [
        _mint(unit.kind, attempt_id, holder.token_key)
        for unit, attempt_id, holder in zip(units, attempt_ids, holders, strict=True)
    ]
    moves = [_claimed(unit.state) for unit in units]
    events: list[Event] = []
    for unit, holder, attempt_id, to in zip(units, holders, attempt_ids, moves, strict=True):
        events += _events(unit, holder, attempt_id, to)
    made = await execute_telling(
        tx.connection,
        _LEASE,
        {
            "attempt_ids": attempt_ids,
            "unit_ids": [unit.unit_id for unit in units],
            "task_ids": [unit.task_id for unit in units],
            "project_ids": [unit.project_id for unit in units],
            "kinds": [unit.kind for unit in units],
            "numbers": [unit.number for unit in units],
            "runner_ids": [holder.runner_id for holder in holders],
            "incarnations": [holder.incarnation for holder in holders],
            "claim_ids": [holder.claim_id for holder in holders],
            "claim_slots": [holder.slot for holder in holders],
            "sha256s": [sha256 for _, sha256 in tokens],
            "from_states": [unit.state for unit in units],
            "to_states": [to.value for to in moves],
            "ttl_s": tx.timing.lease_ttl_s,
            **clocks,
        },
        events,
    )
    of = made.one()
    # Else the transaction is given up.
    assert {of.leased, of.moved, of.made} == {len(units)}, "a task changed under its own lock"
    until: datetime = of.lease_until
    assignments: list[Assignment] = []
    for unit, attempt_id, (token, _) in zip(units, attempt_ids, tokens, strict=True):
        assignments.append(_assignment(unit, attempt_id, unit.number, until, token))
        tx.after.leased.append(_leased(unit, attempt_id))
    return assignments


async def put_off(tx: Tx, task_id: str) -> bool:
    """What waits of a task is not looked at for UNREADABLE_S: it keeps nobody from the rest. False:
    nothing of it waits."""
    of = {"task_id": task_id, "seconds": UNREADABLE_S}
    return (await tx.connection.execute(_PUT_OFF, of)).rowcount > 0


async def given_again(tx: Tx, attempts: Mapping[str, tuple[str, str]]) -> dict[str, Assignment]:
    """Live attempts (id → kind, key of the claim) for who did not hear of them: renewed."""
    tokens = {
        attempt_id: _mint(kind, attempt_id, key) for attempt_id, (kind, key) in attempts.items()
    }
    rows = await tx.connection.execute(
        _REMINT,
        {
            "attempt_ids": list(tokens),
            "sha256s": [sha256 for _, sha256 in tokens.values()],
            "ttl_s": tx.timing.lease_ttl_s,
            **ends(tx.timing),
        },
    )
    return {
        row.attempt_id: _assignment(
            row, row.attempt_id, row.number, row.lease_until, tokens[row.attempt_id][0]
        )
        for row in rows
    }


def answer_bytes(unit: Any) -> int:
    """About what its assignment takes of an answer: specs in Postgres's spelling are longer."""
    mcp = 0 if not unit.mcp or unit.kind != UnitKind.AGENT else len(json.dumps(unit.mcp))
    return len(unit.spec.encode()) + mcp + FIELDS_BYTES


def _leased(unit: Any, attempt_id: str) -> Leased:
    return Leased(
        attempt_id,
        unit.task_id,
        unit.pool,
        unit.kind,
        waited_s=unit.waited_s,
        traceparent=unit.traceparent or "",
    )


def _claimed(state: str) -> TaskState:
    rule = decide(TaskState(state), TaskEvent.CLAIMED, Facts())
    assert rule is not None, f"a unit of a {state} task was ready"
    return rule.to


def _events(unit: Any, holder: Holder, attempt_id: str, to: TaskState) -> list[Event]:
    at = {"project_id": unit.project_id, "task_id": unit.task_id}
    leased = {
        "task_id": unit.task_id,
        "from": None,
        "to": AttemptState.LEASED.value,
        "reason": "",
        "number": unit.number,
        "kind": unit.kind,
        "runner_id": holder.runner_id,
    }
    events = [Event("attempt.state_changed", attempt_id, leased, **at)]
    if to != unit.state:
        moved = {"from": unit.state, "to": to.value, "reason": "", "message": ""}
        events.append(Event("task.state_changed", unit.task_id, moved, **at))
    return events


def _mint(kind: str, attempt_id: str, key: str) -> tuple[str, str | None]:
    """A token and its SHA-256; only agents talk to models."""
    if kind != UnitKind.AGENT:
        return "", None
    token = httpauth.token_of(httpauth.ATTEMPT_TOKEN_PREFIX, attempt_id, key)
    return token, httpauth.token_sha256(token)


def _assignment(
    row: Any, attempt_id: str, number: int, lease_until: datetime, token: str
) -> Assignment:
    kind = UnitKind(row.kind)
    return Assignment(
        attempt_id=attempt_id,
        task_id=row.task_id,
        project_id=row.project_id,
        project=row.project,
        kind=kind,
        number=number,
        spec=specs.of(row.task_id, row.spec),
        lease_until=lease_until,
        token=token,
        publish=_publish_order(row) if kind is UnitKind.PUBLISH else None,
        traceparent=row.traceparent or "",
        mcp=row.mcp if kind is UnitKind.AGENT else {},
        debuggers=kind is UnitKind.AGENT and row.debuggers == "allow",
    )


def _publish_order(row: Any) -> PublishOrder:
    return PublishOrder(
        bundle_digest=row.bundle_digest,
        commit=row.commit_id,
        base_commit=row.base_commit or "",
        branch_ref=f"refs/heads/wfhub/{row.task_id}",
        marker_ref=f"refs/wfhub/published/{row.task_id}",
    )
