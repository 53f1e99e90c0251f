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

_ASK = text("""
UPDATE sched.workflow SET cancel_requested = true, cancel_reason = :reason, updated_at = now()
 WHERE workflow_id = :workflow_id
""")
_OPEN_TASKS = text("""
SELECT t.task_id FROM sched.workflow_node n JOIN sched.task t USING (task_id)
 WHERE n.workflow_id = :workflow_id AND t.state NOT IN ('succeeded', 'failed', 'cancelled')
""")


async def cancel_workflow(core: Core, command: CancelWorkflow) -> WorkflowCancelled:
    reason = stored_json.clean(command.reason)

    async def work(tx: Tx) -> WorkflowCancelled:
        workflow = await rows.lock(tx.connection, command.workflow_id)
        accepted = workflow.state is WorkflowState.RUNNING
        if accepted and not workflow.cancel_requested:
            at = {"workflow_id": workflow.workflow_id}
            await tx.connection.execute(_ASK, {**at, "reason": reason})
            await emit(
                tx.connection,
                "workflow.cancel_requested",
                workflow.workflow_id,
                {"reason": reason},
                project_id=workflow.project_id,
            )
            open_tasks = (await tx.connection.execute(_OPEN_TASKS, at)).scalars().all()
            await cancel_tasks(tx, open_tasks, reason)
            workflow = await advance(tx, replace(workflow, cancel_requested=True))
        return WorkflowCancelled(
            accepted=accepted, state=workflow.state, finished_at=workflow.finished_at
        )

    return await core.commit(work)
