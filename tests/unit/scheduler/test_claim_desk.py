"""The claim desk: who is looked at when many wait."""

import asyncio
import time
from collections.abc import Sequence

import pytest
from wfhub_common import ids
from wfhub_common.messages import Claim, Claimed
from wfhub_scheduler.claim_desk import GROUP_SLOTS_MAX, Desk, Served, Waiting
from wfhub_scheduler.wakeups import Bell

WAIT_S = 60.0  # of a test that hangs
SLOTS = 100


def waiting(labels: tuple[str, ...] = (), *, draining: bool = False) -> Waiting:
    """A claim that was looked at, and found nothing."""
    claim_id = ids.new_claim_id()
    command = Claim(claim_id=claim_id, incarnation="i", slots=SLOTS)
    answer = asyncio.get_running_loop().create_future()
    give_up_at = time.monotonic() + WAIT_S
    return Waiting(
        "rnr", "i", claim_id, command, give_up_at, answer, True, labels=labels, draining=draining
    )


@pytest.mark.parametrize("draining", [False, True])
async def test_a_crowd_keeps_no_look_from_a_runner_of_another_kind(draining: bool) -> None:
    looks: list[Sequence[Waiting]] = []

    async def serve(group: Sequence[Waiting]) -> Served:
        looks.append(group)
        return {claim: Claimed() for claim in group if claim.labels}

    desk = Desk(serve, Bell(), lambda: None)
    crowd = [
        asyncio.create_task(desk.claim(waiting(draining=draining)))
        for _ in range(3 * GROUP_SLOTS_MAX // SLOTS)
    ]
    await asyncio.sleep(0)  # each is at the desk
    assert len(desk.waiting) == len(crowd)
    async with asyncio.timeout(WAIT_S):
        assert await desk.claim(waiting(("gpu",))) == Claimed()
    of_the_crowd = [sum(not claim.labels for claim in group) for group in looks]
    assert max(of_the_crowd) * SLOTS == GROUP_SLOTS_MAX
    for each in crowd:
        each.cancel()
