"""Command `report`: a live attempt's progress, as events; the answer tells of a cancel.

Raises: LeaseLost; Rejected (`step-too-large`, `attempt-backwards`).
"""

from sqlalchemy import text
from wfhub_common.errors import Rejected
from wfhub_common.messages import LIVE_ATTEMPT_STATES, Report, Reported

from wfhub_scheduler import stored_json
from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.outbox import emit
from wfhub_scheduler.rows import lease_lost, lock_attempt
from wfhub_scheduler.states import attempt_may
from wfhub_scheduler.transitions import attempt_event

STEP_BYTES_MAX = 16 * 1024  # an event is a line to read; what is long is an artifact

_MOVE_ATTEMPT = text("""
-- Only the current attempt may report, and only by its own runner; 0 rows = lease lost.
UPDATE sched.attempt a SET state = :to, started_at = coalesce(a.started_at, now())
  FROM sched.task t
 WHERE a.attempt_id = :attempt_id AND t.task_id = a.task_id
   AND t.current_attempt = :attempt_id AND a.runner_id = :sender
   AND a.state IN ('leased', 'running', 'verifying')
""")


async def report(core: Core, sender: str, command: Report) -> Reported:
    size = len(stored_json.dumped(command.fields))
    if size > STEP_BYTES_MAX:
        raise Rejected(
            "step-too-large",
            f"the step's fields are {size} bytes, the limit is {STEP_BYTES_MAX}: store an artifact",
            status=413,
        )

    async def work(tx: Tx) -> Reported:
        task, attempt = await lock_attempt(tx.connection, command.attempt_id)
        if attempt.state not in LIVE_ATTEMPT_STATES:
            raise lease_lost(command.attempt_id)
        to = command.state or attempt.state
        fence = {"attempt_id": command.attempt_id, "sender": sender, "to": to.value}
        if (await tx.connection.execute(_MOVE_ATTEMPT, fence)).rowcount == 0:
            raise lease_lost(command.attempt_id)
        if to != attempt.state:
            if not attempt_may(attempt.state, to):
                raise Rejected(
                    "attempt-backwards",
                    f"the attempt is {attempt.state} already and cannot become {to} again",
                    status=409,
                )
            await attempt_event(tx.connection, task, attempt, to)
        data = {**command.fields, "task_id": task.task_id, "step": command.step}
        await emit(
            tx.connection,
            "attempt.step",
            attempt.attempt_id,
            data,
            project_id=task.project_id,
            task_id=task.task_id,
        )
        return Reported(cancel=task.cancel_requested)

    return await core.commit(work)
