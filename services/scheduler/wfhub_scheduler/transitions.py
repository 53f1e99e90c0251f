"""Transitions: what the rule of states.py decided, written down, with its events.

`end_attempt` closes an attempt (the fence is its SQL); `advance` moves the task and its unit.
Both run in a transaction that holds the task's row lock.
Raises: LeaseLost (0 rows: another is current).
"""

import random
from dataclasses import dataclass
from typing import Any, assert_never

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from wfhub_common import ids
from wfhub_common.messages import (
    FINAL_TASK_STATES,
    AttemptState,
    Receipt,
    RunnerObservations,
    TaskState,
    UnitKind,
)

from wfhub_scheduler import fairness, stored_json, timing
from wfhub_scheduler.core import Tx
from wfhub_scheduler.outbox import emit
from wfhub_scheduler.rows import Attempt, Task, lease_lost
from wfhub_scheduler.states import (
    ENDED_AS,
    PUBLISH_TRIES_MAX,
    Effect,
    Facts,
    Rule,
    TaskEvent,
    attempt_may,
    decide,
)


@dataclass(frozen=True)
class Ending:
    """How an attempt ended, and what its runner saw."""

    to: AttemptState
    reason: str = ""
    message: str = ""
    retryable: bool = True
    receipts: tuple[Receipt, ...] = ()
    observed: RunnerObservations | None = None


_END_ATTEMPT = text("""
-- Only the current attempt may end, and only by its own runner; 0 rows = lease lost.
UPDATE sched.attempt a
   SET state = :to, reason = :reason, message = :message, finished_at = now(),
       observed = CAST(:observed AS jsonb), receipts = CAST(:receipts AS jsonb)
  FROM sched.task t
 WHERE a.attempt_id = :attempt_id AND t.task_id = a.task_id
   AND t.current_attempt = :attempt_id AND a.runner_id = :sender
   AND a.state IN ('leased', 'running', 'verifying')
   AND (NOT :expired OR a.lease_until < now())  -- a heartbeat may have come since we looked
""")
_UNIT_BACK = text("""
UPDATE sched.unit
   SET state = 'ready', tries = tries + :tries, losses = losses + :losses,
       run_at = now() + make_interval(secs => :delay_s)
 WHERE unit_id = :unit_id AND state = 'leased'
""")
_UNIT_OVER = text("""
UPDATE sched.unit SET state = :state, tries = tries + :tries, losses = losses + :losses
 WHERE unit_id = :unit_id AND state = 'leased'
""")
_UNIT_COUNTS = text("SELECT tries, losses FROM sched.unit WHERE unit_id = :unit_id")
_UNITS_DEAD = text("""
UPDATE sched.unit SET state = 'dead' WHERE task_id = :task_id AND state = 'ready'
""")
_PUBLISH_UNIT = text("""
INSERT INTO sched.unit (unit_id, task_id, project_id, kind, pool, priority, state)
VALUES (:unit_id, :task_id, :project_id, 'publish', :pool, :priority, 'ready')
""")
_MOVE_TASK = text("""
UPDATE sched.task
   SET state = :to, reason = :reason, message = :message, current_attempt = NULL,
       winner = coalesce(:winner, winner),
       attempts_used = attempts_used + :tries, infra_losses = infra_losses + :losses,
       seal_due_at = CASE WHEN :to = 'sealing' THEN now() END,
       branch = CASE WHEN :to = 'succeeded' THEN 'wfhub/' || task_id ELSE branch END,
       finished_at = CASE WHEN :final THEN now() END, updated_at = now()
 WHERE task_id = :task_id AND state = :from AND current_attempt IS NOT DISTINCT FROM :current
""")


async def end_attempt(
    tx: Tx, task: Task, attempt: Attempt, sender: str, ending: Ending, *, expired: bool = False
) -> None:
    if not attempt_may(attempt.state, ending.to):
        raise lease_lost(attempt.attempt_id)
    observed = None if ending.observed is None else stored_json.dumped(ending.observed)
    changed = await tx.connection.execute(
        _END_ATTEMPT,
        {
            "attempt_id": attempt.attempt_id,
            "sender": sender,
            "expired": expired,
            "to": ending.to.value,
            "reason": ending.reason,
            "message": ending.message,
            "observed": observed,
            "receipts": stored_json.dumped(list(ending.receipts)),
        },
    )
    if changed.rowcount == 0:
        raise lease_lost(attempt.attempt_id)
    await attempt_event(tx.connection, task, attempt, ending.to, ending.reason)
    await fairness.release(tx.connection, task.pool, task.project_id)
    tx.after.ended.append(attempt.attempt_id)
    tx.after.units_ready = True  # a place below the project's limit came free


