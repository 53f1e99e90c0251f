"""Command `register`, and the loss of a runner's attempts.

A runner is its NATS identity (the sender); an incarnation is one process of it. An attempt is lost
when its lease ran out, or when its runner registered anew and does not hold it any more: an
infrastructure loss, which uses up no attempt.
Raises: nothing of its own.
"""

from contextlib import suppress
from datetime import UTC, datetime
from functools import partial

from sqlalchemy import text
from wfhub_common.errors import LeaseLost
from wfhub_common.log import get_logger
from wfhub_common.messages import Register, Registered

from wfhub_scheduler import stored_json
from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.heartbeats import why_over
from wfhub_scheduler.rows import TASK_COLUMNS, as_task
from wfhub_scheduler.states import AttemptEvent
from wfhub_scheduler.sweeping import SWEPT, swept
from wfhub_scheduler.transitions import Ending, Transitions

LOSE_AT_ONCE = 200  # attempts in one transaction; the next one follows at once
RUNNER_RESTARTED = "runner-restarted"

log = get_logger(__name__)

_REGISTER = text("""
INSERT INTO sched.runner (runner_id, incarnation, name, slots, labels, backend, version, pool)
VALUES (:runner_id, :incarnation, :name, :slots, CAST(:labels AS jsonb), :backend, :version, :pool)
ON CONFLICT (runner_id) DO UPDATE
   SET incarnation = excluded.incarnation, name = excluded.name, slots = excluded.slots,
       labels = excluded.labels, backend = excluded.backend, version = excluded.version,
       pool = excluded.pool, registered_at = now(), seen_at = now()
""")
_KEEP = text("""
-- Finished, and on its runner's disk: from now on the new process's own. Its heartbeat renews it.
UPDATE sched.attempt a SET incarnation = :incarnation
  FROM (SELECT m.attempt_id FROM sched.attempt m
          JOIN sched.task t ON t.task_id = m.task_id AND t.current_attempt = m.attempt_id
         WHERE m.attempt_id = ANY(CAST(:holds AS text[])) AND m.runner_id = :runner_id
           AND m.state IN ('leased', 'running', 'verifying')
         ORDER BY m.attempt_id FOR NO KEY UPDATE OF m) held
 WHERE a.attempt_id = held.attempt_id
RETURNING a.attempt_id
""")
_EARLIER = text("""
SELECT attempt_id FROM sched.attempt
 WHERE runner_id = :runner_id AND incarnation <> :incarnation
   AND state IN ('leased', 'running', 'verifying') ORDER BY attempt_id
""")
_EXPIRED = text(f"""
-- Tasks that another sweeper or a completion holds are left to it.
SELECT a.attempt_id AS over, {TASK_COLUMNS}
  FROM sched.attempt a JOIN sched.task t ON t.task_id = a.task_id
 WHERE a.state IN ('leased', 'running', 'verifying') AND a.lease_until < now()
   AND t.current_attempt = a.attempt_id AND {SWEPT}
 ORDER BY a.lease_until LIMIT :count FOR UPDATE OF t SKIP LOCKED
""")  # noqa: S608 - our own column list


async def register(core: Core, sender: str, command: Register) -> Registered:
    incarnation = stored_json.clean(command.incarnation)
    runner = {"runner_id": sender, "incarnation": incarnation}
    holds = [stored_json.clean(attempt_id) for attempt_id in command.holds]

    async def work(tx: Tx) -> tuple[list[str], list[str]]:
        row = {
            "name": stored_json.clean(command.name),
            "slots": command.slots,
            "labels": stored_json.dumped(command.labels),
            "backend": stored_json.clean(command.backend),
            "version": stored_json.clean(command.version),
            "pool": command.pool,
        }
        await tx.connection.execute(_REGISTER, {**runner, **row})
        kept: list[str] = []
        if holds:
            kept = list((await tx.connection.execute(_KEEP, {**runner, "holds": holds})).scalars())
        return kept, list((await tx.connection.execute(_EARLIER, runner)).scalars())

    # From the first commit on no claim of an earlier incarnation is admitted; a crash before the
    # last loss leaves the rest to the next register, or to their leases.
    kept, earlier = await core.commit(work)
    for start in range(0, len(earlier), LOSE_AT_ONCE):
        some = earlier[start : start + LOSE_AT_ONCE]
        await core.commit(
            partial(_lose_earlier, attempts=some, runner_id=sender, incarnation=incarnation)
        )
    log.info(
        "runner registered",
        runner_id=sender,
        slots=command.slots,
        lost=len(earlier),
        kept=len(kept),
    )
    timing = core.timing
    return Registered(
        heartbeat_s=timing.heartbeat_s,
        lease_ttl_s=timing.lease_ttl_s,
        kept=tuple(kept),
        time=datetime.now(UTC),
        takes_token_keys=True,
    )


async def lose_expired(core: Core) -> bool:
    """End attempts whose lease ran out, all in one transaction; True: there may be more."""

    async def work(tx: Tx, only: str | None, tasks: list[str]) -> int:
        of = {"count": LOSE_AT_ONCE, "only": only}
        found = (await tx.connection.execute(_EXPIRED, of)).all()
        if not found:
            return 0
        tasks += [row.task_id for row in found]
        moves = Transitions(tx, {row.task_id: as_task(row) for row in found})
        attempts = [row.over for row in found]
        await moves.lock_attempts(attempts)
        for attempt_id in attempts:
            _, attempt = moves.attempt(attempt_id)
            reason = why_over(attempt, core.timing)
            _lose(moves, attempt_id, attempt.runner_id, AttemptEvent.LEASE_OVER, reason)
        await moves.write()
        return len(found)

    return await swept(core, work) == LOSE_AT_ONCE


async def _lose_earlier(tx: Tx, *, attempts: list[str], runner_id: str, incarnation: str) -> None:
    moves = await Transitions.of_attempts(tx, attempts)
    for attempt_id in attempts:
        event = AttemptEvent.RUNNER_ANEW
        _lose(moves, attempt_id, runner_id, event, RUNNER_RESTARTED, process=incarnation)
    await moves.write()


def _lose(
    moves: Transitions,
    attempt_id: str,
    runner_id: str,
    event: AttemptEvent,
    reason: str,
    *,
    process: str | None = None,
) -> None:
    ending = Ending(event, reason, "the runner was lost while it worked on this")
    with suppress(LeaseLost):  # it ended, or was renewed, before we had the lock
        to = moves.end(attempt_id, runner_id, ending, process=process)
        log.warning(
            "attempt lost",
            attempt_id=attempt_id,
            runner_id=runner_id,
            reason=reason,
            task_state=to.value,
        )
