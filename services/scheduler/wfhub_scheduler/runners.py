"""Commands of a runner about itself: register, heartbeat; and the loss of its attempts.

A runner is its NATS identity (the sender); an incarnation is one process of it. A heartbeat
renews leases, all of a message in one statement. An attempt is lost when its lease ran out, or
when its runner registered anew; that is an infrastructure loss, it uses up no attempt.
Raises: nothing of its own.
"""

from contextlib import suppress

from sqlalchemy import text
from wfhub_common import db
from wfhub_common.errors import LeaseLost
from wfhub_common.log import get_logger
from wfhub_common.messages import AttemptState, Heartbeat, HeartbeatReply, Register, Registered

from wfhub_scheduler import stored_json
from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.rows import lock_attempt
from wfhub_scheduler.transitions import Ending, end_attempt, ended

EXPIRE_BATCH = 200  # leases looked at in one sweep; the next one follows at once

log = get_logger(__name__)

_REGISTER = text("""
INSERT INTO sched.runner (runner_id, incarnation, name, slots, labels, backend, version)
VALUES (:runner_id, :incarnation, :name, :slots, CAST(:labels AS jsonb), :backend, :version)
ON CONFLICT (runner_id) DO UPDATE
   SET incarnation = excluded.incarnation, name = excluded.name, slots = excluded.slots,
       labels = excluded.labels, backend = excluded.backend, version = excluded.version,
       registered_at = now(), seen_at = now()
""")
_EARLIER = text("""
SELECT attempt_id FROM sched.attempt
 WHERE runner_id = :runner_id AND incarnation <> :incarnation
   AND state IN ('leased', 'running', 'verifying') ORDER BY attempt_id
""")
_EXPIRED = text("""
SELECT attempt_id, runner_id FROM sched.attempt
 WHERE state IN ('leased', 'running', 'verifying') AND lease_until < now()
 ORDER BY lease_until LIMIT :count
""")
_RENEW = text("""
-- Only live attempts of this very process; what is missing from the answer is lost to it.
UPDATE sched.attempt a SET lease_until = now() + make_interval(secs => :ttl_s)
  FROM unnest(CAST(:attempts AS text[])) AS asked (attempt_id), sched.task t
 WHERE a.attempt_id = asked.attempt_id AND t.task_id = a.task_id
   AND t.current_attempt = a.attempt_id
   AND a.runner_id = :runner_id AND a.incarnation = :incarnation
   AND a.state IN ('leased', 'running', 'verifying')
RETURNING a.attempt_id, a.lease_until, t.cancel_requested
""")
_SEEN = text("""
UPDATE sched.runner SET seen_at = now()
 WHERE runner_id = :runner_id AND incarnation = :incarnation
""")


async def register(core: Core, sender: str, command: Register) -> Registered:
    runner = {"runner_id": sender, "incarnation": stored_json.clean(command.incarnation)}

    async def work(tx: Tx) -> list[str]:
        row = {
            "name": stored_json.clean(command.name),
            "slots": command.slots,
            "labels": stored_json.dumped(command.labels),
            "backend": stored_json.clean(command.backend),
            "version": stored_json.clean(command.version),
        }
        await tx.connection.execute(_REGISTER, {**runner, **row})
        return list((await tx.connection.execute(_EARLIER, runner)).scalars())

    # From the first commit on no claim of an earlier incarnation is admitted; a crash before the
    # last loss leaves the rest to the next register, or to their leases.
    earlier = await core.commit(work)
    for attempt_id in earlier:
        await lose(core, attempt_id, sender, reason="runner-restarted", if_expired=False)
    log.info("runner registered", runner_id=sender, slots=command.slots, lost=len(earlier))
    timing = core.timing
    return Registered(heartbeat_s=timing.heartbeat_s, lease_ttl_s=timing.lease_ttl_s)


async def heartbeat(core: Core, sender: str, command: Heartbeat) -> HeartbeatReply:
    asked = sorted(set(map(stored_json.clean, command.attempts)))
    runner = {"runner_id": sender, "incarnation": stored_json.clean(command.incarnation)}

    async def work(tx: Tx) -> HeartbeatReply:
        await tx.connection.execute(_SEEN, runner)
        renewal = {**runner, "attempts": asked, "ttl_s": core.timing.lease_ttl_s}
        rows = (await tx.connection.execute(_RENEW, renewal)).all() if asked else []
        lease_until = {row.attempt_id: row.lease_until for row in rows}
        return HeartbeatReply(
            lease_until=lease_until,
            cancel=tuple(row.attempt_id for row in rows if row.cancel_requested),
            lost=tuple(attempt_id for attempt_id in asked if attempt_id not in lease_until),
        )

    return await core.commit(work)


async def expired(core: Core) -> list[tuple[str, str]]:
    """Attempts, with their runners, whose lease ran out."""
    async with db.transaction(core.engine) as connection:
        rows = await connection.execute(_EXPIRED, {"count": EXPIRE_BATCH})
        return [(row.attempt_id, row.runner_id) for row in rows]


async def lose(
    core: Core, attempt_id: str, runner_id: str, *, reason: str, if_expired: bool
) -> None:
    """One transaction an attempt: no lock is held while another task's is waited for."""
    ending = Ending(AttemptState.LOST, reason, "the runner was lost while it worked on this")

    async def work(tx: Tx) -> None:
        task, attempt = await lock_attempt(tx.connection, attempt_id)
        await end_attempt(tx, task, attempt, runner_id, ending, expired=if_expired)
        to = await ended(tx, task, attempt, ending)
        log.warning(
            "attempt lost",
            attempt_id=attempt_id,
            task_id=task.task_id,
            runner_id=runner_id,
            reason=reason,
            task_state=to.value,
        )

    with suppress(LeaseLost):  # it ended, or was renewed, while we looked
        await core.commit(work)