async def ended(tx: Tx, task: Task, attempt: Attempt, ending: Ending) -> TaskState:
    """The task after its current attempt ended."""
    event = ENDED_AS[ending.to]
    lost = event is TaskEvent.LOST
    counts = (await tx.connection.execute(_UNIT_COUNTS, {"unit_id": attempt.unit_id})).one()
    agent = attempt.kind is UnitKind.AGENT
    facts = Facts(
        cancel_requested=task.cancel_requested,
        retryable=ending.retryable,
        tries=counts.tries + (not lost),
        losses=counts.losses + lost,
        tries_max=task.attempts_max if agent else PUBLISH_TRIES_MAX,
    )
    rule = decide(task.state, event, facts)
    if rule is None:
        raise lease_lost(attempt.attempt_id)
    counted = {"unit_id": attempt.unit_id, "tries": int(not lost), "losses": int(lost)}
    luck = random.random()  # noqa: S311 - jitter
    match rule.effect:
        case Effect.RETRY | Effect.REQUEUE:
            delay_s = (
                timing.retry_delay_s(tx.timing.retry_base_s, facts.tries, luck)
                if rule.effect is Effect.RETRY
                else timing.loss_delay_s(facts.losses, luck)
            )
            await tx.connection.execute(_UNIT_BACK, {**counted, "delay_s": delay_s})
        case Effect.SEAL | Effect.FINISH:
            await tx.connection.execute(_UNIT_OVER, {**counted, "state": "done"})
            tx.after.seal_due = rule.effect is Effect.SEAL
        case Effect.END:
            await tx.connection.execute(_UNIT_OVER, {**counted, "state": "dead"})
        case Effect.LEASE | Effect.TELL | Effect.PUBLISH:
            raise AssertionError(f"{rule.effect} does not follow the end of an attempt")
        case _:
            assert_never(rule.effect)
    await move_task(
        tx,
        task,
        rule,
        reason=ending.reason,
        message=ending.message,
        winner=attempt.attempt_id if rule.effect is Effect.SEAL else None,
        tries=int(agent and not lost),
        losses=int(lost),
    )
    return rule.to


async def add_publish_unit(tx: Tx, task: Task) -> None:
    await tx.connection.execute(
        _PUBLISH_UNIT,
        {
            "unit_id": ids.new_unit_id(),
            "task_id": task.task_id,
            "project_id": task.project_id,
            "pool": task.pool,
            "priority": task.priority,
        },
    )
    tx.after.units_ready = True


async def kill_ready_units(tx: Tx, task: Task) -> None:
    await tx.connection.execute(_UNITS_DEAD, {"task_id": task.task_id})


async def move_task(
    tx: Tx,
    task: Task,
    rule: Rule,
    *,
    reason: str = "",
    message: str = "",
    winner: str | None = None,
    tries: int = 0,
    losses: int = 0,
) -> None:
    reason = reason if rule.reason is None else rule.reason
    if rule.to is TaskState.CANCELLED and task.cancel_requested:
        message = task.cancel_reason
    changed = await tx.connection.execute(
        _MOVE_TASK,
        {
            "task_id": task.task_id,
            "from": task.state.value,
            "to": rule.to.value,
            "reason": reason,
            "message": message,
            "current": task.current_attempt,
            "winner": winner,
            "tries": tries,
            "losses": losses,
            "final": rule.to in FINAL_TASK_STATES,
        },
    )
    assert changed.rowcount == 1, "the task changed under its own lock"
    if rule.to != task.state:
        data = {
            "from": task.state.value,
            "to": rule.to.value,
            "reason": reason,
            "message": message,
        }
        await task_event(tx.connection, task, "task.state_changed", data)


async def task_event(
    connection: AsyncConnection, task: Task, type_: str, data: dict[str, Any]
) -> None:
    await emit(
        connection, type_, task.task_id, data, project_id=task.project_id, task_id=task.task_id
    )


async def attempt_event(
    connection: AsyncConnection, task: Task, attempt: Attempt, to: AttemptState, reason: str = ""
) -> None:
    data = {
        "task_id": task.task_id,
        "from": attempt.state.value,
        "to": to.value,
        "reason": reason,
        "number": attempt.number,
        "kind": attempt.kind.value,
        "runner_id": attempt.runner_id,
    }
    await emit(
        connection,
        "attempt.state_changed",
        attempt.attempt_id,
        data,
        project_id=task.project_id,
        task_id=task.task_id,
    )
