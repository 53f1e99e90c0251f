"""The model's state, what may be asked of it, and what follows from an attempt's or a task's end.

Written from DESIGN.md's sentences; it shares no code with the product. Records are frozen, so that
`copy` is shallow: a checker tries several orders of the same commands.
Time is two-valued: a unit waits or is due, a lease has run out or not; the machine moves it.
"""

from collections.abc import Collection
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

from .records import (
    LOSSES_MAX,
    PUBLISH_TRIES_MAX,
    QUEUED,
    Attempt,
    Pool,
    Project,
    Runner,
    Task,
    Unit,
    Workflow,
)


@dataclass
class State:
    projects: dict[str, Project] = field(default_factory=dict)  # by name
    pools: dict[str, Pool] = field(default_factory=dict)  # those that somebody changed
    runners: dict[str, Runner] = field(default_factory=dict)
    tasks: dict[str, Task] = field(default_factory=dict)
    attempts: dict[str, Attempt] = field(default_factory=dict)
    workflows: dict[str, Workflow] = field(default_factory=dict)
    claims: dict[tuple[str, str], tuple[str, ...]] = field(default_factory=dict)
    keys: dict[tuple[str, str], str] = field(default_factory=dict)  # project, key → task
    flow_keys: dict[tuple[str, str], str] = field(default_factory=dict)  # the same of workflows
    moment: int = 0
    strict: bool = True  # False while commands overlap: a claim may skip what another holds

    def copy(self) -> Self:
        values: dict[str, Any] = {each.name: getattr(self, each.name) for each in fields(self)}
        return type(self)(
            **{n: dict(value) if isinstance(value, dict) else value for n, value in values.items()}
        )

    # --- what is

    def live(self) -> list[Attempt]:
        return [attempt for attempt in self.attempts.values() if attempt.live]

    def running(self, project: str) -> int:
        """Over all pools."""
        return sum(self.tasks[each.task_id].wish.project == project for each in self.live())

    def queued(self, project: str) -> int:
        of = [task for task in self.tasks.values() if task.wish.project == project]
        return sum(task.state in QUEUED for task in of)

    def eligible(
        self, pool: str, kinds: Collection[str], labels: Collection[str]
    ) -> dict[str, list[tuple[Task, str]]]:
        """By project: units that such a runner could be given now, whatever the limits say."""
        found: dict[str, list[tuple[Task, str]]] = {}
        for task in self.tasks.values():
            if task.wish.pool != pool or not set(task.wish.labels) <= set(labels):
                continue
            paused = self.projects[task.wish.project].paused or self.pool(pool).paused
            for kind, unit in (("agent", task.agent), ("publish", task.publish)):
                ready = unit is not None and unit.state == "ready" and not unit.waits
                if ready and kind in kinds and (kind == "publish" or not paused):
                    found.setdefault(task.wish.project, []).append((task, kind))
        return found

    def pool(self, name: str) -> Pool:
        return self.pools.get(name, Pool())

    def room(self, project: str, pool: str) -> int:
        """In both."""
        room = self.projects[project].limit - self.running(project)
        limit = self.pool(pool).limit
        if limit is not None:
            inside = sum(self.tasks[each.task_id].wish.pool == pool for each in self.live())
            room = min(room, limit - inside)
        return room

    # --- consequences

    def _ended(self, attempt: Attempt, outcome: str, reason: str, retryable: bool) -> None:
        self.attempts[attempt.attempt_id] = replace(attempt, state=outcome, reason=reason)
        task = replace(self.tasks[attempt.task_id], current=None, stopping=False)
        unit = task.agent if attempt.kind == "agent" else task.publish
        assert unit is not None
        lost = outcome == "lost"
        unit = replace(unit, tries=unit.tries + (not lost), losses=unit.losses + lost)
        task = replace(task, losses=task.losses + lost)
        if attempt.kind == "agent":
            task = replace(task, used=task.used + (not lost))
            task = self._agent_ended(task, unit, attempt.attempt_id, outcome, reason, retryable)
        else:
            task = self._publish_ended(task, unit, outcome, reason, retryable)
        self.tasks[task.task_id] = task

    def _agent_ended(
        self, task: Task, unit: Unit, attempt_id: str, outcome: str, reason: str, retryable: bool
    ) -> Task:
        wish = task.wish
        again = retryable and (wish.retry_on is None or reason in wish.retry_on)
        if task.cancel:
            return self._end(with_unit(task, "agent", unit), "cancelled", "cancelled")
        if task.past:
            return self._end(with_unit(task, "agent", unit), "failed", "deadline")
        match outcome:
            case "won":
                unit = replace(unit, state="done")
                task = replace(task, state="sealing", winner=attempt_id, seal_waits=False)
                return with_unit(replace(task, reason=reason), "agent", unit)
            case "rejected" | "failed" if again and unit.tries < wish.attempts_max:
                task = replace(task, state="ready", reason=reason)
                return with_unit(task, "agent", _again(unit, True))
            case "lost" if unit.losses < LOSSES_MAX:
                unit = _again(unit, waits=unit.losses > 1)
                return with_unit(replace(task, state="ready", reason=reason), "agent", unit)
        reason = "infrastructure" if outcome == "lost" else reason
        return self._end(with_unit(task, "agent", unit), "failed", reason)

    def _publish_ended(
        self, task: Task, unit: Unit, outcome: str, reason: str, retryable: bool
    ) -> Task:
        match outcome:
            case "won":
                unit = replace(unit, state="done")
                task = replace(task, state="succeeded", reason="")
                return with_unit(task, "publish", unit)
            case "failed" | "cancelled" if retryable and unit.tries < PUBLISH_TRIES_MAX:
                return with_unit(replace(task, reason=reason), "publish", _again(unit, True))
            case "lost" if unit.losses < LOSSES_MAX:
                again = _again(unit, waits=unit.losses > 1)
                return with_unit(replace(task, reason=reason), "publish", again)
            case "failed" | "cancelled":
                reason = "publish-unreachable"
            case "lost":
                reason = "infrastructure"
        return self._end(with_unit(task, "publish", unit), "failed", reason)

    def _end(self, task: Task, state: str, reason: str) -> Task:
        for kind, unit in (("agent", task.agent), ("publish", task.publish)):
            if unit is not None and unit.state in ("ready", "leased"):
                task = with_unit(task, kind, replace(unit, state="dead", waits=False))
        return replace(task, state=state, reason=reason, seal_waits=None)


def commit_of(attempt_id: str) -> str:
    """The commit that the machine's runners say an attempt made: one of its own."""
    return attempt_id.encode().hex()[-40:].rjust(40, "0")


def with_unit(task: Task, kind: str, unit: Unit) -> Task:
    return replace(task, agent=unit) if kind == "agent" else replace(task, publish=unit)


def _again(unit: Unit, waits: bool) -> Unit:
    return replace(unit, state="ready", waits=waits)
