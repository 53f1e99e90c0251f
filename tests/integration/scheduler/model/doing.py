"""Doing: operations are done to the scheduler, the whole state is compared with the model, and
every invariant is asked of the database, after each step."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from hypothesis import note
from hypothesis.stateful import RuleBasedStateMachine

from .checker import Program, explained
from .lab import Command, Lab
from .model import World
from .operations import Operation
from .records import LIVE, Unit
from .state import with_unit

RECENT = 12  # operations that may be done again


class Violation(AssertionError):
    """An invariant does not hold of the database."""


class Doing(RuleBasedStateMachine):
    lab: ClassVar[Lab]

    def __init__(self) -> None:
        super().__init__()
        # An example that comes too late draws as any, and does nothing.
        self.late = time.monotonic() > self.lab.until
        if not self.late:
            self.lab.wipe()
            self.lab.examples += 1
        self.world = World()
        self.recent: list[Operation] = []
        self.broken = False

    def do(self, *operations: Operation, cores: Sequence[int] = (0, 1, 0)) -> None:
        """One operation, or several at the same time, each on its core."""
        commands = [(each.run, core) for each, core in zip(operations, cores, strict=False)]
        self.do_as(operations, commands)

    def do_as(self, operations: Sequence[Operation], commands: list[tuple[Command, int]]) -> None:
        if self.late:
            return
        note(" | ".join(each.said for each in operations))
        answers = self.lab.at_once(commands)
        for each, answer in zip(operations, answers, strict=True):
            self.lab.met[f"{each.said.split('(')[0]} {answer.error}"] += 1
        programs = [each.steps(answer) for each, answer in zip(operations, answers, strict=True)]
        self.recent = [*self.recent, *operations][-RECENT:]
        self.judge(programs)

    def judge(self, programs: Sequence[Program] = ()) -> None:
        if self.late:
            return
        seen, faults = self.lab.look()
        self.broken = True
        faults += _over_limits(self.world, seen)
        if faults:
            raise Violation("; ".join(faults))
        world = self.world.copy()
        world.moment += 1
        world.strict = len(programs) == 1
        self.world = explained(world, programs, seen)
        self.broken = False

    # --- the machine's own hand

    def changed(self, statement: str, *values: Any) -> None:
        """By SQL: the clock's work, or what would take too many steps. The model knows of it."""
        self.lab.sql(statement, *values)
        self.judge()

    def of_unit(self, task_id: str, kind: str) -> Unit:
        task = self.world.tasks[task_id]
        unit = task.agent if kind == "agent" else task.publish
        assert unit is not None
        return unit

    def set_unit(self, task_id: str, kind: str, **values: Any) -> None:
        unit = replace(self.of_unit(task_id, kind), **values)
        self.world.tasks[task_id] = with_unit(self.world.tasks[task_id], kind, unit)

    def set_task(self, task_id: str, **values: Any) -> None:
        self.world.tasks[task_id] = replace(self.world.tasks[task_id], **values)


def _over_limits(before: World, seen: dict[str, Any]) -> list[str]:
    """I6, by what is there alone: never more than the limit; where it was lowered below what ran,
    no more than ran already, or than the old limit let in meanwhile."""
    tasks, attempts = seen["tasks"] or {}, (seen["attempts"] or {}).values()
    live = [tasks[each["task_id"]]["project"] for each in attempts if each["state"] in LIVE]
    faults = []
    for name, count in Counter(live).items():
        allowed = [seen["projects"][name]["limit"], before.running(name)]
        allowed += [before.projects[name].limit] if name in before.projects else []
        if count > max(allowed):
            faults.append(f"I6: {count} attempts of {name} live, at most {max(allowed)} may")
    return faults
