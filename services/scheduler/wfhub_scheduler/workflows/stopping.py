"""Command of the API: cancel_workflow.

All its tasks are cancelled, each as a task is: what has not started ends at once, clean-ups too;
what runs is told to stop and keeps its evidence; what is being published ends as it ends.
Raises: Rejected (404 `workflow-unknown`).
"""

from dataclasses import replace

from sqlalchemy import text
from wfhub_common.messages import CancelWorkflow, WorkflowCancelled, WorkflowState

from wfhub_scheduler import stored_json
from wfhub_scheduler.cancel import cancel_tasks
from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.outbox import emit
from wfhub_scheduler.workflows import rows
from wfhub_scheduler.workflows.advancing import advance
from wfhub_scheduler.workflows.rows import Workflow

_ASK = text("""
UPDATE sched.workflow SET cancel_requested = true, cancel_reason = :reason, updated_at = now()
 WHERE workflow_id = :workflow_id
""")
_OPEN_TASKS = text("""
SELECT t.task_id FROM sched.workflow_node n JOIN sched.task t USING (task_id)
 WHERE n.workflow_id = :workflow_id AND t.state NOT IN ('succeeded', 'failed', 'cancelled')
""")


async def cancel_workflow(core: Core, command: CancelWorkflow) -> WorkflowCancelled:
    async def work(tx: Tx) -> WorkflowCancelled:
        before = await rows.lock(tx.connection, command.workflow_id)
        after = await stop(tx, before, stored_json.clean(command.reason))
        accepted = before.state is WorkflowState.RUNNING
        return WorkflowCancelled(
            accepted=accepted, state=after.state, finished_at=after.finished_at
        )

    return await core.commit(work)


async def stop(tx: Tx, workflow: Workflow, reason: str) -> Workflow:
    """Of one that is locked; answers with where it stands then."""
    if workflow.state is not WorkflowState.RUNNING or workflow.cancel_requested:
        return workflow
    at = {"workflow_id": workflow.workflow_id}
    await tx.connection.execute(_ASK, {**at, "reason": reason})
    await emit(
        tx.connection,
        "workflow.cancel_requested",
        workflow.workflow_id,
        {"reason": reason},
        project_id=workflow.project_id,
    )
    open_tasks = (await tx.connection.execute(_OPEN_TASKS, at)).scalars()
    await cancel_tasks(tx, open_tasks, reason)
    return await advance(tx, replace(workflow, cancel_requested=True))
