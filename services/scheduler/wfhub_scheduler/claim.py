"""Command `claim`: units for a runner's free slots, leased, each with an attempt of its own.

A claim_id stands for one answer: asked again, the same attempts come back (those still live), with
a lease renewed and a *new* token. We store only a token's hash, so the old one cannot be told
again; since the runner asks again only when no answer reached it, nobody holds the old one.
All schedulers compete; SKIP LOCKED lets no two lease one unit. Waiting is a long poll: woken by a
hint, and looking each CLAIM_POLL_S anyway.
Raises: Rejected (409 `runner-unknown`, `incarnation-stale`: register first).
"""

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from wfhub_common import httpauth, ids
from wfhub_common.errors import Rejected
from wfhub_common.messages import (
    BUNDLE_ARTIFACT,
    Assignment,
    AttemptState,
    Claim,
    Claimed,
    PublishOrder,
    TaskSpec,
    TaskState,
    UnitKind,
)

from wfhub_scheduler import fairness, stored_json
from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.outbox import emit
from wfhub_scheduler.states import Facts, TaskEvent, decide

CLAIM_POLL_S = 1.0
CLAIM_BATCH_MAX = 4  # units of one project under one lock: then another's turn

_ONE_AT_A_TIME = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")
_RUNNER = text("SELECT incarnation FROM sched.runner WHERE runner_id = :runner_id FOR SHARE")
_SAME_CLAIM = text("""
SELECT attempt_id, state IN ('leased', 'running', 'verifying') AS live, kind
  FROM sched.attempt WHERE runner_id = :runner_id AND claim_id = :claim_id ORDER BY claim_slot
""")
_REMINT = text("""
UPDATE sched.attempt
   SET token_sha256 = :token_sha256, lease_until = now() + make_interval(secs => :ttl_s)
 WHERE attempt_id = :attempt_id AND state IN ('leased', 'running', 'verifying')
""")
_UNITS = text("""
-- What finishes a task goes first, then by priority and age.
SELECT u.unit_id, u.task_id, u.project_id, u.kind, u.tries + u.losses + 1 AS number, t.state
  FROM sched.unit u JOIN sched.task t USING (task_id)
 WHERE u.state = 'ready' AND u.pool = :pool AND u.project_id = :project_id
   AND u.run_at <= now() AND u.kind = ANY(CAST(:kinds AS text[]))
 ORDER BY u.kind = 'publish' DESC, u.priority DESC, u.created_at, u.unit_id
 LIMIT :count FOR UPDATE OF t, u SKIP LOCKED
""")
_LEASE_UNIT = text("UPDATE sched.unit SET state = 'leased' WHERE unit_id = :unit_id")
_NEW_ATTEMPT = text("""
INSERT INTO sched.attempt (attempt_id, unit_id, task_id, project_id, kind, number, runner_id,
                           incarnation, claim_id, claim_slot, state, lease_until, token_sha256)
VALUES (:attempt_id, :unit_id, :task_id, :project_id, :kind, :number, :runner_id,
        :incarnation, :claim_id, :claim_slot, 'leased',
        now() + make_interval(secs => :ttl_s), :token_sha256)
""")
_MAKE_CURRENT = text("""
UPDATE sched.task SET state = :to, current_attempt = :attempt_id, updated_at = now(),
       reason = '', message = ''
 WHERE task_id = :task_id AND state = :from AND current_attempt IS NULL
""")
_ASSIGNMENT = text("""
SELECT a.attempt_id, a.task_id, a.project_id, p.name AS project, a.kind, a.number, a.lease_until,
       t.spec, t.commit_id, t.base_commit,
       (SELECT r ->> 'digest' FROM sched.attempt w, jsonb_array_elements(w.receipts) r
         WHERE w.attempt_id = t.winner AND r ->> 'name' = :bundle LIMIT 1) AS bundle_digest
  FROM sched.attempt a JOIN sched.task t USING (task_id)
  JOIN sched.project p ON p.project_id = a.project_id
 WHERE a.attempt_id = :attempt_id
""")


@dataclass(frozen=True)
class _Asker:
    runner_id: str
    incarnation: str
    claim_id: str


async def claim(core: Core, sender: str, command: Claim) -> Claimed:
    asker = _Asker(
        sender, stored_json.clean(command.incarnation), stored_json.clean(command.claim_id)
    )
    give_up_at = time.monotonic() + command.wait_s
    while True:
        ticket = core.units.ticket()
        claimed = await core.commit(lambda tx: _claim_once(tx, asker, command))
        left_s = give_up_at - time.monotonic()
        if claimed is not None or left_s <= 0 or core.units.closed:
            return claimed or Claimed()
        await ticket.wait(min(left_s, CLAIM_POLL_S))


async def _claim_once(tx: Tx, asker: _Asker, command: Claim) -> Claimed | None:
    # The same claim twice at once (a retry that overtook): the second sees what the first got.
    name = f"claim {asker.runner_id} {asker.claim_id}"
    await tx.connection.execute(_ONE_AT_A_TIME, {"name": name})
    await _admit(tx, asker)
    at = {"runner_id": asker.runner_id, "claim_id": asker.claim_id}
    same = (await tx.connection.execute(_SAME_CLAIM, at)).all()
    if same:
        live = [row for row in same if row.live]
        return Claimed(
            assignments=tuple([await _given_again(tx, r.attempt_id, r.kind) for r in live])
        )
    assignments = await _take_units(tx, asker, command)
    return Claimed(assignments=tuple(assignments)) if assignments else None


