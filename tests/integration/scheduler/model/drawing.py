"""Drawing: what may be asked next, mostly something that makes sense, and sometimes not."""

from typing import Any, ClassVar

from wfhub_common import ids
from wfhub_common.messages import ReviewDecision

from . import operations as op
from . import runner_operations as by_runner
from .doing import Doing
from .luck import Luck
from .operations import Operation
from .records import FINAL, Node, Wish
from .worked import Claim, Said

# Running limit, weight, queue limit.
PROJECTS = {"narrow": (1, 1, 5), "middle": (3, 2, 12), "wide": (9, 5, 100)}
POOLS = ("default", "big")
RUNNERS = {"rnr_a": ("gpu",), "rnr_b": (), "rnr_c": ("docker", "gpu")}  # their labels
KINDS = (("agent", "publish"), ("agent",), ("publish",))
REASONS = ("", "tests-failed", "agent-crashed", "limit:idle", "limit:run_s")
OUTCOMES = {
    "agent": ("won", "won", "won", "won", "rejected", "failed", "failed", "cancelled"),
    "publish": ("won", "won", "rejected", "failed", "failed", "cancelled"),
}
NODES_MAX = 5


class Drawing(Doing):
    def __init__(self) -> None:
        super().__init__()
        self.incarnations: dict[str, list[str]] = {runner: [] for runner in RUNNERS}
        self.serial = 0

    # --- of the API

    def a_wish(self, luck: Luck, project: str = "") -> Wish:
        self.serial += 1
        return Wish(
            project=project or luck.one_of([*PROJECTS, *PROJECTS, "narrow", "unknown"]),
            pool=luck.one_of([*POOLS, "default"]),
            priority=luck.one_of([0, 0, 5, -5]),
            attempts_max=luck.between(1, 3),
            retry_on=luck.one_of([None, None, None, ("tests-failed", "limit:idle")]),
            verified=luck.flip(),
            labels=luck.one_of([(), (), (), ("gpu",), ("docker", "gpu")]),
            later=luck.once_in(8),
            queue_s=luck.once_in(4),
            review=luck.once_in(3),
            deadline=luck.once_in(3),
            ci=luck.once_in(8),
            serial=self.serial if luck.flip() else 0,
        )

    def a_submit(self, luck: Luck) -> Operation:
        return op.submit(self.a_wish(luck), luck.one_of([None, None, "k1", "k2"]))

    def a_batch(self, luck: Luck) -> Operation:
        keys = [None, None, "k1", "k2"]
        asked = [(self.a_wish(luck), luck.one_of(keys)) for _ in range(luck.between(1, 4))]
        return op.submit_many(tuple(asked))

    def a_workflow(self, luck: Luck) -> Operation:
        project = luck.one_of([*PROJECTS, *PROJECTS, "unknown"])
        nodes: list[Node] = []
        for i in range(luck.between(1, NODES_MAX)):
            needs = luck.some(range(i), at_least=min(i, 1) * luck.between(0, 1), at_most=3)
            wish = self.a_wish(luck, project)
            all_done, takes, stops = luck.once_in(3), luck.once_in(3), luck.flip()
            nodes.append(Node(tuple(sorted(needs)), wish, all_done, takes, stops))
        return op.submit_workflow_of(project, tuple(nodes), luck.one_of([None, None, "w1"]))

    def a_workflow_cancel(self, luck: Luck) -> Operation:
        return op.cancel_flow(luck.one_of([*self.world.workflows, "wfl_nobody"]))

    def a_workflow_turn(self, _: Luck) -> Operation:
        return op.turn_workflows()

    def a_cancel(self, luck: Luck) -> Operation:
        open_ = self.of_one_state(luck, [*self.world.tasks])
        return op.cancel(self._one_of(luck, open_, list(self.world.tasks), "tsk_nobody"))

    def a_review(self, luck: Luck) -> Operation:
        task_id = self._one_of(luck, self.in_state("review"), list(self.world.tasks), "tsk_nobody")
        decisions = [ReviewDecision.APPROVED, ReviewDecision.APPROVED, ReviewDecision.DECLINED]
        return op.review(task_id, luck.one_of(decisions))

    def a_project_again(self, luck: Luck) -> Operation:
        name = luck.one_of(list(PROJECTS))
        return op.new_project(name, *luck.one_of([PROJECTS[name], (7, 7, 7)]))

    def a_project_change(self, luck: Luck) -> Operation:
        changes: dict[str, Any] = {}
        if luck.flip():
            changes["paused"] = luck.once_in(3)
        if luck.flip():
            changes["limit"] = luck.one_of([1, 2, 5, 9])
        if luck.flip():
            changes["queue"] = luck.one_of([1, 3, 5, 50])
        return op.change_project(luck.one_of([*PROJECTS, "narrow", "unknown"]), **changes)

    def a_pool_change(self, luck: Luck) -> Operation:
        paused = {"paused": luck.once_in(3)} if luck.flip() else {}
        limit = {"limit": luck.one_of([None, None, 1, 3])} if luck.flip() else {}
        return op.change_pool(luck.one_of(POOLS), **paused, **limit)

    def a_drain(self, luck: Luck) -> Operation:
        return op.drain(luck.one_of([*RUNNERS, "rnr_nobody"]), luck.once_in(3))

    # --- of runners

    def a_register(self, luck: Luck) -> Operation:
        runner = luck.one_of(list(RUNNERS))
        known = self.incarnations[runner]
        if known and luck.once_in(4):  # the reply was lost
            return by_runner.new_process(runner, luck.one_of(known), RUNNERS[runner])
        known.append(f"{runner}-{len(known) + 1}")
        holds = luck.some([*self.world.attempts, "att_nobody"], at_most=2) if luck.flip() else []
        return by_runner.new_process(runner, known[-1], RUNNERS[runner], tuple(holds))

    def a_claim(self, luck: Luck) -> Operation:
        runner, incarnation = self._a_process(luck)
        claim_id = luck.one_of(["c1", "c2", "c3", ids.new_claim_id(), ids.new_claim_id()])
        slots, pool = luck.one_of([1, 2, 5]), luck.one_of(POOLS)
        kinds = luck.one_of([*KINDS, KINDS[0]])
        return by_runner.take(Claim(runner, incarnation, claim_id, slots, pool, kinds))

    def a_fitting_claim(self, luck: Luck) -> Operation:
        """Of a unit that is due, a publication as likely as the rest, by a runner that can have
        it."""
        due = [at for at in self.ready_units() if not self.of_unit(*at).waits]
        kind = luck.one_of(sorted({kind for _, kind in due}) or ["agent"])
        wishes = [self.world.tasks[task_id].wish for task_id, of in due if of == kind]
        able = [
            (wish, runner)
            for wish in wishes
            for runner, known in self.world.runners.items()
            if not known.draining and set(wish.labels) <= set(known.labels)
        ]
        if not able:
            return luck.one_of([self.a_claim, self.a_submit, self.a_register])(luck)
        wish, runner = luck.one_of(able)
        process = self.world.runners[runner].incarnation
        slots = luck.one_of([1, 2, 5])
        return by_runner.take(Claim(runner, process, ids.new_claim_id(), slots, wish.pool, (kind,)))

    def a_heartbeat(self, luck: Luck) -> Operation:
        runner, incarnation = self._a_process(luck)
        asked = luck.some([*self.world.attempts, "att_nobody"], at_most=4)
        live = [one.attempt_id for one in self.world.live() if one.runner == runner]
        return by_runner.beat(runner, incarnation, tuple(dict.fromkeys([*live, *asked])))

    def a_report(self, luck: Luck) -> Operation:
        attempt_id, sender = self._an_attempt(luck)
        return by_runner.tell(sender, attempt_id, luck.one_of([None, "running", "verifying"]))

    def a_completion(self, luck: Luck) -> Operation:
        return by_runner.end(self.lab, self.world, self._said(luck, *self._an_attempt(luck)))

    def an_ending(self, luck: Luck) -> Operation:
        """Of an attempt that lives, a publication as likely as the rest, by its own runner."""
        live = self.world.live()
        if not live:
            return luck.one_of([self.a_claim, self.a_submit, self.a_completion])(luck)
        kind = luck.one_of(sorted({attempt.kind for attempt in live}))
        attempt = luck.one_of([each for each in live if each.kind == kind])
        said = self._said(luck, attempt.attempt_id, attempt.runner)
        return by_runner.end(self.lab, self.world, said)

    def completions(self, luck: Luck) -> Operation:
        """Of one runner, of whatever attempts."""
        sender = luck.one_of(list(RUNNERS))
        mine = [one.attempt_id for one in self.world.live() if one.runner == sender]
        ids_ = luck.some(mine, at_most=3) + luck.some(list(self.world.attempts), at_most=2)
        said = tuple(self._said(luck, each, sender) for each in ids_ or ["att_nobody"])
        return by_runner.end_many(self.lab, self.world, said)

    def _said(self, luck: Luck, attempt_id: str, sender: str) -> Said:
        attempt = self.world.attempts.get(attempt_id)
        return Said(
            sender,
            attempt_id,
            luck.one_of(OUTCOMES[attempt.kind if attempt else "agent"]),
            reason=luck.one_of(REASONS),
            retryable=not luck.once_in(4),
            evident=not luck.once_in(6),
        )

    def an_introspection(self, luck: Luck) -> Operation:
        tokens = [one.token for one in self.world.attempts.values() if one.token]
        return op.ask_token(luck.one_of([*tokens[::-1], "wat_nobody"]))

    # --- of the scheduler itself

    def a_sweep(self, _: Luck) -> Operation:
        return op.sweep(self.lab)

    def a_seal(self, luck: Luck) -> Operation:
        return op.seals(self.lab, luck.one_of([*["sealed"] * 5, "away", "bundle-gone"]))

    # What brings a task on comes several times: else few would come far.
    ANY: ClassVar = (
        *(a_submit, a_batch, a_cancel, a_workflow, a_workflow_cancel, *[a_workflow_turn] * 2),
        *(a_project_change, a_pool_change, a_drain, a_register, a_claim, *[a_fitting_claim] * 5),
        *(a_heartbeat, a_report, a_completion, completions, *[an_ending] * 5, *[a_sweep] * 2),
        *(*[a_seal] * 3, *[a_review] * 2, an_introspection, a_project_again),
    )

    # --- what there is

    def in_state(self, state: str) -> list[str]:
        return [id_ for id_, one in self.world.tasks.items() if one.state == state]

    def of_one_state(self, luck: Luck, tasks: list[str]) -> list[str]:
        """Those of `tasks` that are in one open state: each is as likely, however soon it is
        over."""
        states = {self.world.tasks[task_id].state for task_id in tasks} - {*FINAL}
        chosen = luck.one_of(sorted(states) or [""])
        return [task_id for task_id in tasks if self.world.tasks[task_id].state == chosen]

    def ready_units(self) -> list[tuple[str, str]]:
        """(task, kind of unit)"""
        return [
            (task_id, kind)
            for task_id, task in self.world.tasks.items()
            for kind, unit in (("agent", task.agent), ("publish", task.publish))
            if unit is not None and unit.state == "ready"
        ]

    def waiting(self) -> list[tuple[str, str]]:
        """The same; the kind of a proof that is to be asked for again is `seal`."""
        seals = [(id_, "seal") for id_, one in self.world.tasks.items() if one.seal_waits]
        return seals + [at for at in self.ready_units() if self.of_unit(*at).waits]

    def _one_of(self, luck: Luck, likely: list[str], possible: list[str], made_up: str) -> str:
        if likely and not luck.once_in(6):
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
        known = self.world.runners.get(runner)
        newest = [] if known is None else [known.incarnation]
        old = self.incarnations.get(runner, [])
        return runner, self._one_of(luck, newest, old, f"{runner}-nobody")
