"""Operations: each command once, as what is done to the scheduler and what the model is told.

`run` calls the real handler; `steps` turns its answer into transactions of the model. The same
operation may be done again, as it is: that is a duplicate.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from wfhub_common.httpauth import token_sha256
from wfhub_common.messages import (
    CancelTask,
    CancelWorkflow,
    CreateProject,
    DrainRunner,
    Introspect,
    Retry,
    ReviewDecision,
    ReviewTask,
    SubmitTask,
    SubmitTasks,
    SubmitWorkflow,
    TaskSpec,
    UpdatePool,
    UpdateProject,
)
from wfhub_scheduler.cancel import cancel_task
from wfhub_scheduler.core import Core
from wfhub_scheduler.drains import drain_runner
from wfhub_scheduler.introspect import introspect
from wfhub_scheduler.pools import update_pool
from wfhub_scheduler.projects import create_project, update_project
from wfhub_scheduler.reviews import review_task
from wfhub_scheduler.sealing import Sealing
from wfhub_scheduler.submission import submit_task, submit_tasks
from wfhub_scheduler.workflows.advancing import Advancing
from wfhub_scheduler.workflows.stopping import cancel_workflow
from wfhub_scheduler.workflows.submission import submit_workflow

from .asked import Ask
from .checker import Program
from .lab import BACKOFF_S, Command, Lab
from .model import World
from .records import Answer, Node, Wish

FAR = datetime(2100, 1, 1, tzinfo=UTC)
QUEUE_S = 30 * 86_400

# Of the model's records, as the commands call them.
_SETTINGS = {"limit": "running_limit", "queue": "queue_limit"}


@dataclass(frozen=True)
class Operation:
    said: str
    run: Command
    steps: Callable[[Answer], Program]

    def __repr__(self) -> str:
        return self.said


def one_step(said: str, run: Command, step: Callable[[World, Answer], Any]) -> Operation:
    """Of one transaction; `step` tells the model."""
    return Operation(said, run, lambda answer: (lambda world: step(world, answer),))


def asked(handler: Callable[[Core, Any], Any], command: Any) -> Command:
    async def run(core: Core) -> Any:
        return await handler(core, command)

    return run


def new_project(name: str, limit: int, weight: int, queue: int) -> Operation:
    command = CreateProject(name=name, running_limit=limit, weight=weight, queue_limit=queue)
    return one_step(
        f"create_project({name}, {limit}, {weight}, {queue})",
        asked(create_project, command),
        lambda world, answer: world.create_project(name, limit, weight, queue, answer),
    )


def change_project(name: str, **changes: Any) -> Operation:
    named = {_SETTINGS.get(field, field): value for field, value in changes.items()}
    return one_step(
        f"update_project({name}, {changes})",
        asked(update_project, UpdateProject(project=name, **named)),
        lambda world, answer: world.update_project(name, changes, answer),
    )


def change_pool(name: str, **changes: Any) -> Operation:
    """`limit` None takes it away."""
    named = {_SETTINGS.get(field, field): value for field, value in changes.items()}
    if "limit" in changes:
        named["unlimited"] = changes["limit"] is None
    return one_step(
        f"update_pool({name}, {changes})",
        asked(update_pool, UpdatePool(pool=name, **named)),
        lambda world, answer: world.update_pool(name, changes, answer),
    )


def drain(runner: str, on: bool) -> Operation:
    return one_step(
        f"drain_runner({runner}, {on})",
        asked(drain_runner, DrainRunner(runner_id=runner, drain=on)),
        lambda world, answer: world.drain(runner, on, answer),
    )


def submit(wish: Wish, key: str | None) -> Operation:
    return one_step(
        f"submit({wish}, key={key})",
        asked(submit_task, _command(wish, key)),
        lambda world, answer: world.submit(wish, key, answer),
    )


def submit_many(tasks: tuple[Ask, ...]) -> Operation:
    command = SubmitTasks(tasks=tuple(_command(*each) for each in tasks))
    return one_step(
        f"submit_many({tasks})",
        asked(submit_tasks, command),
        lambda world, answer: world.submit_many(tasks, answer),
    )


def _command(wish: Wish, key: str | None) -> SubmitTask:
    return SubmitTask(project=wish.project, spec=_spec(wish), idempotency_key=key)


def _spec(wish: Wish) -> TaskSpec:
    return TaskSpec(
        repo="/srv/demo",
        prompt=f"task {wish.serial}{' of CI' if wish.ci else ''}",
        verify=("pytest -q",) if wish.verified else (),
        pool=wish.pool,
        priority=wish.priority,
        labels=wish.labels,
        run_at=FAR if wish.later else None,
        queue_s=QUEUE_S if wish.queue_s else None,
        review_s=QUEUE_S if wish.review else None,
        deadline_at=FAR if wish.deadline else None,
        retry=Retry(
            attempts_max=wish.attempts_max,
            backoff_ms=int(BACKOFF_S * 1000),
            backoff_max_ms=int(BACKOFF_S * 1000),
            on=wish.retry_on,
        ),
    )


def submit_workflow_of(project: str, nodes: tuple[Node, ...], key: str | None) -> Operation:
    """Its tasks are named n0, n1, …"""
    document = {"name": "model", "tasks": {f"n{i}": _node(node) for i, node in enumerate(nodes)}}
    command = SubmitWorkflow(project=project, document=document, idempotency_key=key)
    return one_step(
        f"submit_workflow({project}, {nodes}, key={key})",
        asked(submit_workflow, command),
        lambda world, answer: world.submit_workflow(project, nodes, key, answer),
    )


def _node(node: Node) -> dict[str, Any]:
    of = node.needs[0] if node.takes and node.needs else None
    taken = {} if of is None else {"base": f"${{{{ tasks.n{of}.outputs.branch }}}}"}
    return {
        **_spec(node.wish).model_dump(mode="json", exclude_defaults=True),
        **taken,
        "needs": [f"n{i}" for i in node.needs],
        "needs_policy": "all_done" if node.all_done else "all_succeeded",
        "on_failure": "fail" if node.stops else "continue",
    }


def cancel_flow(workflow_id: str) -> Operation:
    return one_step(
        f"cancel_workflow({workflow_id})",
        asked(cancel_workflow, CancelWorkflow(workflow_id=workflow_id, reason="changed my mind")),
        lambda world, answer: world.cancel_workflow(workflow_id, answer),
    )


def turn_workflows() -> Operation:
    return Operation(
        "turn_workflows()",
        lambda core: Advancing(core).turn(),
        lambda _: (World.turn_workflows,),
    )


def cancel(task_id: str) -> Operation:
    return one_step(
        f"cancel({task_id})",
        asked(cancel_task, CancelTask(task_id=task_id, reason="changed my mind")),
        lambda world, answer: world.cancel(task_id, answer),
    )


def review(task_id: str, decision: ReviewDecision) -> Operation:
    return one_step(
        f"review({task_id}, {decision.value})",
        asked(review_task, ReviewTask(task_id=task_id, decision=decision, reviewer="ada")),
        lambda world, answer: world.review(task_id, decision.value, answer),
    )


def ask_token(token: str) -> Operation:
    return one_step(
        f"introspect({token[:8]}…)",
        asked(introspect, Introspect(token_sha256=token_sha256(token))),
        lambda world, answer: world.introspect(token, answer),
    )


def sweep(lab: Lab) -> Operation:
    return Operation("sweep()", lab.sweep, lambda _: (World.sweep,))


def seals(lab: Lab, outcome: str) -> Operation:
    async def run(core: Core) -> bool:
        lab.wire.outcome = outcome
        async with asyncio.TaskGroup() as asking:
            return await Sealing(core).turn(asking)

    return Operation(
        f"seals({outcome})", run, lambda _: (partial(World.ask_for_seals, outcome=outcome),)
    )
