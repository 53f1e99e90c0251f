"""Starting: what a firing makes, a task or a whole workflow, and how it is asked to end.

Lock order: schedule → workflow → task → project_queue.
Raises: Rejected, RetryLater (as creation.py and workflows/submission.py).
"""

import asyncio
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from wfhub_common.messages import ScheduleSpec
from wfhub_common.messages.schedules import INSTANTS

from wfhub_scheduler.core import Tx
from wfhub_scheduler.creation import NewTaskRow, create_tasks, settled
from wfhub_scheduler.projects import ProjectRow
from wfhub_scheduler.schedules.rows import Schedule
from wfhub_scheduler.transitions import Transitions
from wfhub_scheduler.workflows import documents, stopping, submission
from wfhub_scheduler.workflows import rows as workflow_rows
from wfhub_scheduler.workflows.documents import Plan
from wfhub_scheduler.workflows.faults import Fault, refuse_any


@dataclass(frozen=True)
class Started:
    """One of both."""

    task_id: str | None = None
    workflow_id: str | None = None


async def read(spec: ScheduleSpec) -> Plan | None:
    """The plan of its workflow; None: it has a task.

    Raises: Rejected (422 `workflow-invalid`, 413 `workflow-too-large`).
    """
    if spec.workflow is None:
        return None
    plan = await asyncio.to_thread(documents.read, spec.workflow)
    refuse_any(_instants(plan))
    return plan


def check(spec: ScheduleSpec, plan: Plan | None, project: ProjectRow) -> None:
    """Raises: Rejected, if the project would refuse what it starts."""
    if spec.task is not None:
        settled(project, NewTaskRow(spec.task))
    if plan is not None:
        submission.check_fits(project, plan)


async def start(tx: Tx, schedule: Schedule, project: ProjectRow) -> Started:
    by = f"schedule:{schedule.name}"
    if schedule.spec.task is not None:
        task = NewTaskRow(schedule.spec.task, submitted_by=by)
        await create_tasks(tx, project, [task])
        return Started(task_id=task.task_id)
    plan, document = await read(schedule.spec), schedule.spec.workflow
    assert plan is not None
    assert document is not None
    made = await submission.create(tx, project, plan, document, key=None, submitted_by=by)
    assert made is not None, "without a key there is no other"
    return Started(workflow_id=made.workflow_id)


async def stop(tx: Tx, running: Collection[Started], why: str) -> None:
    """What is being published is left to end."""
    for workflow_id in sorted(each.workflow_id for each in running if each.workflow_id):
        workflow = await workflow_rows.lock(tx.connection, workflow_id)
        await stopping.stop(tx, workflow, why)
    tasks = [each.task_id for each in running if each.task_id]
    moves = await Transitions.of_tasks(tx, tasks)
    for task_id in tasks:
        moves.cancel(task_id, why)
    await moves.write()


def _instants(plan: Plan) -> Iterator[Fault]:
    for node in plan.nodes:
        for name in INSTANTS:
            if getattr(node.spec, name) is not None:
                message = "is one instant; a schedule's tasks have many"
                yield Fault(("tasks", node.name, name), message)
