"""The machine: draws what happens next, does it to the scheduler, and has it judged.

After each step the whole state is compared with the model, and every invariant is asked of the
database. At the end everything is driven to its end, in a bounded number of rounds (I2).
A fault is an error of the example; `Lab.steps` counts commands.
"""

from collections.abc import Sequence
from dataclasses import replace
from random import Random
from typing import Any, ClassVar, TypeVar

from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
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

T = TypeVar("T")


class Luck:
    """All choices of one step, from one number: commands that run at once end as they like, so what
    there is to choose from is not the same twice, and Hypothesis must not be told of it."""

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def one_of(self, options: Sequence[T]) -> T:
        return self._random.choice(options)

    def some(self, options: Sequence[T], *, at_least: int = 0, at_most: int) -> list[T]:
        return self._random.sample(options, self.between(at_least, min(at_most, len(options))))

    def between(self, least: int, most: int) -> int:
        return self._random.randint(least, most)

    def flip(self) -> bool:
        return self._random.random() < 0.5


LUCK = st.integers(0, 2**32 - 1).map(Luck)


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

    def a_submit(self, luck: Luck) -> Operation:
        self.serial += 1
        fresh = luck.flip()
        wish = Wish(
            project=luck.one_of([*PROJECTS, "narrow", "unknown"]),
            pool=luck.one_of(POOLS),
            priority=luck.one_of([0, 0, 5, -5]),
            attempts_max=luck.between(1, 3),
            retry_on=None,
            verified=luck.flip(),
            later=False,
            serial=self.serial if fresh else 0,
        )
        return op.submit(wish, luck.one_of([None, None, "k1", "k2"]))

    def a_cancel(self, luck: Luck) -> Operation:
        if (sealing := self._sealing()) and luck.flip():  # a state that is soon over
            return op.cancel(luck.one_of(sealing))
        open_ = [one.task_id for one in self.world.tasks.values() if one.state not in FINAL]
        return op.cancel(self._one_of(luck, open_, list(self.world.tasks), "tsk_nobody"))

    def a_register(self, luck: Luck) -> Operation:
        runner = luck.one_of(RUNNERS)
        known = self.incarnations[runner]
        if known and luck.between(0, 3) == 0:
            return op.new_process(runner, luck.one_of(known))  # the reply was lost
        known.append(f"{runner}-{len(known) + 1}")
        return op.new_process(runner, known[-1])

    def a_claim(self, luck: Luck) -> Operation:
        runner, incarnation = self._a_process(luck)
        return op.take(
            runner,
            incarnation,
            luck.one_of(["c1", "c2", "c3", ids.new_claim_id(), ids.new_claim_id()]),
            luck.one_of([1, 2, 5]),
            luck.one_of(POOLS),
            luck.one_of(KINDS),
        )

    def a_heartbeat(self, luck: Luck) -> Operation:
        runner, incarnation = self._a_process(luck)
        asked = luck.some([*self.world.attempts, "att_nobody"], at_most=4)
        live = [one.attempt_id for one in self.world.live() if one.runner == runner]
        return op.beat(runner, incarnation, tuple(dict.fromkeys([*live, *asked])))

    def a_report(self, luck: Luck) -> Operation:
        attempt_id, sender = self._an_attempt(luck)
        return op.tell(sender, attempt_id, luck.one_of([None, "running", "verifying"]))

    def a_completion(self, luck: Luck) -> Operation:
        attempt_id, sender = self._an_attempt(luck)
        outcomes = ["won", "won", "won", "rejected", "failed", "failed", "cancelled"]
        return self._end(
            sender,
            attempt_id,
            luck.one_of(outcomes),
            reason=luck.one_of(REASONS),
            retryable=luck.one_of([True, True, True, False]),
            evident=luck.one_of([True] * 5 + [False]),
        )

    def _end(self, sender: str, attempt_id: str, outcome: str, **more: Any) -> Operation:
        attempt = self.world.attempts.get(attempt_id)
        wish = None if attempt is None else self.world.tasks[attempt.task_id].wish
        return op.end(self.lab, sender, attempt_id, attempt, wish, outcome, **more)

    def a_sweep(self, _: Luck) -> Operation:
        return op.sweep(self.lab)

    def a_seal(self, luck: Luck) -> Operation:
        return op.seals(self.lab, luck.one_of(["sealed", "sealed", "away", "bundle-gone"]))

    def an_introspection(self, luck: Luck) -> Operation:
        tokens = [one.token for one in self.world.attempts.values() if one.token]
        return op.ask_token(luck.one_of([*tokens[::-1], "wat_nobody"]))

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

    def _one_of(self, luck: Luck, likely: list[str], possible: list[str], made_up: str) -> str:
        if likely and luck.between(0, 9) < 7:
            return str(luck.one_of(likely))
        return str(luck.one_of([*possible, made_up]))

    def _an_attempt(self, luck: Luck) -> tuple[str, str]:
        """An attempt and who speaks for it, mostly its own runner."""
        live = [one.attempt_id for one in self.world.live()]
        attempt_id = self._one_of(luck, live, list(self.world.attempts), "att_nobody")
        attempt = self.world.attempts.get(attempt_id)
        own = [] if attempt is None else [attempt.runner]
        return attempt_id, self._one_of(luck, own, list(RUNNERS), "rnr_nobody")

    def _a_process(self, luck: Luck) -> tuple[str, str]:
        """A runner and the process of it that speaks, mostly the newest."""
        runner = self._one_of(luck, list(self.world.runners), list(RUNNERS), "rnr_nobody")
        newest = [] if runner not in self.world.runners else [self.world.runners[runner]]
        known = self.incarnations.get(runner, [])
        return runner, self._one_of(luck, newest, known, f"{runner}-nobody")

    # --- rules

    @initialize(luck=LUCK)
    def begin(self, luck: Luck) -> None:
        for name, (limit, weight) in PROJECTS.items():
            self.do(op.new_project(name, limit, weight))
        for runner in RUNNERS[:2]:
            self.incarnations[runner].append(f"{runner}-1")
            self.do(op.new_process(runner, f"{runner}-1"))
        for _ in range(luck.between(0, 3)):
            self.do(self.a_submit(luck))

    @rule(luck=LUCK)
    def submits(self, luck: Luck) -> None:
        self.do(self.a_submit(luck))

    @rule(luck=LUCK)
    def project_again(self, luck: Luck) -> None:
        name = luck.one_of(list(PROJECTS))
        limit, weight = luck.one_of([PROJECTS[name], (7, 7)])
        self.do(op.new_project(name, limit, weight))

    @rule(luck=LUCK)
    def cancels(self, luck: Luck) -> None:
        if not self.world.tasks:
            return
        self.do(self.a_cancel(luck))

    @rule(luck=LUCK)
    def registers(self, luck: Luck) -> None:
        self.do(self.a_register(luck))

    @rule(luck=LUCK)
    def claims(self, luck: Luck) -> None:
        self.do(self.a_claim(luck))

    @rule(luck=LUCK)
    def beats(self, luck: Luck) -> None:
        self.do(self.a_heartbeat(luck))

    @rule(luck=LUCK)
    def reports(self, luck: Luck) -> None:
        if not self.world.attempts:
            return
        self.do(self.a_report(luck))

    @rule(luck=LUCK)
    def completes(self, luck: Luck) -> None:
        if not self.world.attempts:
            return
        self.do(self.a_completion(luck))

    @rule(luck=LUCK)
    def asks_for_proofs(self, luck: Luck) -> None:
        if not self._sealing():
            return
        self.do(self.a_seal(luck))

    @rule(luck=LUCK)
    def asks_about_a_token(self, luck: Luck) -> None:
        if not any(one.token for one in self.world.attempts.values()):
            return
        self.do(self.an_introspection(luck))

    @rule(luck=LUCK)
    def again(self, luck: Luck) -> None:
        """A duplicate, maybe late."""
        if not self.recent:
            return
        self.do(luck.one_of(self.recent[::-1]))

    @rule(luck=LUCK, cores=st.tuples(*[st.integers(0, 1)] * 3))
    def at_once(self, luck: Luck, cores: tuple[int, int, int]) -> None:
        """Two or three commands at the same time, in one scheduler or in two."""
        count = luck.one_of([2, 2, 2, 3])
        kinds = [luck.one_of(self.ANY) for _ in range(count)]
        self.do(*self._apart([kind(self, luck) for kind in kinds]), cores=cores)

    @rule(luck=LUCK, cores=st.tuples(*[st.integers(0, 1)] * 2))
    def twice_at_once(self, luck: Luck, cores: tuple[int, int]) -> None:
        """Something new, delivered twice at the same time."""
        if not self.recent:
            return
        kind = luck.one_of(self.ANY)
        twice = kind(self, luck)
        self.do(twice, twice, cores=cores)

    @rule(luck=LUCK)
    def while_a_proof_is_made(self, luck: Luck) -> None:
        """A whole command between the question to the proof-store and its answer."""
        if not any(one.seal_waits is False for one in self.world.tasks.values()):
            return
        kind = luck.one_of([each for each in self.ANY if each.__name__ != "a_seal"])
        sealing, other = self.a_seal(luck), kind(self, luck)
        self._do([sealing, other], [(sealing.run, 0), (self.lab.in_between(other.run), 1)])

    def _apart(self, operations: list[Operation]) -> list[Operation]:
        """The proof-store's double has one answer at a time."""
        seals = [each for each in operations if each.said.startswith("seals")]
        return [each for each in operations if each not in seals[1:]]

    # --- time

    @rule(luck=LUCK)
    def a_wait_ends(self, luck: Luck) -> None:
        if not self._waiting():
            return
        self._due(luck.one_of(self._waiting()))

    @rule(luck=LUCK)
    def leases_run_out(self, luck: Luck) -> None:
        if not self.world.live():
            return
        live = [one.attempt_id for one in self.world.live()]
        gone = luck.some(live, at_least=1, at_most=3)
        self._expire(gone)
        if luck.flip():
            self.do(op.sweep(self.lab))

    @rule(luck=LUCK)
    def wears_out(self, luck: Luck) -> None:
        """As if a unit had been tried, or lost, nearly as often as it may be."""
        if not self._ready():
            return
        task_id, kind = luck.one_of(self._ready())
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
