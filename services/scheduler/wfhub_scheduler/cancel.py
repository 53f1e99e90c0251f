"""Cancel: at any point until a task is being published.

What has not started ends at once. A live attempt's runner is told to stop with its next reply,
keeps its evidence and ends the attempt itself, within the grace that its lease is still renewed
for (heartbeats.py); a runner that never answers is ended by its lease.
Raises: Rejected (404 `task-unknown`).
"""

from collections.abc import Collection

from wfhub_common.errors import Rejected
from wfhub_common.messages import Cancelled, CancelTask

from wfhub_scheduler import stored_json
from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.transitions import Transitions


async def cancel_task(core: Core, command: CancelTask) -> Cancelled:
    task_id = stored_json.clean(command.task_id)
    answers = await core.commit(lambda tx: cancel_tasks(tx, [task_id], command.reason))
    if task_id not in answers:
        raise Rejected("task-unknown", f"there is no task {command.task_id[:64]}", status=404)
    return answers[task_id]


async def cancel_tasks(tx: Tx, task_ids: Collection[str], reason: str) -> dict[str, Cancelled]:
    """In the caller's transaction, which locks them (ascending ids); unknown ones are left out."""
    moves = await Transitions.of_tasks(tx, task_ids)
    answers = {}
    for task_id in list(moves.tasks):
        accepted, state = moves.cancel(task_id, stored_json.clean(reason))
        answers[task_id] = Cancelled(accepted=accepted, state=state)
    await moves.write()
    return answers
