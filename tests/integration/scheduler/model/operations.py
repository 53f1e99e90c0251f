"""Operations: each command once, as what is done to the scheduler and what the model is told.

`run` calls the real handler; `steps` turns its answer into transactions of the model. The same
operation may be done again, as it is: that is a duplicate.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

from wfhub_common.httpauth import token_sha256
from wfhub_common.messages import (
    AttemptState,
    CancelTask,
    Claim,
    Complete,
    CreateProject,
    Heartbeat,
    Introspect,
    Register,
    Report,
    Retry,
    RunnerObservations,
    SubmitTask,
    TaskSpec,
    UnitKind,
    Verdict,
    VerdictStatus,
)
from wfhub_scheduler.cancel import cancel_task
from wfhub_scheduler.claim import claim
from wfhub_scheduler.complete import complete
from wfhub_scheduler.core import Core
from wfhub_scheduler.heartbeats import heartbeat
from wfhub_scheduler.introspect import introspect
from wfhub_scheduler.projects import create_project
from wfhub_scheduler.report import report
from wfhub_scheduler.runners import register
from wfhub_scheduler.sealing import Sealing
from wfhub_scheduler.submission import submit_task

from .checker import Program
from .lab import BACKOFF_S, Command, Lab
from .model import Answer, Attempt, Wish, World, commit_of

FAR = datetime(2100, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Operation:
    said: str
    run: Command
    steps: Callable[[Answer], Program]

    def __repr__(self) -> str:
        return self.said


def new_project(name: str, limit: int, weight: int) -> Operation:
    command = CreateProject(name=name, running_limit=limit, weight=weight)
    return Operation(
        f"create_project({name}, {limit}, {weight})",
        partial(_swapped, create_project, command),
        lambda answer: (lambda world: world.create_project(name, limit, weight, answer),),
    )


def submit(wish: Wish, key: str | None) -> Operation:
    command = SubmitTask(project=wish.project, spec=_spec(wish), idempotency_key=key)
    return Operation(
        f"submit({wish}, key={key})",
        partial(_swapped, submit_task, command),
        lambda answer: (lambda world: world.submit(wish, key, answer),),
    )


def _spec(wish: Wish) -> TaskSpec:
    return TaskSpec(
        repo="/srv/demo",
        prompt=f"task {wish.serial}",
        verify=("pytest -q",) if wish.verified else (),
        pool=wish.pool,
        priority=wish.priority,
        run_at=FAR if wish.later else None,
        retry=Retry(
            attempts_max=wish.attempts_max,
            backoff_ms=int(BACKOFF_S * 1000),
            backoff_max_ms=int(BACKOFF_S * 1000),
            on=wish.retry_on,
        ),
    )


def cancel(task_id: str) -> Operation:
    command = CancelTask(task_id=task_id, reason="changed my mind")
    return Operation(
        f"cancel({task_id})",
        partial(_swapped, cancel_task, command),
        lambda answer: (lambda world: world.cancel(task_id, answer),),
    )


def new_process(runner: str, incarnation: str) -> Operation:
    command = Register(incarnation=incarnation, name="model", slots=4)
    return Operation(
        f"register({runner}, {incarnation})",
        lambda core: register(core, runner, command),
        lambda answer: (lambda world: world.register(runner, incarnation, answer),),
    )


def take(
    runner: str, incarnation: str, claim_id: str, slots: int, pool: str, kinds: tuple[str, ...]
) -> Operation:
    command = Claim(
        claim_id=claim_id,
        incarnation=incarnation,
        slots=slots,
        pool=pool,
        kinds=tuple(map(UnitKind, kinds)),
    )
    asked = (runner, incarnation, claim_id, slots, pool, kinds)
    return Operation(
        f"claim{asked}",
        lambda core: claim(core, runner, command),
        lambda answer: (lambda world: world.claim(*asked, answer),),
    )


def beat(runner: str, incarnation: str, attempts: tuple[str, ...]) -> Operation:
    command = Heartbeat(incarnation=incarnation, attempts=attempts)
    return Operation(
        f"heartbeat({runner}, {incarnation}, {attempts})",
        lambda core: heartbeat(core, runner, command),
        lambda answer: (lambda world: world.heartbeat(runner, incarnation, attempts, answer),),
    )


def tell(runner: str, attempt_id: str, to: Literal["running", "verifying"] | None) -> Operation:
    command = Report.model_validate({"attempt_id": attempt_id, "state": to, "step": "working"})
    return Operation(
        f"report({runner}, {attempt_id}, {to})",
        lambda core: report(core, runner, command),
        lambda answer: (lambda world: world.report(runner, attempt_id, to, answer),),
    )


def end(
    lab: Lab,
    runner: str,
    attempt_id: str,
    attempt: Attempt | None,
    wish: Wish | None,
    outcome: str,
    reason: str = "",
    retryable: bool = True,
    evident: bool = True,
) -> Operation:
    agent = attempt is None or attempt.kind == "agent"
    won = outcome == "won"
    observed = None
    if agent:
        passed = VerdictStatus.NONE if wish and not wish.verified else VerdictStatus.PASSED
        observed = RunnerObservations(
            runner_id=runner,
            agent="builtin",
            commit=commit_of(attempt_id),
            base_commit="b" * 40,
            verdict=Verdict(status=passed if won else VerdictStatus.FAILED),
        )
    command = Complete(
        attempt_id=attempt_id,
        outcome=AttemptState(outcome),
        reason=reason,
        retryable=retryable,
        receipts=(lab.receipt(attempt_id, runner),) if agent and evident else (),
        observed=observed,
    )
    told = (runner, attempt_id, outcome, reason, retryable, evident)
    return Operation(
        f"complete{told}",
        lambda core: complete(core, lab.check, runner, command),
        lambda answer: (lambda world: world.complete(*told, answer),),
    )


def ask_token(token: str) -> Operation:
    command = Introspect(token_sha256=token_sha256(token))
    return Operation(
        f"introspect({token[:8]}…)",
        lambda core: introspect(core, command),
        lambda answer: (lambda world: world.introspect(token, answer),),
    )


def sweep(lab: Lab) -> Operation:
    return Operation("sweep()", lab.sweep, lambda _: (World.sweep,))


def seals(lab: Lab, outcome: str) -> Operation:
    async def run(core: Core) -> bool:
        lab.wire.outcome = outcome
        async with asyncio.TaskGroup() as asking:
            return await Sealing(core).turn(asking)

    return Operation(
        f"seals({outcome})", run, lambda _: (lambda world: world.ask_for_seals(outcome),)
    )


async def _swapped(handler: Callable[[Core, Any], Any], command: Any, core: Core) -> Any:
    return await handler(core, command)
