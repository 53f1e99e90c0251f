"""Command of the API: submit_workflow.

One transaction makes all of it, in as many statements for a thousand tasks as for one: tasks that
need none are ready, all others blocked, so that each has its id, its place in the queue's cap and
its deadline from the start. All of it is accepted, or nothing.
Raises: Rejected (404 `project-unknown`; 409 `idempotency-conflict`; 413 `workflow-too-large`; 422
`workflow-invalid` with `faults`, `nul-character`, `label-sets-full`; 429 `queue-full`).
"""

import asyncio
import hashlib
from collections.abc import Iterator
from typing import Any

from sqlalchemy import text
from wfhub_common import digests, ids
from wfhub_common.errors import Rejected
from wfhub_common.messages import SubmitWorkflow, TaskState, WorkflowState, WorkflowSubmitted
from wfhub_common.sql import Connection

from wfhub_scheduler import limit_policies, projects, spec_sizes, stored_json
from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.creation import NewTaskRow, create_tasks
from wfhub_scheduler.outbox import emit
from wfhub_scheduler.projects import ProjectRow
from wfhub_scheduler.workflows import documents
from wfhub_scheduler.workflows.documents import Node, Plan
from wfhub_scheduler.workflows.faults import Fault, refuse_any
from wfhub_scheduler.workflows.filling import with_results

_NEW = text("""
-- A rival with the same key waits here for our commit, then finds our workflow.
INSERT INTO sched.workflow (workflow_id, project_id, name, on_failure, document, document_sha256,
                            idempotency_key, submitted_by, task_count, open_count)
VALUES (:workflow_id, :project_id, :name, :on_failure, CAST(:document AS json), :sha256,
        :key, :submitted_by, :task_count, :task_count)
ON CONFLICT (project_id, idempotency_key) DO NOTHING
""")
_BY_KEY = text("""
SELECT workflow_id, project_id, state, document_sha256 FROM sched.workflow
 WHERE project_id = :project_id AND idempotency_key = :key
""")
_TASKS_OF = text("""
SELECT name, task_id FROM sched.workflow_node WHERE workflow_id = :workflow_id ORDER BY number
""")
_NEW_NODES = text("""
INSERT INTO sched.workflow_node (workflow_id, number, name, task_id, needs, children, continues,
                                 needs_policy, on_failure, needs_left)
SELECT :workflow_id, number, name, task_id, needs, children, continues, needs_policy, on_failure,
       cardinality(needs)
  FROM jsonb_to_recordset(CAST(:nodes AS jsonb)) AS n (number integer, name text, task_id text,
           needs integer[], children integer[], continues integer, needs_policy text,
           on_failure text)
""")


async def submit_workflow(core: Core, command: SubmitWorkflow) -> WorkflowSubmitted:
    # A large document takes a moment of pure Python, in which others are answered.
    plan = await asyncio.to_thread(documents.read, command.document)
    if not stored_json.storable(command.document):
        raise Rejected("nul-character", "a workflow must not hold the character U+0000: remove it")
    sha256 = document_sha256(command.document)

    async def work(tx: Tx) -> WorkflowSubmitted:
        project = await projects.find(tx.connection, command.project)
        key = command.idempotency_key and stored_json.clean(command.idempotency_key)
        made = await create(
            tx, project, plan, command.document, key=key, submitted_by=command.submitted_by
        )
        return made or await _known(tx.connection, project, key, sha256)

    return await core.commit(work)


def document_sha256(document: dict[str, Any]) -> str:
    return hashlib.sha256(digests.canonical_json(document)).hexdigest()


