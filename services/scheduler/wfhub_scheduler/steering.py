"""Command `steer_task`: a word to the agent of a task that runs, by way of the runner that has it.

Nothing is stored: the runner answers for the attempt that it was asked about, or nobody does. A
word that comes when the attempt has just ended changes nothing; the fence is the attempt's id.
Raises: Rejected (404 `task-unknown`, 409 `task-not-running`, and what the runner refuses);
RetryLater when the runner does not answer.
"""

from sqlalchemy import text
from wfhub_common import broker as rpc
from wfhub_common import subjects
from wfhub_common.errors import Rejected
from wfhub_common.messages import SteerAttempt, Steered, SteerTask

from wfhub_scheduler import stored_json
from wfhub_scheduler.core import Core, Tx

ANSWER_S_MAX = 4.0  # less than the API waits

# The current attempt only, and only while its agent may run.
_CURRENT = text("""
SELECT t.state AS task_state, a.attempt_id, a.runner_id
  FROM sched.task t
  LEFT JOIN sched.attempt a ON a.attempt_id = t.current_attempt
                           AND a.state = 'running' AND t.state = 'running'
 WHERE t.task_id = :task_id
""")


async def steer_task(core: Core, command: SteerTask) -> Steered:
    async def work(tx: Tx) -> tuple[str, str, str] | None:
        at = {"task_id": stored_json.clean(command.task_id)}
        row = (await tx.connection.execute(_CURRENT, at)).first()
        return row and (row.task_state, row.attempt_id or "", row.runner_id or "")

    found = await core.commit(work)
    if found is None:
        raise Rejected("task-unknown", f"there is no task {command.task_id[:64]}", status=404)
    state, attempt_id, runner_id = found
    if not attempt_id:
        message = f"the task is {state} and no agent of it is at work; nobody would hear it"
        raise Rejected("task-not-running", message, status=409, state=state)
    word = SteerAttempt(attempt_id=attempt_id, text=command.text, hand_in=command.hand_in)
    return await rpc.ask_at(
        core.broker, subjects.steering(runner_id), word, Steered, timeout_s=ANSWER_S_MAX
    )
