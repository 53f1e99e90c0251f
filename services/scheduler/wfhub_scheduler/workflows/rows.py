"""Rows of workflows and their nodes, and what is read and written of them.

A workflow's row lock is held by whoever counts ends of its tasks, before any of its tasks' locks.
A node is its place in the graph; its state is its task's, which is true once the task is locked.
Raises: Rejected (404 `workflow-unknown`).
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import text
from wfhub_common.errors import Rejected
from wfhub_common.messages import NeedsPolicy, OnFailure, TaskState, WorkflowState
from wfhub_common.sql import Connection

from wfhub_scheduler import stored_json

_COLUMNS = """workflow_id, project_id, state, cancel_requested, open_count, unsuccessful_count,
    finished_at"""
_LOCK = text(f"""
SELECT {_COLUMNS} FROM sched.workflow WHERE workflow_id = :workflow_id FOR UPDATE
""")  # noqa: S608 - our own column list
_TAKE = text(f"""
SELECT {_COLUMNS} FROM sched.workflow WHERE workflow_id = :workflow_id FOR UPDATE SKIP LOCKED
""")  # noqa: S608 - our own column list
_NODES = """
SELECT n.number, n.name, n.task_id, n.children, n.continues, n.needs_policy, n.on_failure,
       n.needs_left, t.state
  FROM sched.workflow_node n JOIN sched.task t USING (task_id)
"""
_ENDED = text(f"""
-- By the index of what is not counted yet (migration 0004).
{_NODES} WHERE n.workflow_id = :workflow_id AND t.workflow_id = :workflow_id
   AND NOT t.workflow_settled AND t.state IN ('succeeded', 'failed', 'cancelled')
""")
_ALL = text(f"{_NODES} WHERE n.workflow_id = :workflow_id")
_SOME = text(f"""
{_NODES} WHERE n.workflow_id = :workflow_id AND n.number = ANY(CAST(:numbers AS integer[]))
""")
_SETTLE = text("""
UPDATE sched.task SET workflow_settled = true
 WHERE task_id = ANY(CAST(:task_ids AS text[])) AND NOT workflow_settled
""")
_COUNT_NEEDS = text("""
UPDATE sched.workflow_node n SET needs_left = c.needs_left
  FROM unnest(CAST(:numbers AS integer[]), CAST(:counts AS integer[])) AS c (number, needs_left)
 WHERE n.workflow_id = :workflow_id AND n.number = c.number
""")
_STAND = text("""
UPDATE sched.workflow
   SET state = :state, open_count = :open_count, unsuccessful_count = :unsuccessful_count,
       finished_at = CASE WHEN :state <> 'running' THEN now() END, updated_at = now()
 WHERE workflow_id = :workflow_id RETURNING finished_at
""")


@dataclass(frozen=True)
class Workflow:
    workflow_id: str
    project_id: str
    state: WorkflowState
    cancel_requested: bool
    open_count: int
    unsuccessful_count: int
    finished_at: datetime | None


@dataclass(frozen=True)
class NodeRow:
    number: int
    name: str
    task_id: str
    children: tuple[int, ...]
    continues: int | None
    needs_policy: NeedsPolicy
    on_failure: OnFailure
    needs_left: int
    state: TaskState


async def lock(connection: Connection, workflow_id: str) -> Workflow:
    """Waits for whoever has it."""
    at = {"workflow_id": stored_json.clean(workflow_id)}
    row = (await connection.execute(_LOCK, at)).one_or_none()
    if row is None:
        raise Rejected("workflow-unknown", f"there is no workflow {workflow_id[:64]}", status=404)
    return _workflow(row)


async def take(connection: Connection, workflow_id: str) -> Workflow | None:
    """None: somebody else has it, and will look again when done."""
    row = (await connection.execute(_TAKE, {"workflow_id": workflow_id})).one_or_none()
    return None if row is None else _workflow(row)


async def ended(connection: Connection, workflow_id: str) -> dict[int, NodeRow]:
    """Nodes whose task is final and not counted yet, by number."""
    return _nodes(await connection.execute(_ENDED, {"workflow_id": workflow_id}))


async def nodes(
    connection: Connection, workflow_id: str, numbers: Collection[int] | None = None
) -> dict[int, NodeRow]:
    """Those of `numbers`, or all, by number."""
    at: dict[str, Any] = {"workflow_id": workflow_id}
    if numbers is None:
        return _nodes(await connection.execute(_ALL, at))
    return _nodes(await connection.execute(_SOME, {**at, "numbers": sorted(numbers)}))


async def settle(
    connection: Connection,
    workflow: Workflow,
    task_ids: Collection[str],
    needs_left: Mapping[int, int],
) -> None:
    """These tasks' ends are counted, once for all."""
    counted = await connection.execute(_SETTLE, {"task_ids": sorted(task_ids)})
    assert counted.rowcount == len(task_ids), "an end is counted once, under its workflow's lock"
    await connection.execute(
        _COUNT_NEEDS,
        {
            "workflow_id": workflow.workflow_id,
            "numbers": list(needs_left.keys()),
            "counts": list(needs_left.values()),
        },
    )


async def stand(connection: Connection, workflow: Workflow) -> Workflow:
    """Writes its state and counts; answers with it, its end included."""
    row = {
        "workflow_id": workflow.workflow_id,
        "state": workflow.state.value,
        "open_count": workflow.open_count,
        "unsuccessful_count": workflow.unsuccessful_count,
    }
    finished_at = (await connection.execute(_STAND, row)).scalar_one()
    return replace(workflow, finished_at=finished_at)


def _workflow(row: Any) -> Workflow:
    return Workflow(**{**row, "state": WorkflowState(row.state)})


def _nodes(rows: Any) -> dict[int, NodeRow]:
    return {
        row.number: NodeRow(
            row.number,
            row.name,
            row.task_id,
            tuple(row.children),
            row.continues,
            NeedsPolicy(row.needs_policy),
            OnFailure(row.on_failure),
            row.needs_left,
            TaskState(row.state),
        )
        for row in rows
    }
