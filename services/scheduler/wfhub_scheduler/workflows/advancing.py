"""Advancing: each end of a workflow's task is counted once, and what follows from it is done.

Every scheduler takes turns, woken when a task of a workflow ended and each WORKFLOWS_POLL_S: whose
process died between a task's end and the turn, another one's clock finds it. One transaction counts
all the ends of one workflow that there are, under its row lock; who finds it locked leaves it.
A workflow whose turn fails again and again is put aside as a dead letter, and holds up no other.
Units: seconds.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import text
from wfhub_common import db, limits
from wfhub_common.messages import OnFailure, TaskState
from wfhub_common.sql import Connection

from wfhub_scheduler import dead_letters
from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.creation import ReadyRow, make_ready
from wfhub_scheduler.outbox import emit
from wfhub_scheduler.transitions import Transitions
from wfhub_scheduler.workflows import filling, rows, settling
from wfhub_scheduler.workflows.expressions import Unresolvable
from wfhub_scheduler.workflows.filling import Outputs
from wfhub_scheduler.workflows.rows import NodeRow, Workflow
from wfhub_scheduler.workflows.settling import PARENT_FAILED, WORKFLOW_FAILED, Settled, Waiting

WORKFLOWS_POLL_S = 1.0
WORKFLOWS_A_TURN_MAX = 100  # then the loop looks whether it is to stop

_UNSTARTED = (TaskState.BLOCKED, TaskState.READY)
_SKIPPED_SINCE = {
    PARENT_FAILED: "a task that it needs did not succeed",
    WORKFLOW_FAILED: "a task of its workflow did not succeed, and on_failure is `fail`",
}

_DUE = text(f"""
SELECT DISTINCT t.workflow_id FROM sched.task t
 WHERE t.workflow_id IS NOT NULL AND NOT t.workflow_settled
   AND t.state IN ('succeeded', 'failed', 'cancelled')
   AND {dead_letters.not_aside("workflow", "t.workflow_id")}
 LIMIT :count
""")  # noqa: S608 - our own words
_SPECS = text("SELECT task_id, spec FROM sched.task WHERE task_id = ANY(CAST(:task_ids AS text[]))")
_OUTPUTS = text("""
SELECT n.number, n.name, t.task_id, t.state, t.reason, t.message, t.branch, t.commit_id AS commit,
       t.base_commit, t.verdict, t.proof_id, t.attempts_used AS attempts
  FROM sched.workflow_node n JOIN sched.task t USING (task_id)
 WHERE n.workflow_id = :workflow_id
   AND (n.name = ANY(CAST(:names AS text[])) OR n.number = ANY(CAST(:numbers AS integer[])))
