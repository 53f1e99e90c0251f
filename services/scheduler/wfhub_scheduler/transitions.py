"""Transitions: what the rules of states.py decide, gathered, and written with its events.

A `Transitions` is one transaction's: it locks its tasks (ascending ids), lets each be moved in
memory, and `write` puts all of it down in one statement a table, whether it is one task or a
hundred. A move that raises has recorded nothing, so a bad one harms no other of its group. Every
statement repeats the fence in SQL, as a last line: what was decided under the lock must still hold.
Raises: LeaseLost (whoever asks is not current).
"""

import random
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Self, assert_never

from wfhub_common.errors import Rejected
from wfhub_common.messages import (
    FINAL_TASK_STATES,
    AttemptState,
    Receipt,
    ReviewDecision,
    RunnerObservations,
    Sealed,
    TaskState,
    UnitKind,
)

from wfhub_scheduler import rows, timing
from wfhub_scheduler.core import Tx
from wfhub_scheduler.outbox import Event
from wfhub_scheduler.rows import Attempt, Task, lease_lost
from wfhub_scheduler.states import (
    LIVE,
    PUBLISH_TRIES_MAX,
    REPORTED_AS,
    REVIEWED_AS,
    AttemptEvent,
    AttemptFacts,
    AttemptRule,
    Effect,
    Facts,
    Rule,
    TaskEvent,
    decide,
    decide_attempt,
)
from wfhub_scheduler.writes import Changes, TaskChange, UnitChange


@dataclass(frozen=True)
class Ending:
    """How an attempt ended, and what its runner saw."""

    event: AttemptEvent
    reason: str = ""
    message: str = ""
    retryable: bool = True
    receipts: tuple[Receipt, ...] = ()
    observed: RunnerObservations | None = None


