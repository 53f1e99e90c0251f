"""The machine: draws what happens next, does it to the scheduler, and has it judged.

At the end of an example everything is driven to its end, in a bounded number of rounds (I2).
A fault is an error of the example; `Lab.steps` counts commands.
"""

from hypothesis.stateful import initialize
from wfhub_common import ids
from wfhub_common.messages import ReviewDecision

from . import operations as op
from . import runner_operations as by_runner
from .doing import Violation
from .drawing import KINDS, POOLS, PROJECTS, RUNNERS
from .luck import LUCK, Luck
from .records import FINAL
from .rules import OverlapRules, WorkRules
from .worked import Claim, Said

LAST_LIMIT = 50
DECISIONS = (ReviewDecision.APPROVED, ReviewDecision.DECLINED)


class Coordination(WorkRules, OverlapRules):
    @initialize(luck=LUCK)
    def begin(self, luck: Luck) -> None:
        for name, settings in PROJECTS.items():
            self.do(op.new_project(name, *settings))
        for runner in ("rnr_a", "rnr_b"):
            self.incarnations[runner].append(f"{runner}-1")
            self.do(by_runner.new_process(runner, f"{runner}-1", RUNNERS[runner]))
        for kind in (self.a_batch, self.a_workflow, self.a_batch, self.a_claim, self.a_claim):
            self.do(kind(luck))

    def teardown(self) -> None:
        """One runner that can do everything, and nothing that holds it back."""
        if self.broken or self.late or not self.world.projects:
            return
        self._drive_to_the_end()
        ends = [f"{task.state}: {task.reason}" for task in self.world.tasks.values()]
        self.lab.met.update(ends)

    def _drive_to_the_end(self) -> None:
        self.expire([one.attempt_id for one in self.world.live()])
        self.do(op.sweep(self.lab))
        runner, process = "rnr_c", "rnr_c-last"
        self.do(by_runner.new_process(runner, process, RUNNERS[runner]))
        self.do(op.drain(runner, False))
        for name in PROJECTS:
            self.do(op.change_project(name, limit=LAST_LIMIT, paused=False))
        for name in POOLS:
            self.do(op.change_pool(name, limit=None, paused=False))
        for _ in range(2 * len(self.world.tasks) + 4):
            if self._all_over():
                return
            self._round(runner, process)
        raise Violation("I2: not everything came to its end: " + str(self.world.tasks))

    def _all_over(self) -> bool:
        tasks, flows = self.world.tasks.values(), self.world.workflows.values()
        over = all(task.state in FINAL for task in tasks)
        return over and all(flow.state in FINAL for flow in flows)

    def _round(self, runner: str, process: str) -> None:
        for at in self.waiting():
            self.due(at)
        for pool in POOLS:
            claim = Claim(runner, process, ids.new_claim_id(), LAST_LIMIT, pool, KINDS[0])
            self.do(by_runner.take(claim))
        said = tuple(Said(runner, each.attempt_id, "won") for each in self.world.live())
        if said:
            self.do(by_runner.end_many(self.lab, self.world, said))
        self.do(op.seals(self.lab, "sealed"))
        for n, task_id in enumerate(self.in_state("review")):
            self.do(op.review(task_id, DECISIONS[n % len(DECISIONS)]))
        self.do(op.turn_workflows())


__all__ = ["Coordination", "Violation"]
