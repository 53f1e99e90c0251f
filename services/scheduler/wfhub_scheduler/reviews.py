"""Command `review_task`: a person approves the sealed result of a task, or declines it.

A task with `review_s`, or whose result changes CI files, waits in `review` until somebody decides
or the time for it is over. What is approved is what was sealed: nothing works on the task
meanwhile. The same decision again changes nothing.
Raises: Rejected (404 `task-unknown`).
"""

from wfhub_common.errors import Rejected
from wfhub_common.messages import Reviewed, ReviewTask

from wfhub_scheduler import stored_json
from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.transitions import Transitions


async def review_task(core: Core, command: ReviewTask) -> Reviewed:
    task_id = stored_json.clean(command.task_id)
    reviewer, comment = stored_json.clean(command.reviewer), stored_json.clean(command.comment)

    async def work(tx: Tx) -> Reviewed:
        moves = await Transitions.of_tasks(tx, [task_id])
        if task_id not in moves.tasks:
            raise Rejected("task-unknown", f"there is no task {command.task_id[:64]}", status=404)
        accepted, state = moves.review(task_id, command.decision, reviewer, comment)
        await moves.write()
        return Reviewed(accepted=accepted, state=state)

    return await core.commit(work)
