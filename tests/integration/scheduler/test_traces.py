"""A task keeps the trace that it was submitted in, whoever it shared a transaction with."""

import asyncio

from scheduler_hub import SPEC, Hub
from wfhub_common import subjects, tracing
from wfhub_common.messages import (
    SubmitTask,
    Submitted,
    SubmitWorkflow,
    UnitKind,
    WorkflowSubmitted,
)


def traceparent(n: int) -> str:
    return f"00-{n:032x}-{n:016x}-01"


async def submit(hub: Hub, n: int) -> str:
    with tracing.within(traceparent(n) if n else ""):
        request = SubmitTask(project="default", spec=SPEC)
        made = await hub.ask(subjects.API, "submit_task", request, Submitted)
        return made.task_id


async def stored(hub: Hub, task_id: str) -> str | None:
    found: str | None = await hub.pg.fetchval(
        "SELECT traceparent FROM sched.task WHERE task_id = $1", task_id
    )
    return found


async def test_tasks_that_share_a_transaction_keep_their_own_traces(hub: Hub) -> None:
    made = await asyncio.gather(*(submit(hub, n) for n in range(12)))
    for n, task_id in enumerate(made):
        wanted = traceparent(n) if n else None
        assert await stored(hub, task_id) == wanted
        shown = await hub.pg.fetchval(
            "SELECT trace_id FROM sched.api_task WHERE task_id = $1", task_id
        )
        assert shown == (f"{n:032x}" if n else None)


async def test_the_runner_and_the_proof_are_told_the_trace(hub: Hub) -> None:
    runner = await hub.runner()
    task_id = await submit(hub, 7)
    leased = await runner.claim_one()
    assert leased.traceparent == traceparent(7)
    await runner.complete(runner.won(leased.attempt_id))
    publish = await runner.claim_one(UnitKind.PUBLISH)
    assert (publish.task_id, publish.traceparent) == (task_id, traceparent(7))


async def test_all_tasks_of_a_workflow_are_in_its_trace(hub: Hub) -> None:
    spec = SPEC.model_dump(mode="json", exclude_unset=True)
    document = {"name": "two", "tasks": {"a": spec, "b": {**spec, "needs": ["a"]}}}
    with tracing.within(traceparent(9)):
        request = SubmitWorkflow(project="default", document=document)
        made = await hub.ask(subjects.API, "submit_workflow", request, WorkflowSubmitted)
    for task_id in made.tasks.values():
        assert await stored(hub, task_id) == traceparent(9)
