"""Operations of runners: what they ask, and the evidence that they bring."""

from typing import Literal

from wfhub_common.messages import (
    AttemptState,
    Complete,
    CompleteMany,
    Heartbeat,
    Register,
    Report,
    RunnerObservations,
    UnitKind,
    Verdict,
    VerdictStatus,
)
from wfhub_common.messages import Claim as ClaimCommand
from wfhub_scheduler.claim import claim
from wfhub_scheduler.complete import complete, complete_many
from wfhub_scheduler.heartbeats import heartbeat
from wfhub_scheduler.report import report
from wfhub_scheduler.runners import register

from .lab import Lab
from .model import World
from .operations import Operation, one_step
from .state import commit_of
from .worked import Claim, Said

SLOTS = 4
TOKEN_KEY = "wat_" + "k" * 43


def new_process(
    runner: str, incarnation: str, labels: tuple[str, ...], holds: tuple[str, ...] = ()
) -> Operation:
    command = Register(
        incarnation=incarnation, name="model", slots=SLOTS, labels=labels, holds=holds
    )
    return one_step(
        f"register({runner}, {incarnation}, {labels}, holds={holds})",
        lambda core: register(core, runner, command),
        lambda world, answer: world.register(runner, incarnation, labels, holds, answer),
    )


def take(asked: Claim) -> Operation:
    command = ClaimCommand(
        claim_id=asked.claim_id,
        incarnation=asked.incarnation,
        slots=asked.slots,
        pool=asked.pool,
        kinds=tuple(map(UnitKind, asked.kinds)),
        token_key=TOKEN_KEY,
    )
    return one_step(
        repr(asked),
        lambda core: claim(core, asked.runner, command),
        lambda world, answer: world.claim(asked, answer),
    )


def beat(runner: str, incarnation: str, attempts: tuple[str, ...]) -> Operation:
    command = Heartbeat(incarnation=incarnation, attempts=attempts)
    return one_step(
        f"heartbeat({runner}, {incarnation}, {attempts})",
        lambda core: heartbeat(core, runner, command),
        lambda world, answer: world.heartbeat(runner, incarnation, attempts, answer),
    )


def tell(runner: str, attempt_id: str, to: Literal["running", "verifying"] | None) -> Operation:
    command = Report.model_validate({"attempt_id": attempt_id, "state": to, "step": "working"})
    return one_step(
        f"report({runner}, {attempt_id}, {to})",
        lambda core: report(core, runner, command),
        lambda world, answer: world.report(runner, attempt_id, to, answer),
    )


def end(lab: Lab, world: World, said: Said) -> Operation:
    """`world`: it says what evidence the attempt needs."""
    command = _complete(lab, world, said)
    return one_step(
        repr(said),
        lambda core: complete(core, lab.check, said.runner, command),
        lambda world, answer: world.complete(said, answer),
    )


def end_many(lab: Lab, world: World, said: tuple[Said, ...]) -> Operation:
    """All by one runner."""
    runner = said[0].runner
    command = CompleteMany(completions=tuple(_complete(lab, world, each) for each in said))
    return one_step(
        f"complete_many{said}",
        lambda core: complete_many(core, lab.check, runner, command),
        lambda world, answer: world.complete_many(said, answer),
    )


def _complete(lab: Lab, world: World, said: Said) -> Complete:
    attempt = world.attempts.get(said.attempt_id)
    agent = attempt is None or attempt.kind == "agent"
    wish = None if attempt is None else world.tasks[attempt.task_id].wish
    verified = wish is None or wish.verified
    observed = None
    if agent:
        passed = VerdictStatus.PASSED if verified else VerdictStatus.NONE
        observed = RunnerObservations(
            runner_id=said.runner,
            agent="builtin",
            commit=commit_of(said.attempt_id),
            base_commit="b" * 40,
            ci_files=("Jenkinsfile",) if wish is not None and wish.ci else (),
            verdict=Verdict(status=passed if said.outcome == "won" else VerdictStatus.FAILED),
        )
    return Complete(
        attempt_id=said.attempt_id,
        outcome=AttemptState(said.outcome),
        reason=said.reason,
        retryable=said.retryable,
        receipts=(lab.receipt(said.attempt_id, said.runner),) if agent and said.evident else (),
        observed=observed,
    )
