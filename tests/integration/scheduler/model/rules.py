"""Rules: what is asked of the scheduler, alone and at the same time, and what the clock does.

They are few, with many choices in each: of many, Hypothesis leaves some out of an example, and a
task comes to a late state only if a whole chain of them is drawn."""

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar

from hypothesis import strategies as st
from hypothesis.stateful import rule

from . import operations as op
from .drawing import Drawing
from .luck import LUCK, Luck
from .operations import Operation
from .records import LOSSES_MAX, PUBLISH_TRIES_MAX

THINGS = 5
ROUNDS = 3  # from a claim to its publication it takes two


class TimeRules(Drawing):
    @rule(luck=LUCK)
    def time_passes(self, luck: Luck) -> None:
        """Something that there is: the first, in any order."""
        before = self.world
        for kind in luck.some(self.TIMES, at_least=len(self.TIMES), at_most=len(self.TIMES)):
            kind(self, luck)
            if self.world is not before:
                return

    def a_wait_ends(self, luck: Luck) -> None:
        if self.waiting():
            self.due(luck.one_of(self.waiting()))

    def leases_run_out(self, luck: Luck) -> None:
        if self.world.live():
            live = [one.attempt_id for one in self.world.live()]
            self.expire(luck.some(live, at_least=1, at_most=3))
            self._maybe_sweep(luck)

    def an_attempt_outlives_its_limits(self, luck: Luck) -> None:
        """It, or the grace in which it was to stop; its runner beats on, or not."""
        if not self.world.live():
            return
        attempt = luck.one_of(self.world.live())
        if luck.flip():
            self.outlived(attempt.attempt_id, "limit:run-time")
        elif self.world.tasks[attempt.task_id].stopping:
            self.outlived(attempt.attempt_id, "stop-ignored")
        self._maybe_sweep(luck)

    def a_deadline_passes(self, luck: Luck) -> None:
        tasks = [n for n, one in self.world.tasks.items() if one.wish.deadline and not one.past]
        if open_ := self.of_one_state(luck, tasks):
            task_id = luck.one_of(open_)
            self.set_task(task_id, past=True)
            self.changed(
                """UPDATE sched.task SET review_until = least(review_until,
                       CASE WHEN state = 'review' THEN now() END),
                       spec = jsonb_set(spec, '{deadline_at}', '"2020-01-01T00:00:00Z"')
                    WHERE task_id = $1""",
                task_id,
            )
            self._maybe_sweep(luck)

    def a_queue_takes_too_long(self, luck: Luck) -> None:
        tasks = [n for n, one in self.world.tasks.items() if one.wish.queue_s]
        tasks = [n for n in self.of_one_state(luck, tasks) if not self.world.tasks[n].queue_over]
        if tasks and self.world.tasks[tasks[0]].state != "blocked":
            task_id = luck.one_of(tasks)
            self.set_task(task_id, queue_over=True)
            self.changed(
                "UPDATE sched.task SET queued_at = now() - interval '1 year' WHERE task_id = $1",
                task_id,
            )
            self._maybe_sweep(luck)

    def a_review_takes_too_long(self, luck: Luck) -> None:
        if in_review := self.in_state("review"):
            task_id = luck.one_of(in_review)
            self.set_task(task_id, review_over=True)
            statement = "UPDATE sched.task SET review_until = now() WHERE task_id = $1"
            self.changed(statement, task_id)
            self._maybe_sweep(luck)

    def wears_out(self, luck: Luck) -> None:
        """As if a unit had been tried, or lost, nearly as often as it may be."""
        ready = self.ready_units()
        publications = [at for at in ready if at[1] == "publish"]
        if not ready:
            return
        task_id, kind = luck.one_of(publications if publications and luck.flip() else ready)
        unit = self.of_unit(task_id, kind)
        losses = max(unit.losses, LOSSES_MAX - 1)
        tries = max(unit.tries, PUBLISH_TRIES_MAX - 1) if kind == "publish" else unit.tries
        self.set_unit(task_id, kind, tries=tries, losses=losses)
        self.changed(
            "UPDATE sched.unit SET tries = $3, losses = $4 WHERE task_id = $1 AND kind = $2",
            *(task_id, kind, tries, losses),
        )

    # What waits for another try is most of what waits.
    TIMES: ClassVar = (
        *(a_wait_ends, a_wait_ends, a_wait_ends, leases_run_out, an_attempt_outlives_its_limits),
        *(a_deadline_passes, a_queue_takes_too_long, a_review_takes_too_long, wears_out),
    )

    def _maybe_sweep(self, luck: Luck) -> None:
        if luck.flip():
            self.do(op.sweep(self.lab))

    def due(self, at: tuple[str, str]) -> None:
        task_id, kind = at
        if kind == "seal":
            self.set_task(task_id, seal_waits=False)
            statement = "UPDATE sched.task SET seal_due_at = now() WHERE task_id = $1"
            self.changed(statement, task_id)
        else:
            self.set_unit(task_id, kind, waits=False)
            statement = "UPDATE sched.unit SET run_at = now() WHERE task_id = $1 AND kind = $2"
            self.changed(statement, task_id, kind)

    def expire(self, attempts: Sequence[str]) -> None:
        for attempt_id in attempts:
            self._expired(attempt_id)
        self.changed(
            "UPDATE sched.attempt SET lease_until = now() - interval '1 hour'"
            " WHERE attempt_id = ANY($1)",
            list(attempts),
        )

    def outlived(self, attempt_id: str, limit: str) -> None:
        """`limit`: limit:run-time | stop-ignored. Its lease was cut at that time, and is over."""
        before = self.world.attempts[attempt_id].over
        self._expired(attempt_id, over="limit:run-time" if before == "limit:run-time" else limit)
        if limit == "stop-ignored":
            self.lab.sql(
                "UPDATE sched.task SET stopping_since = now() - interval '1 year'"
                " WHERE current_attempt = $1",
                attempt_id,
            )
        else:
            self.lab.sql(
                "UPDATE sched.attempt SET created_at = now() - interval '1 year'"
                " WHERE attempt_id = $1",
                attempt_id,
            )
        self.expire([attempt_id])

    def _expired(self, attempt_id: str, over: str = "") -> None:
        attempt = self.world.attempts[attempt_id]
        over = over or attempt.over
        self.world.attempts[attempt_id] = replace(attempt, expired=True, over=over)


