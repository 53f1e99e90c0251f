"""What the scheduler promises, as a small world in memory, written from DESIGN.md's sentences.

A world is told of a command and of the answer that came, says whether that answer was allowed
(`Mismatch` if not), and changes as the promise says. It shares no code with the product. Where the
product may choose (which unit a claim gets) the answer is judged, not predicted.
Records are frozen, so that `copy` is shallow: a checker tries several orders of the same commands.
Time is two-valued: a unit waits or is due, a lease has run out or not; the machine moves it.
"""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

LIVE = ("leased", "running", "verifying")
FINAL = ("succeeded", "failed", "cancelled")
PUBLISH_TRIES_MAX = 8
LOSSES_MAX = 10

Follow = list["Step"]
Step = Callable[["World"], Follow | None]  # what follows is a later transaction of one command


@dataclass(frozen=True)
class Maybe:
    """A step that may be left out while commands overlap: what another one holds is skipped."""

    step: Step

    def __call__(self, world: "World") -> Follow | None:
        return self.step(world)


class Mismatch(AssertionError):
    """An answer, or a state, that the model does not allow."""


@dataclass(frozen=True)
class Answer:
    """What came back: `value`, or the code of the error."""

    value: Any = None
    error: str = ""


@dataclass(frozen=True)
class Wish:
    """What matters of a task's spec."""

    project: str
    pool: str = "default"
    priority: int = 0
    attempts_max: int = 1
    retry_on: tuple[str, ...] | None = None
    verified: bool = True
    later: bool = False  # has a run_at that lies ahead
    serial: int = 0  # makes two specs differ


@dataclass(frozen=True)
class Unit:
    state: str = "ready"
    tries: int = 0
    losses: int = 0
    waits: bool = False  # its run_at lies ahead
    born: int = 0  # units of one moment share it


@dataclass(frozen=True)
class Task:
    task_id: str
    wish: Wish
    state: str = "ready"
    cancel: bool = False
    current: str | None = None
    winner: str | None = None
    used: int = 0
    losses: int = 0
    sealed: bool = False
    seal_waits: bool | None = None  # None: not sealing
    agent: Unit = field(default_factory=Unit)
    publish: Unit | None = None


@dataclass(frozen=True)
class Attempt:
    attempt_id: str
    task_id: str
    kind: str
    number: int
    runner: str
    incarnation: str
    claim_id: str
    state: str = "leased"
    reason: str = ""
    expired: bool = False
    token: str = ""

    @property
    def live(self) -> bool:
        return self.state in LIVE


@dataclass(frozen=True)
class Project:
    project_id: str
    name: str
    limit: int
    weight: int


