"""Settling: what follows from the end of tasks for those that have not started.

A task that needs `all_succeeded` is skipped as soon as one that it needs did not succeed, and so
are its descendants; one that needs `all_done` starts when all that it needs are final, skipped
ones too. With `on_failure: fail` everything that has not started is skipped, but what needs
`all_done`: that is for reports and clean-ups. What runs is left to finish.
Pure; numbers are those of nodes. Each end is settled once, in whatever batches they come.
"""

from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass

from wfhub_common.messages import NeedsPolicy, WorkflowState

PARENT_FAILED = "parent-failed"
WORKFLOW_FAILED = "workflow-failed"


@dataclass(frozen=True)
class Waiting:
    """`needs_left`: how many that it needs are not settled yet."""

    unstarted: bool  # blocked, or ready and never tried
    needs_left: int
    needs_policy: NeedsPolicy
    children: tuple[int, ...]


@dataclass(frozen=True)
class Settled:
    ready: tuple[int, ...]
    skipped: Mapping[int, str]  # with the reason
    needs_left: Mapping[int, int]  # of each node whose count changed


def settle(
    nodes: Mapping[int, Waiting], ended: Set[int], failed: Set[int], *, stop: bool
) -> Settled:
    """`nodes` holds `ended` and their children or, if any failed, all of the workflow.

    `failed` are those of `ended` that did not succeed; `stop`: one of them ends the workflow.
    """
    skipped = dict.fromkeys(_stopped(nodes), WORKFLOW_FAILED) if stop else {}
    skipped |= dict.fromkeys(_fallen(nodes, failed | skipped.keys()), PARENT_FAILED)
    needs_left: dict[int, int] = {}
    for done in [*ended, *skipped]:
        for child in nodes[done].children:
            needs_left[child] = needs_left.get(child, nodes[child].needs_left) - 1
    ready = tuple(
        number
        for number, left in sorted(needs_left.items())
        if left == 0 and nodes[number].unstarted and number not in skipped
    )
    return Settled(ready, skipped, needs_left)


def state_of(*, open_count: int, unsuccessful_count: int, cancelled: bool) -> WorkflowState:
    """`open_count`: tasks whose ends are not settled; `cancelled`: it was asked for."""
    if open_count:
        return WorkflowState.RUNNING
    if not unsuccessful_count:
        return WorkflowState.SUCCEEDED
    return WorkflowState.CANCELLED if cancelled else WorkflowState.FAILED


def _stopped(nodes: Mapping[int, Waiting]) -> Iterator[int]:
    return (number for number, node in nodes.items() if _falls(node))


def _fallen(nodes: Mapping[int, Waiting], failed: Set[int]) -> Set[int]:
    """What can no longer start, since something that it needs did not succeed."""
    fallen: set[int] = set()
    stack = list(failed)
    while stack:
        for child in nodes[stack.pop()].children:
            node = nodes[child]
            if child not in failed and child not in fallen and _falls(node):
                fallen.add(child)
                stack.append(child)
    return fallen


def _falls(node: Waiting) -> bool:
    return node.unstarted and node.needs_policy is NeedsPolicy.ALL_SUCCEEDED