class WorkRules(TimeRules):
    @rule(luck=LUCK)
    def some_things(self, luck: Luck) -> None:
        for _ in range(THINGS):
            self.do(luck.one_of(self.ANY)(self, luck))

    @rule(luck=LUCK)
    def work_goes_on(self, luck: Luck) -> None:
        """What waits is taken, finished, sealed, maybe approved and published; and things happen
        meanwhile."""
        self.do(self.a_batch(luck))
        for kind in (self.a_fitting_claim, self.an_ending, self.a_seal, self.a_review) * ROUNDS:
            self._meanwhile(luck)
            if kind != self.a_review or luck.flip():
                self.do(kind(luck))
        self.do(self.a_workflow_turn(luck))

    def _meanwhile(self, luck: Luck) -> None:
        if luck.flip():
            return
        if luck.flip():
            self.time_passes(luck)
        else:
            self.do(luck.one_of([self.a_cancel, self.a_sweep, self.a_report])(luck))


class OverlapRules(TimeRules):
    """Duplicates, and commands at the same time, in one scheduler or in two."""

    @rule(luck=LUCK)
    def again(self, luck: Luck) -> None:
        """A duplicate, maybe late."""
        if self.recent:
            self.do(luck.one_of(self.recent[::-1]))

    @rule(luck=LUCK, cores=st.tuples(*[st.integers(0, 1)] * 3))
    def at_once(self, luck: Luck, cores: tuple[int, int, int]) -> None:
        kinds = [luck.one_of(self.ANY) for _ in range(luck.one_of([2, 2, 2, 3]))]
        self.do(*_apart([kind(self, luck) for kind in kinds]), cores=cores)

    @rule(luck=LUCK, cores=st.tuples(*[st.integers(0, 1)] * 2))
    def twice_at_once(self, luck: Luck, cores: tuple[int, int]) -> None:
        """Something new, delivered twice at the same time."""
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
        self.do_as([sealing, other], [(sealing.run, 0), (self.lab.in_between(other.run), 1)])


def _apart(operations: list[Operation]) -> list[Operation]:
    """The proof-store's double has one answer at a time."""
    seals = [each for each in operations if each.said.startswith("seals")]
    return [each for each in operations if each not in seals[1:]]