async def _admit(tx: Tx, asker: _Asker) -> None:
    """Shared lock on the runner's row: a new incarnation waits for this claim, then loses it."""
    row = (await tx.connection.execute(_RUNNER, {"runner_id": asker.runner_id})).one_or_none()
    if row is None:
        raise Rejected("runner-unknown", "this runner is not registered: register", status=409)
    if row.incarnation != asker.incarnation:
        raise Rejected(
            "incarnation-stale",
            "another process of this runner registered since: end this one, or register again",
            status=409,
        )


async def _take_units(tx: Tx, asker: _Asker, command: Claim) -> list[Assignment]:
    assignments: list[Assignment] = []
    tried: list[str] = []
    wanted: dict[str, Any] = {"pool": command.pool, "kinds": [kind.value for kind in command.kinds]}
    while (free := command.slots - len(assignments)) > 0:
        turn = await fairness.next_project(tx.connection, **wanted, tried=tried)
        if turn is None:
            break
        at = {**wanted, "project_id": turn.project_id}
        count = min(free, turn.room, CLAIM_BATCH_MAX)
        units = (await tx.connection.execute(_UNITS, {**at, "count": count})).all()
        if not units:
            tried.append(turn.project_id)
            continue
        for unit in units:
            assignments.append(await _lease(tx, asker, unit, slot=len(assignments)))
        await fairness.take(tx.connection, command.pool, turn.project_id, len(units))
    return assignments


async def _lease(tx: Tx, asker: _Asker, unit: Any, *, slot: int) -> Assignment:
    attempt_id, (token, sha256) = ids.new_attempt_id(), _mint(unit.kind)
    state = TaskState(unit.state)
    rule = decide(state, TaskEvent.CLAIMED, Facts())
    assert rule is not None, f"a unit of a {state} task was ready"
    await tx.connection.execute(_LEASE_UNIT, {"unit_id": unit.unit_id})
    of_task = {"task_id": unit.task_id, "project_id": unit.project_id}
    row = {"attempt_id": attempt_id, "unit_id": unit.unit_id, "kind": unit.kind}
    await tx.connection.execute(
        _NEW_ATTEMPT,
        {
            **of_task,
            **row,
            "number": unit.number,
            "runner_id": asker.runner_id,
            "incarnation": asker.incarnation,
            "claim_id": asker.claim_id,
            "claim_slot": slot,
            "ttl_s": tx.timing.lease_ttl_s,
            "token_sha256": sha256,
        },
    )
    moved = await tx.connection.execute(
        _MAKE_CURRENT,
        {
            "task_id": unit.task_id,
            "attempt_id": attempt_id,
            "from": state.value,
            "to": rule.to.value,
        },
    )
    assert moved.rowcount == 1, "the task changed under its own lock"
    data = {
        "task_id": unit.task_id,
        "from": None,
        "to": AttemptState.LEASED.value,
        "reason": "",
        "number": unit.number,
        "kind": unit.kind,
        "runner_id": asker.runner_id,
    }
    await emit(tx.connection, "attempt.state_changed", attempt_id, data, **of_task)
    if rule.to != state:
        data = {"from": state.value, "to": rule.to.value, "reason": "", "message": ""}
        await emit(tx.connection, "task.state_changed", unit.task_id, data, **of_task)
    return await _assignment(tx.connection, attempt_id, token)


async def _given_again(tx: Tx, attempt_id: str, kind: str) -> Assignment:
    token, sha256 = _mint(kind)
    renewal = {"attempt_id": attempt_id, "token_sha256": sha256, "ttl_s": tx.timing.lease_ttl_s}
    await tx.connection.execute(_REMINT, renewal)
    return await _assignment(tx.connection, attempt_id, token)


def _mint(kind: str) -> tuple[str, str | None]:
    """A token and its SHA-256; only agents talk to models."""
    if kind != UnitKind.AGENT:
        return "", None
    token = httpauth.new_token(httpauth.ATTEMPT_TOKEN_PREFIX)
    return token, httpauth.token_sha256(token)


async def _assignment(connection: AsyncConnection, attempt_id: str, token: str) -> Assignment:
    wanted = {"attempt_id": attempt_id, "bundle": BUNDLE_ARTIFACT}
    row = (await connection.execute(_ASSIGNMENT, wanted)).one()
    lease_until: datetime = row.lease_until
    kind = UnitKind(row.kind)
    return Assignment(
        attempt_id=attempt_id,
        task_id=row.task_id,
        project_id=row.project_id,
        project=row.project,
        kind=kind,
        number=row.number,
        spec=TaskSpec.model_validate(row.spec),
        lease_until=lease_until,
        token=token,
        publish=publish_order(row) if kind is UnitKind.PUBLISH else None,
    )


def publish_order(row: Any) -> PublishOrder:
    return PublishOrder(
        bundle_digest=row.bundle_digest,
        commit=row.commit_id,
        base_commit=row.base_commit or "",
        branch_ref=f"refs/heads/wfhub/{row.task_id}",
        marker_ref=f"refs/wfhub/published/{row.task_id}",
    )
