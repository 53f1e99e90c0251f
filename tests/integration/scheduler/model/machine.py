"""The machine: draws what happens next, does it to the scheduler, and has it judged.

After each step the whole state is compared with the model, and every invariant is asked of the
database. At the end everything is driven to its end, in a bounded number of rounds (I2).
A fault is an error of the example; `Lab.steps` counts commands.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from wfhub_common import ids

from . import operations as op
from .checker import Program, differences, explained
from .lab import Command, Lab
from .model import FINAL, LOSSES_MAX, PUBLISH_TRIES_MAX, Answer, Mismatch, Unit, Wish, World
from .operations import Operation

PROJECTS = {"narrow": (1, 1), "middle": (3, 2), "wide": (9, 5)}  # running limit, weight
POOLS = ("default", "big")
RUNNERS = ("rnr_a", "rnr_b", "rnr_c")
KINDS = (("agent", "publish"), ("agent",), ("publish",))
REASONS = ("", "tests-failed", "agent-crashed")
RECENT = 12  # operations that may be done again

Draw = Callable[[st.SearchStrategy[Any]], Any]


class Violation(AssertionError):
    """An invariant does not hold of the database."""


class Coordination(RuleBasedStateMachine):
    lab: ClassVar[Lab]

    def __init__(self) -> None:
        super().__init__()
        self.lab.wipe()
        self.world = World()
        self.incarnations: dict[str, list[str]] = {runner: [] for runner in RUNNERS}
        self.recent: list[Operation] = []
        self.serial = 0
        self.broken = False

    # --- doing

    def do(self, *operations: Operation, cores: Sequence[int] = (0, 1, 0)) -> None:
        """One operation, or several at the same time, each on its core."""
        commands = [(each.run, core) for each, core in zip(operations, cores, strict=False)]
        self._do(operations, commands)

    def _do(self, operations: Sequence[Operation], commands: list[tuple[Command, int]]) -> None:
        note(" | ".join(each.said for each in operations))
        answers = self.lab.at_once(commands)
        programs = [each.steps(answer) for each, answer in zip(operations, answers, strict=True)]
        self.recent = [*self.recent, *operations][-RECENT:]
        self._judge(programs)

    def _judge(self, programs: Sequence[Program]) -> None:
        seen, faults = self.lab.look()
        self.broken = True
        if faults:
            raise Violation("; ".join(faults))
        world = self.world.copy()
        world.moment += 1
        world.strict = len(programs) == 1
        self.world = explained(world, programs, seen)
        self.broken = False

    # --- what could be done

    def a_submit(self, draw: Draw) -> Operation:
        self.serial += 1
        fresh = draw(st.booleans())
        wish = Wish(
            project=draw(st.sampled_from([*PROJECTS, "narrow", "unknown"])),
            pool=draw(st.sampled_from(POOLS)),
            priority=draw(st.sampled_from([0, 0, 5, -5])),
            attempts_max=draw(st.integers(1, 3)),
            retry_on=None,
            verified=draw(st.booleans()),
            later=False,
            serial=self.serial if fresh else 0,
        )
        return op.submit(wish, draw(st.sampled_from([None, None, "k1", "k2"])))

    def a_cancel(self, draw: Draw) -> Operation:
        open_ = [one.task_id for one in self.world.tasks.values() if one.state not in FINAL]
        return op.cancel(self._one_of(draw, open_, list(self.world.tasks), "tsk_nobody"))

    def a_register(self, draw: Draw) -> Operation:
        runner = draw(st.sampled_from(RUNNERS))
        known = self.incarnations[runner]
        if known and draw(st.integers(0, 3)) == 0:
            return op.new_process(runner, draw(st.sampled_from(known)))  # the reply was lost
        known.append(f"{runner}-{len(known) + 1}")
        return op.new_process(runner, known[-1])

    def a_claim(self, draw: Draw) -> Operation:
        runner, incarnation = self._a_process(draw)
        return op.take(
            runner,
            incarnation,
            draw(st.sampled_from(["c1", "c2", "c3", ids.new_claim_id(), ids.new_claim_id()])),
            draw(st.sampled_from([1, 2, 5])),
            draw(st.sampled_from(POOLS)),
            draw(st.sampled_from(KINDS)),
        )

    def a_heartbeat(self, draw: Draw) -> Operation:
        runner, incarnation = self._a_process(draw)
        asked = draw(st.lists(st.sampled_from([*self.world.attempts, "att_nobody"]), max_size=4))
        live = [one.attempt_id for one in self.world.live() if one.runner == runner]
        return op.beat(runner, incarnation, tuple(dict.fromkeys([*live, *asked])))

    def a_report(self, draw: Draw) -> Operation:
        attempt_id, sender = self._an_attempt(draw)
        return op.tell(sender, attempt_id, draw(st.sampled_from([None, "running", "verifying"])))

    def a_completion(self, draw: Draw) -> Operation:
        attempt_id, sender = self._an_attempt(draw)
        outcomes = ["won", "won", "won", "rejected", "failed", "failed", "cancelled"]
        return self._end(
            sender,
            attempt_id,
            draw(st.sampled_from(outcomes)),
            reason=draw(st.sampled_from(REASONS)),
            retryable=draw(st.sampled_from([True, True, True, False])),
            evident=draw(st.sampled_from([True] * 5 + [False])),
        )

    def _end(self, sender: str, attempt_id: str, outcome: str, **more: Any) -> Operation:
        attempt = self.world.attempts.get(attempt_id)
        wish = None if attempt is None else self.world.tasks[attempt.task_id].wish
        return op.end(self.lab, sender, attempt_id, attempt, wish, outcome, **more)

    def a_sweep(self, _: Draw) -> Operation:
        return op.sweep(self.lab)

    def a_seal(self, draw: Draw) -> Operation:
        return op.seals(
            self.lab, draw(st.sampled_from(["sealed", "sealed", "away", "bundle-gone"]))
        )

    def an_introspection(self, draw: Draw) -> Operation:
        tokens = [one.token for one in self.world.attempts.values() if one.token]
        return op.ask_token(draw(st.sampled_from([*tokens[::-1], "wat_nobody"])))

    ANY: ClassVar = (
        a_submit,
        a_cancel,
        a_register,
        a_claim,
        a_claim,
        a_heartbeat,
        a_report,
        a_completion,
        a_completion,
        a_sweep,
        a_seal,
        an_introspection,
    )

    def _one_of(self, draw: Draw, likely: list[str], possible: list[str], made_up: str) -> str:
        luck = draw(st.integers(0, 9))
        if likely and luck < 7:
            return str(draw(st.sampled_from(likely)))
        return str(draw(st.sampled_from([*possible, made_up])))

    def _an_attempt(self, draw: Draw) -> tuple[str, str]:
        """An attempt and who speaks for it, mostly its own runner."""
        live = [one.attempt_id for one in self.world.live()]
        attempt_id = self._one_of(draw, live, list(self.world.attempts), "att_nobody")
        attempt = self.world.attempts.get(attempt_id)
        own = [] if attempt is None else [attempt.runner]
        return attempt_id, self._one_of(draw, own, list(RUNNERS), "rnr_nobody")

    def _a_process(self, draw: Draw) -> tuple[str, str]:
        """A runner and the process of it that speaks, mostly the newest."""
        runner = self._one_of(draw, list(self.world.runners), list(RUNNERS), "rnr_nobody")
        newest = [] if runner not in self.world.runners else [self.world.runners[runner]]
        known = self.incarnations.get(runner, [])
        return runner, self._one_of(draw, newest, known, f"{runner}-nobody")

    # --- rules

    @initialize(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        for name, (limit, weight) in PROJECTS.items():
            self.do(op.new_project(name, limit, weight))
        for runner in RUNNERS[:2]:
            self.incarnations[runner].append(f"{runner}-1")
            self.do(op.new_process(runner, f"{runner}-1"))
        for _ in range(data.draw(st.integers(0, 3))):
            self.do(self.a_submit(data.draw))

    @rule(data=st.data())
    def submits(self, data: st.DataObject) -> None:
        self.do(self.a_submit(data.draw))

    @rule(data=st.data())
    def project_again(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(list(PROJECTS)))
        limit, weight = data.draw(st.sampled_from([PROJECTS[name], (7, 7)]))
        self.do(op.new_project(name, limit, weight))

    @precondition(lambda self: self.world.tasks)
    @rule(data=st.data())
    def cancels(self, data: st.DataObject) -> None:
        self.do(self.a_cancel(data.draw))

    @rule(data=st.data())
    def registers(self, data: st.DataObject) -> None:
        self.do(self.a_register(data.draw))

    @rule(data=st.data())
    def claims(self, data: st.DataObject) -> None:
        self.do(self.a_claim(data.draw))

    @rule(data=st.data())
    def beats(self, data: st.DataObject) -> None:
        self.do(self.a_heartbeat(data.draw))

    @precondition(lambda self: self.world.attempts)
    @rule(data=st.data())
    def reports(self, data: st.DataObject) -> None:
        self.do(self.a_report(data.draw))

    @precondition(lambda self: self.world.attempts)
    @rule(data=st.data())
    def completes(self, data: st.DataObject) -> None:
        self.do(self.a_completion(data.draw))

    @precondition(lambda self: self._sealing())
    @rule(data=st.data())
    def asks_for_proofs(self, data: st.DataObject) -> None:
        self.do(self.a_seal(data.draw))

    @precondition(lambda self: any(one.token for one in self.world.attempts.values()))
    @rule(data=st.data())
    def asks_about_a_token(self, data: st.DataObject) -> None:
        self.do(self.an_introspection(data.draw))

    @precondition(lambda self: self.recent)
    @rule(data=st.data())
    def again(self, data: st.DataObject) -> None:
        """A duplicate, maybe late."""
        self.do(data.draw(st.sampled_from(self.recent[::-1])))

    @rule(data=st.data(), cores=st.tuples(*[st.integers(0, 1)] * 3))
    def at_once(self, data: st.DataObject, cores: tuple[int, int, int]) -> None:
        """Two or three commands at the same time, in one scheduler or in two."""
        count = data.draw(st.sampled_from([2, 2, 2, 3]))
        kinds = data.draw(st.lists(st.sampled_from(self.ANY), min_size=count, max_size=count))
        self.do(*self._apart([kind(self, data.draw) for kind in kinds]), cores=cores)

    @precondition(lambda self: self.recent)
    @rule(data=st.data(), cores=st.tuples(*[st.integers(0, 1)] * 2))
    def twice_at_once(self, data: st.DataObject, cores: tuple[int, int]) -> None:
        """Something new, delivered twice at the same time."""
        kind = data.draw(st.sampled_from(self.ANY))
        twice = kind(self, data.draw)
        self.do(twice, twice, cores=cores)

    @precondition(lambda self: any(one.seal_waits is False for one in self.world.tasks.values()))
    @rule(data=st.data())
    def while_a_proof_is_made(self, data: st.DataObject) -> None:
        """A whole command between the question to the proof-store and its answer."""
        kind = data.draw(st.sampled_from([each for each in self.ANY if each.__name__ != "a_seal"]))
        sealing, other = self.a_seal(data.draw), kind(self, data.draw)
        self._do([sealing, other], [(sealing.run, 0), (self.lab.in_between(other.run), 1)])

    def _apart(self, operations: list[Operation]) -> list[Operation]:
        """The proof-store's double has one answer at a time."""
        seals = [each for each in operations if each.said.startswith("seals")]
        return [each for each in operations if each not in seals[1:]]

    # --- time

    @precondition(lambda self: self._waiting())
    @rule(data=st.data())
    def a_wait_ends(self, data: st.DataObject) -> None:
        self._due(data.draw(st.sampled_from(self._waiting())))

    @precondition(lambda self: self.world.live())
    @rule(data=st.data())
    def leases_run_out(self, data: st.DataObject) -> None:
        live = [one.attempt_id for one in self.world.live()]
        gone = data.draw(st.lists(st.sampled_from(live), min_size=1, max_size=3, unique=True))
        self._expire(gone)
        if data.draw(st.booleans()):
            self.do(op.sweep(self.lab))

    @precondition(lambda self: self._ready())
    @rule(data=st.data())
    def wears_out(self, data: st.DataObject) -> None:
        """As if a unit had been tried, or lost, nearly as often as it may be."""
        task_id, kind = data.draw(st.sampled_from(self._ready()))
        unit = self._unit(task_id, kind)
        losses = max(unit.losses, LOSSES_MAX - 1)
        tries = max(unit.tries, PUBLISH_TRIES_MAX - 1) if kind == "publish" else unit.tries
        self.lab.sql(
            "UPDATE sched.unit SET tries = $3, losses = $4 WHERE task_id = $1 AND kind = $2",
            task_id,
            kind,
            tries,
            losses,
        )
        self._set_unit(task_id, kind, replace(unit, tries=tries, losses=losses))
        self._judge([])

    def _waiting(self) -> list[tuple[str, str]]:
        """(task, kind of unit); the kind of a proof that is to be asked for again is `seal`."""
        seals = [(id_, "seal") for id_, one in self.world.tasks.items() if one.seal_waits]
        return seals + [at for at in self._ready() if self._unit(*at).waits]

    def _ready(self) -> list[tuple[str, str]]:
        found = []
        for task_id, task in self.world.tasks.items():
            for kind, unit in (("agent", task.agent), ("publish", task.publish)):
                if unit is not None and unit.state == "ready":
                    found.append((task_id, kind))
        return found

    def _sealing(self) -> list[str]:
        return [id_ for id_, one in self.world.tasks.items() if one.state == "sealing"]

    def _unit(self, task_id: str, kind: str) -> Unit:
        task = self.world.tasks[task_id]
        unit = task.agent if kind == "agent" else task.publish
        assert unit is not None
        return unit

    def _set_unit(self, task_id: str, kind: str, unit: Unit) -> None:
        task = self.world.tasks[task_id]
        changed = replace(task, agent=unit) if kind == "agent" else replace(task, publish=unit)
        self.world.tasks[task_id] = changed

    def _due(self, at: tuple[str, str]) -> None:
        task_id, kind = at
        if kind == "seal":
            self.lab.sql("UPDATE sched.task SET seal_due_at = now() WHERE task_id = $1", task_id)
            self.world.tasks[task_id] = replace(self.world.tasks[task_id], seal_waits=False)
        else:
            self.lab.sql(
                "UPDATE sched.unit SET run_at = now() WHERE task_id = $1 AND kind = $2",
                task_id,
                kind,
            )
            self._set_unit(task_id, kind, replace(self._unit(task_id, kind), waits=False))
        self._judge([])

    def _expire(self, attempts: Sequence[str]) -> None:
        self.lab.sql(
            "UPDATE sched.attempt SET lease_until = now() - interval '1 hour'"
            " WHERE attempt_id = ANY($1)",
            list(attempts),
        )
        for attempt_id in attempts:
            attempt = self.world.attempts[attempt_id]
            self.world.attempts[attempt_id] = replace(attempt, expired=True)
        self._judge([])

    # --- the end of all things

    def teardown(self) -> None:
        if self.broken or not self.world.projects:
            return
        self._expire([one.attempt_id for one in self.world.live()])
        self.do(op.sweep(self.lab))
        runner, process = RUNNERS[2], "rnr_c-last"
        self.do(op.new_process(runner, process))
        for _ in range(2 * len(self.world.tasks) + 4):
            if all(task.state in FINAL for task in self.world.tasks.values()):
                return
            for at in self._waiting():
                self._due(at)
            for pool in POOLS:
                self.do(op.take(runner, process, ids.new_claim_id(), 50, pool, KINDS[0]))
            for attempt in self.world.live():
                self.do(self._end(runner, attempt.attempt_id, "won"))
            self.do(op.seals(self.lab, "sealed"))
        raise Violation("I2: not every task came to its end: " + str(self.world.tasks))


__all__ = ["Answer", "Coordination", "Mismatch", "Violation", "differences"]
