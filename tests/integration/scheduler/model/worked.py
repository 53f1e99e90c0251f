"""What a runner may ask, as the model answers it. Where the product may choose (which unit a claim
gets) the answer is judged, not predicted."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .records import (
    LIVE,
    Answer,
    Attempt,
    Follow,
    Runner,
    Step,
    Task,
    check,
    equal,
    ok,
    refused,
    same,
)
from .state import State, commit_of, with_unit


@dataclass(frozen=True)
class Claim:
    runner: str
    incarnation: str
    claim_id: str
    slots: int
    pool: str
    kinds: tuple[str, ...]


@dataclass(frozen=True)
class Said:
    """A completion. `evident`: it comes with the evidence that its outcome needs."""

    runner: str
    attempt_id: str
    outcome: str
    reason: str = ""
    retryable: bool = True
    evident: bool = True


class Worked(State):
    def register(
        self,
        runner: str,
        incarnation: str,
        labels: tuple[str, ...],
        holds: Sequence[str],
        answer: Answer,
    ) -> Follow:
        """Attempts of earlier incarnations are lost, each in a transaction of its own, but those
        that the new process `holds`."""
        before = self.runners.get(runner)
        draining = before is not None and before.draining
        self.runners[runner] = Runner(incarnation, labels, draining)
        mine = [attempt for attempt in self.live() if attempt.runner == runner]
        kept = [attempt for attempt in mine if attempt.attempt_id in holds]
        for attempt in kept:
            self.attempts[attempt.attempt_id] = replace(attempt, incarnation=incarnation)
        equal(set(ok(answer).kept), {each.attempt_id for each in kept}, "attempts kept")
        return [
            _lose(attempt.attempt_id, "runner-restarted")
            for attempt in sorted(mine, key=lambda attempt: attempt.attempt_id)
            if attempt.incarnation != incarnation and attempt not in kept
        ]

    def claim(self, asked: Claim, answer: Answer) -> None:
        runner = self.runners.get(asked.runner)
        if runner is None:
            return refused(answer, "runner-unknown")
        if runner.incarnation != asked.incarnation:
            return refused(answer, "incarnation-stale")
        given = ok(answer).assignments
        before = self.claims.get((asked.runner, asked.claim_id))
        if before is not None:
            return self._given_again(before, given)
        most = 0 if runner.draining else asked.slots
        check(len(given) <= most, f"{len(given)} units, where at most {most} were to be given")
        for one in given:
            self._lease(one, asked, runner)
        if given:
            named = tuple(one.attempt_id for one in given)
            self.claims[asked.runner, asked.claim_id] = named
        if self.strict and len(given) < most:
            due = self.eligible(asked.pool, asked.kinds, runner.labels)
            for project, units in due.items():
                left = f"{len(units)} units of {project} were due and below its limit, not given"
                check(self.room(project, asked.pool) <= 0, left)
        return None

    def _given_again(self, before: Iterable[str], given: Collection[Any]) -> None:
        """The same attempts, as far as they live, with their leases renewed and their tokens."""
        live = [attempt_id for attempt_id in before if self.attempts[attempt_id].live]
        equal([one.attempt_id for one in given], live, "a repeated claim's attempts")
        for one in given:
            attempt = self.attempts[one.attempt_id]
            equal(one.token, attempt.token, "the token of a repeated claim")
            expired = attempt.expired and bool(attempt.over)
            self.attempts[one.attempt_id] = replace(attempt, expired=expired)

    def _lease(self, one: Any, asked: Claim, runner: Runner) -> None:
        task, kind = self.tasks.get(one.task_id), str(one.kind)
        check(task is not None, f"an assignment of a task nobody submitted: {one.task_id}")
        assert task is not None
        project = task.wish.project
        due = self.eligible(asked.pool, asked.kinds, runner.labels).get(project, [])
        check((task, kind) in due, f"the {kind} unit of {task} was not to be given")
        check(self.room(project, asked.pool) > 0, f"{project} or {asked.pool} is at its limit")
        if self.strict:
            first = min(_rank(*each) for each in due)
            check(_rank(task, kind) == first, f"{task} was given before a better one")
        check(one.attempt_id not in self.attempts, "an attempt id is never reused")
        check(bool(one.token) == (kind == "agent"), "agent units, and only they, have tokens")
        unit = task.agent if kind == "agent" else task.publish
        assert unit is not None
        number = unit.tries + unit.losses + 1
        same(one, number=number, project=project, project_id=self.projects[project].project_id)
        if kind == "publish":
            equal(one.publish.commit, commit_of(task.winner or ""), "the commit to publish")
        self.attempts[one.attempt_id] = Attempt(
            one.attempt_id,
            task.task_id,
            kind,
            number,
            asked.runner,
            asked.incarnation,
            asked.claim_id,
            token=one.token,
        )
        state = "running" if kind == "agent" else task.state
        task = replace(task, state=state, reason="", current=one.attempt_id)
        self.tasks[task.task_id] = with_unit(task, kind, replace(unit, state="leased"))

    def heartbeat(
        self, runner: str, incarnation: str, asked: Collection[str], answer: Answer
    ) -> None:
        value = ok(answer)
        kept = []
        for attempt_id in sorted(set(asked)):
            attempt = self.attempts.get(attempt_id)
            if attempt is None or (attempt.runner, attempt.incarnation) != (runner, incarnation):
                continue
            if attempt.live and not attempt.over:
                kept.append(attempt_id)
                self.attempts[attempt_id] = replace(attempt, expired=False)
        told = {one for one in kept if self.tasks[self.attempts[one].task_id].stopping}
        equal(set(value.lease_until), set(kept), "leases renewed")
        equal(set(value.lost), set(asked) - set(kept), "attempts told as lost")
        equal(set(value.cancel), told, "attempts told to stop")

    def report(self, runner: str, attempt_id: str, to: str | None, answer: Answer) -> None:
        attempt = self.attempts.get(attempt_id)
        if attempt is None or not attempt.live or attempt.runner != runner:
            return refused(answer, "attempt-not-current")
        if to is not None and LIVE.index(to) < LIVE.index(attempt.state):
            return refused(answer, "attempt-backwards")
        same(ok(answer), cancel=self.tasks[attempt.task_id].stopping)
        self.attempts[attempt_id] = replace(attempt, state=to or attempt.state)
        return None

    def complete(self, said: Said, answer: Answer) -> None:
        attempt = self.attempts.get(said.attempt_id)
        if attempt is None or attempt.runner != said.runner:
            return refused(answer, "attempt-not-current")
        reason, outcome = said.reason, said.outcome
        if not reason and outcome != "won":
            reason = f"{attempt.kind}-{outcome}"
        if not attempt.live:
            if (attempt.state, attempt.reason) != (outcome, reason):
                return refused(answer, "attempt-not-current")
            state = self.tasks[attempt.task_id].state
            return same(ok(answer), task_state=state, repeated=True)
        if outcome == "won" and attempt.kind == "agent" and not said.evident:
            return refused(answer, "bundle-missing")
        self._ended(attempt, outcome, reason, said.retryable)
        state = self.tasks[attempt.task_id].state
        return same(ok(answer), task_state=state, repeated=False)

    def complete_many(self, said: Sequence[Said], answer: Answer) -> None:
        """Each answered for itself, as if they had come one after the other."""
        results = ok(answer).results
        check(len(results) == len(said), "an answer a completion")
        for one, result in zip(said, results, strict=True):
            code = "" if result.error is None else result.error["code"]
            self.complete(one, Answer(result.completed, code))

    def introspect(self, token: str, answer: Answer) -> None:
        value = ok(answer)
        named = [each for each in self.live() if each.token == token and not each.expired]
        equal(value.active, bool(named), "a token is good while its attempt's lease lives")
        if named:
            same(value, attempt_id=named[0].attempt_id, task_id=named[0].task_id)

    def lose(self, attempt_id: str, reason: str) -> None:
        """`reason` empty: its lease is over, and why is the attempt's own."""
        attempt = self.attempts[attempt_id]
        if attempt.live and (attempt.expired or reason):
            self._ended(attempt, "lost", reason or attempt.over or "lease-expired", True)


def _lose(attempt_id: str, reason: str) -> Step:
    return lambda world: world.lose(attempt_id, reason)


def _rank(task: Task, kind: str) -> tuple[bool, int, int]:
    """What finishes a task goes first, then by priority and the unit's age."""
    unit = task.publish if kind == "publish" else task.agent
    assert unit is not None
    return (kind != "publish", -task.wish.priority, unit.born)