@dataclass
class World:
    projects: dict[str, Project] = field(default_factory=dict)  # by name
    runners: dict[str, str] = field(default_factory=dict)  # id → incarnation
    tasks: dict[str, Task] = field(default_factory=dict)
    attempts: dict[str, Attempt] = field(default_factory=dict)
    claims: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    keys: dict[tuple[str, str], str] = field(default_factory=dict)  # project, key → task
    moment: int = 0
    strict: bool = True  # False while commands overlap: a claim may skip what another holds

    def copy(self) -> "World":
        return World(
            dict(self.projects),
            dict(self.runners),
            dict(self.tasks),
            dict(self.attempts),
            dict(self.claims),
            dict(self.keys),
            self.moment,
            self.strict,
        )

    # --- what is

    def live(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts.values() if attempt.live]

    def running(self, project: str) -> int:
        """Over all pools."""
        return sum(self.tasks[each.task_id].wish.project == project for each in self.live())

    def eligible(self, pool: str, kinds: Collection[str]) -> dict[str, list[tuple[Task, str]]]:
        """By project: units that a runner could be given now, whatever the limits say."""
        found: dict[str, list[tuple[Task, str]]] = {}
        for task in self.tasks.values():
            for kind, unit in (("agent", task.agent), ("publish", task.publish)):
                ready = unit is not None and unit.state == "ready" and not unit.waits
                if ready and kind in kinds and task.wish.pool == pool:
                    found.setdefault(task.wish.project, []).append((task, kind))
        return found

    def room(self, project: str) -> int:
        return self.projects[project].limit - self.running(project)

    # --- the API's commands

    def create_project(self, name: str, limit: int, weight: int, answer: Answer) -> None:
        known = self.projects.get(name)
        if known is not None and (known.limit, known.weight) != (limit, weight):
            return _refused(answer, "project-exists")
        value = _ok(answer)
        _same(value, created=known is None, running_limit=limit, weight=weight)
        self.projects[name] = Project(value.project_id, name, limit, weight)
        return None

    def submit(self, wish: Wish, key: str | None, answer: Answer) -> None:
        project = self.projects.get(wish.project)
        if project is None:
            return _refused(answer, "project-unknown")
        known = None if key is None else self.keys.get((wish.project, key))
        if known is not None:
            task = self.tasks[known]
            if task.wish != wish:
                return _refused(answer, "idempotency-conflict")
            return _same(_ok(answer), task_id=known, state=task.state, created=False)
        value = _ok(answer)
        _same(value, project_id=project.project_id, state="ready", created=True)
        _check(value.task_id not in self.tasks, "a new task has a new id")
        task = Task(value.task_id, wish, agent=Unit(waits=wish.later, born=self.moment))
        self.tasks[task.task_id] = task
        if key is not None:
            self.keys[wish.project, key] = task.task_id
        return None

    def cancel(self, task_id: str, answer: Answer) -> None:
        task = self.tasks.get(task_id)
        if task is None:
            return _refused(answer, "task-unknown")
        value = _ok(answer)
        match task.state:
            case "blocked" | "ready" | "sealing":
                _same(value, accepted=True, state="cancelled")
                task = self._end(replace(task, cancel=True), "cancelled")
            case "running":
                _same(value, accepted=True, state="running")
                task = replace(task, cancel=True)
            case _:  # publishing leaves only by an observed outcome; the end is the end
                _same(value, accepted=False, state=task.state)
        self.tasks[task_id] = task
        return None

    # --- a runner's commands

    def register(self, runner: str, incarnation: str, answer: Answer) -> Follow:
        """Attempts of earlier incarnations are lost, each in a transaction of its own."""
        _ok(answer)
        self.runners[runner] = incarnation
        earlier = [
            attempt.attempt_id
            for attempt in sorted(self.live(), key=lambda attempt: attempt.attempt_id)
            if attempt.runner == runner and attempt.incarnation != incarnation
        ]
        return [_lose(attempt_id, "runner-restarted") for attempt_id in earlier]

    def claim(
        self,
        runner: str,
        incarnation: str,
        claim_id: str,
        slots: int,
        pool: str,
        kinds: Collection[str],
        answer: Answer,
    ) -> None:
        if runner not in self.runners:
            return _refused(answer, "runner-unknown")
        if self.runners[runner] != incarnation:
            return _refused(answer, "incarnation-stale")
        given = _ok(answer).assignments
        if (runner, claim_id) in self.claims:
            return self._given_again(self.claims[runner, claim_id], given)
        _check(len(given) <= slots, f"{len(given)} units for {slots} slots")
        for one in given:
            self._lease(one, runner, incarnation, claim_id, pool, kinds)
        if given:
            self.claims[runner, claim_id] = tuple(one.attempt_id for one in given)
        if self.strict and len(given) < slots:
            for project, units in self.eligible(pool, kinds).items():
                left = f"{len(units)} units of {project} were due and below its limit, not given"
                _check(self.room(project) <= 0, left)
        return None

    def _given_again(self, before: Iterable[str], given: Collection[Any]) -> None:
        """The same attempts, as far as they live, with their leases renewed and new tokens."""
        live = [attempt_id for attempt_id in before if self.attempts[attempt_id].live]
        _equal([one.attempt_id for one in given], live, "a repeated claim's attempts")
        for one in given:
            attempt = self.attempts[one.attempt_id]
            self.attempts[one.attempt_id] = replace(attempt, expired=False, token=one.token)

    def _lease(
        self,
        one: Any,
        runner: str,
        incarnation: str,
        claim_id: str,
        pool: str,
        kinds: Collection[str],
    ) -> None:
        task, kind = self.tasks.get(one.task_id), str(one.kind)
        _check(task is not None, f"an assignment of a task nobody submitted: {one.task_id}")
        assert task is not None
        project = task.wish.project
        due = self.eligible(pool, kinds).get(project, [])
        _check((task, kind) in due, f"the {kind} unit of {task} was not to be given")
        _check(self.room(project) > 0, f"{project} is at its limit")
        if self.strict:
            first = min(_rank(*each) for each in due)
            _check(_rank(task, kind) == first, f"{task} was given before a better one")
        _check(one.attempt_id not in self.attempts, "an attempt id is never reused")
        _check(bool(one.token) == (kind == "agent"), "agent units, and only they, have tokens")
        unit = task.agent if kind == "agent" else task.publish
        assert unit is not None
        number = unit.tries + unit.losses + 1
        _same(one, number=number, project=project, project_id=self.projects[project].project_id)
        if kind == "publish":
            _equal(one.publish.commit, commit_of(task.winner or ""), "the commit to publish")
        self.attempts[one.attempt_id] = Attempt(
            one.attempt_id,
            task.task_id,
            kind,
            number,
            runner,
            incarnation,
            claim_id,
            token=one.token,
        )
        state = "running" if kind == "agent" else task.state
        task = replace(task, state=state, current=one.attempt_id)
        self.tasks[task.task_id] = _with_unit(task, kind, replace(unit, state="leased"))

    def heartbeat(
        self, runner: str, incarnation: str, asked: Collection[str], answer: Answer
    ) -> None:
        value = _ok(answer)
        kept = []
        for attempt_id in sorted(set(asked)):
            attempt = self.attempts.get(attempt_id)
            mine = attempt is not None and (attempt.runner, attempt.incarnation) == (
                runner,
                incarnation,
            )
            if attempt is not None and mine and attempt.live:
                kept.append(attempt_id)
                self.attempts[attempt_id] = replace(attempt, expired=False)
        cancelled = {one for one in kept if self.tasks[self.attempts[one].task_id].cancel}
        _equal(set(value.lease_until), set(kept), "leases renewed")
        _equal(set(value.lost), set(asked) - set(kept), "attempts told as lost")
        _equal(set(value.cancel), cancelled, "attempts told to stop")

    def report(self, runner: str, attempt_id: str, to: str | None, answer: Answer) -> None:
        attempt = self.attempts.get(attempt_id)
        if attempt is None or not attempt.live or attempt.runner != runner:
            return _refused(answer, "attempt-not-current")
        if to is not None and LIVE.index(to) < LIVE.index(attempt.state):
            return _refused(answer, "attempt-backwards")
        _same(_ok(answer), cancel=self.tasks[attempt.task_id].cancel)
        self.attempts[attempt_id] = replace(attempt, state=to or attempt.state)
        return None

    def complete(
        self,
        runner: str,
        attempt_id: str,
        outcome: str,
        reason: str,
        retryable: bool,
        evident: bool,
        answer: Answer,
    ) -> None:
        """`evident`: it comes with the evidence that its outcome needs."""
        attempt = self.attempts.get(attempt_id)
        if attempt is None or attempt.runner != runner:
            return _refused(answer, "attempt-not-current")
        if not reason and outcome != "won":
            reason = f"{attempt.kind}-{outcome}"
        if not attempt.live:
            if (attempt.state, attempt.reason) != (outcome, reason):
                return _refused(answer, "attempt-not-current")
            state = self.tasks[attempt.task_id].state
            return _same(_ok(answer), task_state=state, repeated=True)
        if outcome == "won" and attempt.kind == "agent" and not evident:
            return _refused(answer, "bundle-missing")
        self._ended(attempt, outcome, reason, retryable)
        state = self.tasks[attempt.task_id].state
        return _same(_ok(answer), task_state=state, repeated=False)

    def introspect(self, token: str, answer: Answer) -> None:
        value = _ok(answer)
        named = [each for each in self.live() if each.token == token and not each.expired]
        _equal(value.active, bool(named), "a token is good while its attempt's lease lives")
        if named:
            _same(value, attempt_id=named[0].attempt_id, task_id=named[0].task_id)

    # --- what nobody asks for

    def sweep(self) -> Follow:
        expired = [attempt for attempt in self.live() if attempt.expired]
        return [Maybe(_lose(attempt.attempt_id, "lease-expired")) for attempt in expired]

    def lose(self, attempt_id: str, reason: str) -> None:
        attempt = self.attempts[attempt_id]
        if attempt.live and (attempt.expired or reason != "lease-expired"):
            self._ended(attempt, "lost", reason, True)

    def ask_for_seals(self, outcome: str) -> Follow:
        """`outcome`: sealed | away | the code of a refusal."""
        due = [task for task in self.tasks.values() if task.seal_waits is False]
        for task in due:
            self.tasks[task.task_id] = replace(task, seal_waits=True)
        return [_sealed(task.task_id, outcome) for task in due]

    def seal(self, task_id: str, outcome: str) -> None:
        task = self.tasks[task_id]
        if task.state != "sealing" or outcome == "away":
            return
        if outcome != "sealed":
            self.tasks[task_id] = self._end(task, "failed")
            return
        self.tasks[task_id] = replace(
            task, state="publishing", sealed=True, seal_waits=None, publish=Unit(born=self.moment)
        )

    # --- consequences

    def _ended(self, attempt: Attempt, outcome: str, reason: str, retryable: bool) -> None:
        self.attempts[attempt.attempt_id] = replace(attempt, state=outcome, reason=reason)
        task = replace(self.tasks[attempt.task_id], current=None)
        unit = task.agent if attempt.kind == "agent" else task.publish
        assert unit is not None
        lost = outcome == "lost"
        unit = replace(unit, tries=unit.tries + (not lost), losses=unit.losses + lost)
        task = replace(task, losses=task.losses + lost)
        if attempt.kind == "agent":
            task = replace(task, used=task.used + (not lost))
            task = self._agent_ended(task, unit, attempt.attempt_id, outcome, reason, retryable)
        else:
            task = self._publish_ended(task, unit, outcome, retryable)
        self.tasks[task.task_id] = task

    def _agent_ended(
        self, task: Task, unit: Unit, attempt_id: str, outcome: str, reason: str, retryable: bool
    ) -> Task:
        wish = task.wish
        wanted = wish.retry_on is None or reason in wish.retry_on
        if task.cancel:
            return self._end(_with_unit(task, "agent", unit), "cancelled")
        match outcome:
            case "won":
                unit = replace(unit, state="done")
                task = replace(task, state="sealing", winner=attempt_id, seal_waits=False)
                return _with_unit(task, "agent", unit)
            case "rejected" | "failed" if retryable and wanted and unit.tries < wish.attempts_max:
                return _with_unit(replace(task, state="ready"), "agent", _again(unit, True))
            case "lost" if unit.losses < LOSSES_MAX:
                unit = _again(unit, waits=unit.losses > 1)
                return _with_unit(replace(task, state="ready"), "agent", unit)
        return self._end(_with_unit(task, "agent", unit), "failed")

    def _publish_ended(self, task: Task, unit: Unit, outcome: str, retryable: bool) -> Task:
        match outcome:
            case "won":
                unit = replace(unit, state="done")
                return _with_unit(replace(task, state="succeeded"), "publish", unit)
            case "failed" | "cancelled" if retryable and unit.tries < PUBLISH_TRIES_MAX:
                return _with_unit(task, "publish", _again(unit, True))
            case "lost" if unit.losses < LOSSES_MAX:
                return _with_unit(task, "publish", _again(unit, waits=unit.losses > 1))
        return self._end(_with_unit(task, "publish", unit), "failed")

    def _end(self, task: Task, state: str) -> Task:
        for kind, unit in (("agent", task.agent), ("publish", task.publish)):
            if unit is not None and unit.state in ("ready", "leased"):
                task = _with_unit(task, kind, replace(unit, state="dead", waits=False))
        return replace(task, state=state, seal_waits=None)


