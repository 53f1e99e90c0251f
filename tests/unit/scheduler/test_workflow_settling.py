"""Settling: whatever ends in whatever batches, the same as the rules applied one by one."""

from dataclasses import dataclass, field, replace

from hypothesis import given
from hypothesis import strategies as st
from wfhub_common.messages import NeedsPolicy, OnFailure, WorkflowState
from wfhub_scheduler.workflows import graph, settling
from wfhub_scheduler.workflows.settling import PARENT_FAILED, WORKFLOW_FAILED, Waiting

BLOCKED, READY, RUNNING, SUCCEEDED, FAILED = "blocked", "ready", "running", "succeeded", "failed"
FINAL = {SUCCEEDED, FAILED, PARENT_FAILED, WORKFLOW_FAILED}
ALL, DONE = NeedsPolicy.ALL_SUCCEEDED, NeedsPolicy.ALL_DONE


@dataclass
class World:
    """A workflow as the scheduler keeps it, and beside it the same kept by the plain rules."""

    needs: list[list[int]]
    policies: list[NeedsPolicy]
    on_failure: list[OnFailure]
    left: list[int] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    plain: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.left = [len(wanted) for wanted in self.needs]
        self.states = [BLOCKED if wanted else READY for wanted in self.needs]
        self.plain = list(self.states)
        self.children = graph.children(self.needs)

    def end(self, ends: dict[int, str]) -> None:
        for number, state in ends.items():
            self.states[number] = self.plain[number] = state
        failed = {number for number, state in ends.items() if state == FAILED}
        stop = any(self.on_failure[number] is OnFailure.FAIL for number in failed)
        self._settle(ends, failed, stop)
        self._plainly(stop)

    def _settle(self, ends: dict[int, str], failed: set[int], stop: bool) -> None:
        wanted = set(ends) | {child for number in ends for child in self.children[number]}
        nodes = {
            number: Waiting(
                state in (BLOCKED, READY),
                self.left[number],
                self.policies[number],
                tuple(self.children[number]),
            )
            for number, state in enumerate(self.states)
            if failed or number in wanted
        }
        settled = settling.settle(nodes, ends.keys(), failed, stop=stop)
        assert not settled.skipped.keys() & set(settled.ready)
        for number, reason in settled.skipped.items():
            self.states[number] = reason
        for number in settled.ready:
            assert self.states[number] == BLOCKED
            self.states[number] = READY
        for number, left in settled.needs_left.items():
            self.left[number] = left

    def _plainly(self, stop: bool) -> None:
        plain, numbers = self.plain, range(len(self.needs))
        for n in numbers:
            if stop and plain[n] in (BLOCKED, READY) and self.policies[n] is ALL:
                plain[n] = WORKFLOW_FAILED
        for _ in numbers:  # as many rounds as the longest way
            for n in numbers:
                unsuccessful = any(plain[need] in FINAL - {SUCCEEDED} for need in self.needs[n])
                if plain[n] == BLOCKED and self.policies[n] is ALL and unsuccessful:
                    plain[n] = PARENT_FAILED
        for n in numbers:
            if plain[n] == BLOCKED and all(plain[need] in FINAL for need in self.needs[n]):
                plain[n] = READY


@st.composite
def worlds(draw: st.DrawFn) -> World:
    count = draw(st.integers(1, 9))
    needs = [
        draw(st.lists(st.integers(0, n - 1), unique=True, max_size=4)) if n else []
        for n in range(count)
    ]
    policies = draw(st.lists(st.sampled_from([ALL, DONE]), min_size=count, max_size=count))
    on_failure = draw(st.lists(st.sampled_from(OnFailure), min_size=count, max_size=count))
    return World(needs, policies, on_failure)


@given(worlds(), st.data())
def test_every_batch_of_ends_leaves_what_the_plain_rules_leave(
    world: World, data: st.DataObject
) -> None:
    for _ in range(3 * len(world.needs)):
        live = [n for n, state in enumerate(world.states) if state not in FINAL]
        if not live:
            break
        started = [n for n in live if world.states[n] in (READY, RUNNING)]
        assert started, "what is blocked waits for something that runs"
        for number in data.draw(st.sets(st.sampled_from(started)), "claimed"):
            world.states[number] = world.plain[number] = RUNNING
        # What is blocked may end as well: somebody cancels it.
        ending = data.draw(st.sets(st.sampled_from(live), min_size=1, max_size=3), "ending")
        world.end(
            {
                number: data.draw(st.sampled_from([SUCCEEDED, FAILED]))
                if world.states[number] != BLOCKED
                else FAILED
                for number in sorted(ending)
            }
        )
        assert world.states == world.plain
        for number, wanted in enumerate(world.needs):
            assert world.left[number] == sum(world.states[need] not in FINAL for need in wanted)


def chain(*policies: NeedsPolicy) -> dict[int, Waiting]:
    """Each needs the one before; the first has just ended."""
    last = len(policies) - 1
    return {
        n: Waiting(n > 0, min(n, 1), policy, (n + 1,) if n < last else ())
        for n, policy in enumerate(policies)
    }


def test_a_failure_takes_its_descendants_down_to_what_waits_for_all_to_be_done() -> None:
    settled = settling.settle(chain(ALL, ALL, ALL, DONE, ALL), {0}, {0}, stop=False)
    assert settled.skipped == {1: PARENT_FAILED, 2: PARENT_FAILED}
    assert settled.ready == (3,)


def test_a_stop_takes_all_that_has_not_started_but_clean_ups() -> None:
    nodes = chain(ALL, ALL, DONE) | {
        3: Waiting(True, 0, ALL, ()),  # ready, and nobody took it yet
        4: Waiting(False, 0, ALL, ()),  # runs
    }
    settled = settling.settle(nodes, {0}, {0}, stop=True)
    assert settled.skipped == {1: WORKFLOW_FAILED, 3: WORKFLOW_FAILED}
    assert settled.ready == (2,)


def test_what_was_cancelled_before_is_not_started_by_the_end_of_its_need() -> None:
    nodes = chain(ALL, ALL)
    nodes[1] = replace(nodes[1], unstarted=False)
    assert settling.settle(nodes, {0}, set(), stop=False).ready == ()


def test_the_state_of_a_workflow() -> None:
    def state(open_count: int, unsuccessful_count: int, cancelled: bool = False) -> WorkflowState:
        return settling.state_of(
            open_count=open_count, unsuccessful_count=unsuccessful_count, cancelled=cancelled
        )

    assert state(1, 5, True) is WorkflowState.RUNNING
    assert state(0, 0, True) is WorkflowState.SUCCEEDED  # the cancel came too late for all
    assert state(0, 1) is WorkflowState.FAILED
    assert state(0, 1, True) is WorkflowState.CANCELLED