class Transitions:
    def __init__(self, tx: Tx, tasks: dict[str, Task]) -> None:
        """`tasks`: by id, their rows locked by this transaction."""
        self.tasks = tasks
        self._tx = tx
        self._attempts: dict[str, Attempt] = {}
        self._changes = Changes()

    @classmethod
    async def of_tasks(cls, tx: Tx, task_ids: Collection[str]) -> Self:
        return cls(tx, await rows.lock_tasks(tx.connection, task_ids))

    @classmethod
    async def of_attempts(cls, tx: Tx, attempts: Collection[str]) -> Self:
        made = cls(tx, await rows.lock_tasks_of(tx.connection, attempts))
        await made.lock_attempts(attempts)
        return made

    async def lock_attempts(self, attempts: Collection[str]) -> None:
        """Of the tasks that are here."""
        self._attempts |= await rows.lock_attempts(self._tx.connection, attempts)

    def attempt(self, attempt_id: str) -> tuple[Task, Attempt]:
        """Whoever holds it, and whether it is over."""
        attempt = self._attempts.get(attempt_id)
        if attempt is None:
            raise lease_lost(attempt_id)
        return self.tasks[attempt.task_id], attempt

    def held(self, attempt_id: str, sender: str) -> tuple[Task, Attempt]:
        """Live, current, and the sender's own."""
        task, attempt = self.attempt(attempt_id)
        if not _is_held(task, attempt, sender) or attempt.state not in LIVE:
            raise lease_lost(attempt_id)
        return task, attempt

    def report(
        self, attempt_id: str, sender: str, to: AttemptState | None, step: dict[str, Any]
    ) -> Task:
        """A step of a live attempt, and a new state where it names another."""
        task, attempt = self.held(attempt_id, sender)
        if to is not None and to != attempt.state:
            rule = decide_attempt(attempt.state, REPORTED_AS[to], AttemptFacts(held=True))
            if rule is None:
                raise Rejected(
                    "attempt-backwards",
                    f"the attempt is {attempt.state} already and cannot become {to} again",
                    status=409,
                )
            self._move_attempt(task, attempt, rule)
        data = {**step, "task_id": task.task_id}
        self._changes.events.append(
            Event("attempt.step", attempt_id, data, task.project_id, task.task_id)
        )
        return task

    def end(
        self, attempt_id: str, sender: str, ending: Ending, *, process: str | None = None
    ) -> TaskState:
        """The attempt is over, and its task goes on: which way is the answer.
        `process`: the incarnation that its runner is now, where that is why."""
        task, attempt = self.attempt(attempt_id)
        facts = AttemptFacts(
            held=_is_held(task, attempt, sender),
            lease_over=attempt.lease_over,
            other_process=process is not None and process != attempt.incarnation,
        )
        attempt_rule = decide_attempt(attempt.state, ending.event, facts)
        if attempt_rule is None or attempt_rule.then is None:
            raise lease_lost(attempt_id)
        lost = attempt_rule.to is AttemptState.LOST
        agent = attempt.kind is UnitKind.AGENT
        unit = UnitChange(attempt.unit_id, tries=int(not lost), losses=int(lost))
        after = Facts(
            cancel_requested=task.cancel_requested,
            deadline_passed=task.deadline_passed,
            retryable=ending.retryable
            and (not agent or timing.retried_on(task.retry, ending.reason)),
            tries=attempt.unit_tries + unit.tries,
            losses=attempt.unit_losses + unit.losses,
            tries_max=task.retry.attempts_max if agent else PUBLISH_TRIES_MAX,
        )
        rule = decide(task.state, attempt_rule.then, after)
        if rule is None:
            raise lease_lost(attempt_id)
        self._move_attempt(task, attempt, attempt_rule, ending)
        self._settle_unit(unit, rule, after, task if agent else None)
        self._changes.units.append(unit)
        if agent:  # no other has a token
            self._tx.after.ended.append(attempt_id)
        self._tx.after.units_ready = True  # a place below the limits came free
        noted = self._tx.after.noted
        noted.append(("attempt", attempt.kind.value, attempt_rule.to.value))
        if rule.effect in (Effect.RETRY, Effect.REQUEUE):
            noted.append(("retry", rule.effect.value, ending.reason))
        if lost:
            noted.append(("expired", ending.reason))
        observed = ending.observed if agent else None
        won = rule.effect is Effect.SEAL
        self._move(
            task,
            rule,
            reason=ending.reason,
            message=ending.message,
            winner=attempt_id if won else None,
            tries=int(agent and not lost),
            losses=int(lost),
            # The verdict of the last attempt that has one; the commit only of the one that won.
            verdict=observed.verdict.status.value if observed else None,
            commit_id=observed.commit if observed and won else None,
            base_commit=(observed.base_commit or None) if observed else None,
        )
        return rule.to

    def cancel(self, task_id: str, reason: str) -> tuple[bool, TaskState]:
        """Whether it was accepted, and the task's state now."""
        task = self.tasks[task_id]
        rule = decide(task.state, TaskEvent.CANCEL, Facts())
        if rule is None:
            return False, task.state
        if not task.cancel_requested:
            self._task_event(task, "task.cancel_requested", {"reason": reason})
            task.cancel_requested, task.cancel_reason = True, reason
            self._move(task, rule, message=reason, cancel=reason)
        return True, rule.to

    def review(
        self, task_id: str, decision: ReviewDecision, reviewer: str, comment: str
    ) -> tuple[bool, TaskState]:
        """Whether it was accepted, and the task's state now."""
        task = self.tasks[task_id]
        if task.review == decision:
            return True, task.state
        facts = Facts(deadline_passed=task.deadline_passed)
        rule = decide(task.state, REVIEWED_AS[decision], facts)
        if rule is None:
            return False, task.state
        said = {"decision": decision.value, "reviewer": reviewer, "comment": comment}
        self._task_event(task, "task.reviewed", said)
        task.review = decision.value
        message = comment if decision is ReviewDecision.DECLINED else ""
        noted = {"review": decision.value, "reviewed_by": reviewer}
        self._move(task, rule, message=message, **noted)
        return True, rule.to

    def skip(self, task_id: str, reason: str, message: str) -> bool:
        """A task of a workflow that has not started is not needed any more."""
        task = self.tasks[task_id]
        rule = decide(task.state, TaskEvent.SKIPPED, Facts())
        if rule is not None:
            self._move(task, rule, reason=reason, message=message)
        return rule is not None

    def unresolvable(self, task_id: str, message: str) -> None:
        """A task of a workflow whose needs are met, but whose spec cannot be filled."""
        task = self.tasks[task_id]
        rule = decide(task.state, TaskEvent.UNRESOLVABLE, Facts())
        assert rule is not None, "its caller holds its lock, and has seen it blocked"
        self._move(task, rule, message=message)

    def timed_out(self, task_id: str, event: TaskEvent, message: str) -> bool:
        """QUEUE_TIMEOUT, REVIEW_TIMEOUT or DEADLINE; False: by now it does not matter."""
        task = self.tasks[task_id]
        facts = Facts(deadline_passed=task.deadline_passed, tries=task.tries, losses=task.losses)
        rule = decide(task.state, event, facts)
        if rule is None or (rule.effect is Effect.TELL and task.stopping):
            return False
        if rule.effect is Effect.TELL:
            self._task_event(task, "task.deadline_passed", {"message": message})
        self._move(task, rule, message=message)
        return True

    def sealed(self, task_id: str, winner: str, proof: Sealed, *, ci_files: str = "") -> bool:
        """`ci_files`: what a person is to know of them before it is published, if anything.
        False: it was cancelled while the proof was made, or another scheduler was first."""
        task = self.tasks.get(task_id)
        if task is None or task.winner != winner:
            return False
        facts = Facts(
            deadline_passed=task.deadline_passed,
            review_wanted=task.review_wanted,
            ci_files_changed=bool(ci_files),
        )
        rule = decide(task.state, TaskEvent.SEALED, facts)
        if rule is None:
            return False
        data = {"task_id": task_id, "proof_id": proof.proof_id, "digest": proof.envelope_digest}
        self._changes.events.append(
            Event("proof.sealed", proof.proof_id, data, task.project_id, task_id)
        )
        message = ci_files if rule.effect is Effect.ASK else ""
        self._move(task, rule, message=message, proof_id=proof.proof_id, tokens=proof.tokens)
        return True

    def seal_refused(self, task_id: str, winner: str, reason: str, message: str) -> bool:
        task = self.tasks.get(task_id)
        rule = None if task is None else decide(task.state, TaskEvent.SEAL_REFUSED, Facts())
        if task is None or rule is None or task.winner != winner:
            return False
        self._move(task, rule, reason=reason, message=message)
        return True

    async def write(self) -> None:
        """Once, last in the transaction."""
        await self._changes.write(self._tx.connection)

    def _settle_unit(self, unit: UnitChange, rule: Rule, facts: Facts, agents: Task | None) -> None:
        """`agents`: the task whose agent unit it is; else it is a publish unit."""
        luck = random.random()  # noqa: S311 - jitter
        match rule.effect:
            case Effect.RETRY if agents is not None:
                unit.delay_s = timing.retry_delay_s(agents.retry, facts.tries, luck)
                unit.state = "ready"
            case Effect.RETRY:
                base_s = self._tx.timing.retry_base_s
                unit.delay_s = timing.publish_delay_s(base_s, facts.tries, luck)
                unit.state = "ready"
            case Effect.REQUEUE:
                unit.delay_s = timing.loss_delay_s(facts.losses, luck)
                unit.state = "ready"
            case Effect.SEAL | Effect.FINISH:
                unit.state = "done"
            case Effect.END:
                unit.state = "dead"
            case Effect.ENQUEUE | Effect.LEASE | Effect.TELL | Effect.PUBLISH | Effect.ASK:
                raise AssertionError(f"{rule.effect} does not follow the end of an attempt")
            case _:
                assert_never(rule.effect)

    def _move_attempt(
        self, task: Task, attempt: Attempt, rule: AttemptRule, ending: Ending | None = None
    ) -> None:
        reason = ending.reason if ending else ""
        self._changes.attempt(
            attempt,
            rule.to,
            over=rule.then is not None,
            reason=reason,
            message=ending.message if ending else "",
            observed=ending.observed if ending else None,
            receipts=ending.receipts if ending else (),
        )
        data = {
            "task_id": task.task_id,
            "from": attempt.state.value,
            "to": rule.to.value,
            "reason": reason,
            "number": attempt.number,
            "kind": attempt.kind.value,
            "runner_id": attempt.runner_id,
        }
        self._changes.events.append(
            Event("attempt.state_changed", attempt.attempt_id, data, task.project_id, task.task_id)
        )
        attempt.state, attempt.reason = rule.to, reason

    def _move(
        self,
        task: Task,
        rule: Rule,
        *,
        reason: str = "",
        message: str = "",
        **noted: Any,
    ) -> None:
        """The task's own row, and what follows from it. `noted`: fields of TaskChange."""
        reason = reason if rule.reason is None else rule.reason
        if rule.to is TaskState.CANCELLED and task.cancel_requested:
            message = task.cancel_reason
        final = rule.to in FINAL_TASK_STATES
        stopping = rule.effect is Effect.TELL
        if stopping:
            message = ""  # it runs: said when it ends
        self._changes.tasks.append(
            TaskChange(
                task.task_id,
                was=task.state.value,
                held_by=task.current_attempt,
                to=rule.to.value,
                reason=reason,
                message=message,
                final=final,
                stopping=stopping,
                **noted,
            )
        )
        if rule.effect is Effect.PUBLISH:
            self._changes.publish.append(task.task_id)
            self._tx.after.units_ready = True
        elif rule.effect is Effect.END and task.state in (TaskState.BLOCKED, TaskState.READY):
            self._changes.dead.append(task.task_id)
        self._tx.after.seal_due |= rule.effect is Effect.SEAL
        self._tx.after.workflow_due |= final and task.workflow_id is not None
        if final:
            self._tx.after.noted.append(("ended", rule.to.value, reason))
        if rule.to != task.state:
            said = {"from": task.state.value, "to": rule.to.value}
            self._task_event(
                task, "task.state_changed", {**said, "reason": reason, "message": message}
            )
        task.state, task.stopping = rule.to, stopping
        task.current_attempt = task.current_attempt if stopping else None

    def _task_event(self, task: Task, type_: str, data: dict[str, Any]) -> None:
        self._changes.events.append(Event(type_, task.task_id, data, task.project_id, task.task_id))


def _is_held(task: Task, attempt: Attempt, sender: str) -> bool:
    return task.current_attempt == attempt.attempt_id and attempt.runner_id == sender