def commit_of(attempt_id: str) -> str:
    """The commit that the machine's runners say an attempt made: one of its own."""
    return attempt_id.encode().hex()[-40:].rjust(40, "0")


def _lose(attempt_id: str, reason: str) -> Step:
    return lambda world: world.lose(attempt_id, reason)


def _sealed(task_id: str, outcome: str) -> Step:
    return lambda world: world.seal(task_id, outcome)


def _with_unit(task: Task, kind: str, unit: Unit) -> Task:
    return replace(task, agent=unit) if kind == "agent" else replace(task, publish=unit)


def _again(unit: Unit, waits: bool) -> Unit:
    return replace(unit, state="ready", waits=waits)


def _rank(task: Task, kind: str) -> tuple[bool, int, int]:
    """What finishes a task goes first, then by priority and the unit's age."""
    unit = task.publish if kind == "publish" else task.agent
    assert unit is not None
    return (kind != "publish", -task.wish.priority, unit.born)


def _check(holds: bool, what: str) -> None:
    if not holds:
        raise Mismatch(what)


def _equal(was: object, expected: object, what: str) -> None:
    _check(was == expected, f"{what}: {was!r}, the model says {expected!r}")


def _same(value: Any, **expected: object) -> None:
    for name, wanted in expected.items():
        _equal(getattr(value, name), wanted, f"{type(value).__name__}.{name}")


def _ok(answer: Answer) -> Any:
    _check(not answer.error, f"refused with {answer.error}, the model allows it")
    return answer.value


def _refused(answer: Answer, code: str) -> None:
    _equal(answer.error, code, f"the refusal (the answer was {answer.value!r})")