""")


@dataclass(frozen=True)
class Advancing:
    core: Core

    async def turn(self) -> bool:
        """True: there may be more at once."""
        async with db.transaction(self.core.engine) as connection:
            due = (await connection.execute(_DUE, {"count": WORKFLOWS_A_TURN_MAX})).scalars()
        advanced = False
        for workflow_id in due:
            advanced |= await self._advance(workflow_id)
        return advanced

    async def _advance(self, workflow_id: str) -> bool:
        async def work(tx: Tx) -> bool:
            workflow = await rows.take(tx.connection, workflow_id)
            return workflow is not None and await advance(tx, workflow) != workflow

        advanced = False

        async def guarded() -> None:
            nonlocal advanced
            advanced = await self.core.commit(work)

        await dead_letters.guarded(self.core, "workflow", workflow_id, guarded)
        return advanced


async def advance(tx: Tx, workflow: Workflow) -> Workflow:
    """Counts all ends that there are; answers with where the workflow, which is locked, stands."""
    ended = await rows.ended(tx.connection, workflow.workflow_id)
    if not ended:
        return workflow
    failed = {n for n, node in ended.items() if node.state is not TaskState.SUCCEEDED}
    children = {child for node in ended.values() for child in node.children}
    wanted = None if failed else ended.keys() | children
    nodes = await rows.nodes(tx.connection, workflow.workflow_id, wanted)
    moves = await Transitions.of_tasks(
        tx, [node.task_id for n, node in nodes.items() if n in ended or node.state in _UNSTARTED]
    )
    settled = settling.settle(
        {n: _waiting(node, moves) for n, node in nodes.items()},
        ended.keys(),
        failed,
        stop=any(ended[n].on_failure is OnFailure.FAIL for n in failed),
    )
    for number, reason in settled.skipped.items():
        moves.skip(nodes[number].task_id, reason, _SKIPPED_SINCE[reason])
    ready = await _filled(tx, workflow, [nodes[number] for number in settled.ready], moves)
    await moves.write()
    await make_ready(tx, ready)
    return await _counted(tx, workflow, settled, nodes, ended.keys(), failed)


def _waiting(node: NodeRow, moves: Transitions) -> Waiting:
    task = moves.tasks.get(node.task_id)  # as it is under its lock
    unstarted = task is not None and task.state in _UNSTARTED and not task.tries + task.losses
    return Waiting(unstarted, node.needs_left, node.needs_policy, node.children)


async def _filled(
    tx: Tx, workflow: Workflow, ready: list[NodeRow], moves: Transitions
) -> list[ReadyRow]:
    """Those that can start; the others end here, as `unresolvable`."""
    if not ready:
        return []
    task_ids = [node.task_id for node in ready]
    found = await tx.connection.execute(_SPECS, {"task_ids": task_ids})
    specs: dict[str, dict[str, Any]] = {row.task_id: row.spec for row in found}
    by_name, by_number = await _outputs(tx.connection, workflow, ready, specs)
    filled = []
    for node in ready:
        before = None if node.continues is None else by_number[node.continues]
        try:
            spec = filling.with_results(specs[node.task_id], by_name, before)
        except Unresolvable as e:
            moves.unresolvable(node.task_id, str(e)[: limits.MESSAGE_CHARS_MAX])
        else:
            filled.append(ReadyRow(node.task_id, workflow.project_id, spec))
    return filled


async def _outputs(
    connection: Connection,
    workflow: Workflow,
    ready: list[NodeRow],
    specs: Mapping[str, dict[str, Any]],
) -> tuple[dict[str, Outputs], dict[int, Outputs]]:
    """Of the tasks whose results are wanted, by their names and by their numbers."""
    names = {name for spec in specs.values() for name in filling.tasks_named(spec)}
    numbers = {node.continues for node in ready if node.continues is not None}
    if not names and not numbers:
        return {}, {}
    of = {"workflow_id": workflow.workflow_id, "names": sorted(names), "numbers": sorted(numbers)}
    by_name: dict[str, Outputs] = {}
    by_number: dict[int, Outputs] = {}
    for row in await connection.execute(_OUTPUTS, of):
        said = {name: "" if value is None else str(value) for name, value in row.items()}
        by_name[row.name] = by_number[row.number] = said
    return by_name, by_number


async def _counted(
    tx: Tx,
    workflow: Workflow,
    settled: Settled,
    nodes: Mapping[int, NodeRow],
    ended: Collection[int],
    failed: Collection[int],
) -> Workflow:
    over = [nodes[number].task_id for number in [*ended, *settled.skipped]]
    await rows.settle(tx.connection, workflow, over, settled.needs_left)
    open_count = workflow.open_count - len(over)
    unsuccessful = workflow.unsuccessful_count + len(failed) + len(settled.skipped)
    state = settling.state_of(
        open_count=open_count,
        unsuccessful_count=unsuccessful,
        cancelled=workflow.cancel_requested,
    )
    after = replace(workflow, state=state, open_count=open_count, unsuccessful_count=unsuccessful)
    after = await rows.stand(tx.connection, after)
    if state != workflow.state:
        data = {
            "from": workflow.state.value,
            "to": state.value,
            "unsuccessful_count": unsuccessful,
        }
        await emit(
            tx.connection,
            "workflow.state_changed",
            workflow.workflow_id,
            data,
            project_id=workflow.project_id,
        )
    return after
