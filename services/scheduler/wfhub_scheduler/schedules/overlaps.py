"""Overlaps: what a firing does while an earlier one of its schedule is still at work.

`skip` lets it go; `queue` has it wait, QUEUED_MAX at most, and the oldest starts when the one at
work has ended; `replace` asks what is at work to end (what is being published is left alone) and
starts without waiting for it. A firing that waits for room in the project's queue counts as one at
work. Pure.
"""

from dataclasses import dataclass
from typing import assert_never

from wfhub_common.messages import Overlap

QUEUED_MAX = 10  # firings of one schedule that wait


@dataclass(frozen=True)
class Start:
    replaces: bool = False  # what is at work is cancelled, what waits is dropped


@dataclass(frozen=True)
class Wait:
    pass


@dataclass(frozen=True)
class Skip:
    reason: str
    message: str


Decision = Start | Wait | Skip


def decide(overlap: Overlap, *, running: int, waiting: int) -> Decision:
    if running + waiting == 0:
        return Start()
    match overlap:
        case Overlap.SKIP:
            return Skip("overlap", "an earlier firing was still at work")
        case Overlap.QUEUE:
            if waiting >= QUEUED_MAX:
                return Skip("overlap", f"{waiting} firings were waiting already")
            return Wait()
        case Overlap.REPLACE:
            return Start(replaces=True)
        case _:
            assert_never(overlap)