async def create(
    tx: Tx,
    project: ProjectRow,
    plan: Plan,
    document: dict[str, Any],
    *,
    key: str | None,
    submitted_by: str,
) -> WorkflowSubmitted | None:
    """`plan` is what the document says. None: there is one with this key already, whatever the
    project allows by now."""
    workflow_id = ids.new_workflow_id()
    row = {
        "workflow_id": workflow_id,
        "project_id": project.project_id,
        "name": plan.name,
        "on_failure": plan.on_failure.value,
        "document": stored_json.dumped(document),
        "sha256": document_sha256(document),
        "key": key,
        "submitted_by": stored_json.clean(submitted_by),
        "task_count": len(plan.nodes),
    }
    if (await tx.connection.execute(_NEW, row)).rowcount == 0:
        return None
    check_fits(project, plan)
    return WorkflowSubmitted(
        workflow_id=workflow_id,
        project_id=project.project_id,
        state=WorkflowState.RUNNING,
        created=True,
        tasks=await _make_tasks(tx, project, workflow_id, plan, submitted_by),
    )


def check_fits(project: ProjectRow, plan: Plan) -> None:
    """Raises: Rejected (413 `workflow-too-large`, 422 `workflow-invalid`): not in that project."""
    if len(plan.nodes) > project.queue_limit:
        raise _never_fits(project, plan)
    refuse_any(_limit_faults(plan, project))


async def _make_tasks(
    tx: Tx, project: ProjectRow, workflow_id: str, plan: Plan, submitted_by: str
) -> dict[str, str]:
    data = {"name": plan.name, "task_count": len(plan.nodes), "submitted_by": submitted_by}
    await emit(
        tx.connection, "workflow.submitted", workflow_id, data, project_id=project.project_id
    )
    new = [_task(node, workflow_id, submitted_by) for node in plan.nodes]
    try:
        await create_tasks(tx, project, new)
    except Rejected:  # by what the project lets wait now, which may be less than when it was read
        check_fits(await projects.find(tx.connection, project.project_id), plan)
        raise
    nodes = [_node(i, node, new[i].task_id) for i, node in enumerate(plan.nodes)]
    await tx.connection.execute(
        _NEW_NODES, {"workflow_id": workflow_id, "nodes": stored_json.dumped(nodes)}
    )
    return {node.name: task.task_id for node, task in zip(plan.nodes, new, strict=True)}


def _task(node: Node, workflow_id: str, submitted_by: str) -> NewTaskRow:
    if node.needs:
        return NewTaskRow(node.spec, submitted_by, TaskState.BLOCKED, workflow_id)
    spec = with_results(node.spec.model_dump(mode="json"), {})  # it names none, but may hold `$${{`
    return NewTaskRow(spec, submitted_by, TaskState.READY, workflow_id)


def _node(number: int, node: Node, task_id: str) -> dict[str, Any]:
    return {
        "number": number,
        "name": node.name,
        "task_id": task_id,
        "needs": node.needs,
        "children": node.children,
        "continues": node.continues,
        "needs_policy": node.needs_policy.value,
        "on_failure": node.on_failure.value,
    }


async def _known(
    connection: Connection, project: ProjectRow, key: str | None, sha256: str
) -> WorkflowSubmitted:
    at = {"project_id": project.project_id, "key": key}
    row = (await connection.execute(_BY_KEY, at)).one()
    if row.document_sha256 != sha256:
        raise Rejected(
            "idempotency-conflict",
            "this idempotency key was used for another workflow; use a new key for a new one",
            status=409,
            workflow_id=row.workflow_id,
        )
    nodes = await connection.execute(_TASKS_OF, {"workflow_id": row.workflow_id})
    return WorkflowSubmitted(
        workflow_id=row.workflow_id,
        project_id=row.project_id,
        state=WorkflowState(row.state),
        created=False,
        tasks={node.name: node.task_id for node in nodes},
    )


def _limit_faults(plan: Plan, project: ProjectRow) -> Iterator[Fault]:
    for node in plan.nodes:
        for name, message in limit_policies.above(node.spec, project.limits, project.name):
            yield Fault(("tasks", node.name, "limits", name), message)
        if too_large := spec_sizes.excess(node.spec):
            yield Fault(("tasks", node.name), too_large)


def _never_fits(project: ProjectRow, plan: Plan) -> Rejected:
    return Rejected(
        "workflow-too-large",
        f"the workflow has {len(plan.nodes)} tasks, and project {project.name!r} lets"
        f" {project.queue_limit} wait: raise its queue_limit, or split the workflow",
        status=413,
    )
