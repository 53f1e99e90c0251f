"""A cancel, in each state a task can be in."""

import pytest
from scheduler_hub import Hub
from wfhub_common import ids
from wfhub_common.errors import Rejected
from wfhub_common.messages import AttemptState, Complete, Retry, TaskState, UnitKind


async def test_an_unknown_task_is_a_404(hub: Hub) -> None:
    with pytest.raises(Rejected) as caught:
        await hub.cancel(ids.new_task_id())
    assert (caught.value.code, caught.value.status) == ("task-unknown", 404)


async def test_a_ready_task_is_cancelled_at_once_and_never_claimed(hub: Hub) -> None:
    runner = await hub.runner()
    task_id = (await hub.submit()).task_id
    cancelled = await hub.cancel(task_id)
    assert (cancelled.accepted, cancelled.state) == (True, TaskState.CANCELLED)
    assert await runner.claim(wait_s=0) == ()
    task = await hub.task(task_id)
    assert (task["reason"], task["message"]) == ("cancelled", "changed my mind")
    again = await hub.cancel(task_id)
    assert (again.accepted, again.state) == (False, TaskState.CANCELLED)


@pytest.mark.parametrize("outcome", [AttemptState.CANCELLED, AttemptState.WON, AttemptState.FAILED])
async def test_a_running_task_is_told_and_ends_cancelled_however_it_ends(
    hub: Hub, outcome: AttemptState
) -> None:
    runner = await hub.runner()
    task_id = (await hub.submit(retry=Retry(attempts_max=3, backoff_ms=10))).task_id
    attempt_id = (await runner.claim_one()).attempt_id
    assert not (await runner.report(attempt_id, AttemptState.RUNNING)).cancel
    assert (await runner.heartbeat(attempt_id)).cancel == ()
    for _ in range(2):  # asked twice, told once
        cancelled = await hub.cancel(task_id)
        assert (cancelled.accepted, cancelled.state) == (True, TaskState.RUNNING)
    assert (await hub.task(task_id))["cancel_requested"]
    assert (await runner.report(attempt_id)).cancel
    assert (await runner.heartbeat(attempt_id)).cancel == (attempt_id,)
    won = outcome is AttemptState.WON
    completion = runner.won(attempt_id) if won else Complete(attempt_id=attempt_id, outcome=outcome)
    assert (await runner.complete(completion)).task_state is TaskState.CANCELLED
    types = [event.type for event in await hub.all_published()]
    assert types.count("task.cancel_requested") == 1
    assert hub.seal_questions == []


async def test_a_task_whose_runner_is_lost_with_a_cancel_waiting_is_cancelled(hub: Hub) -> None:
    runner = await hub.runner()
    task_id = (await hub.submit()).task_id
    await runner.claim_one()
    await hub.cancel(task_id)
    await runner.again().register()
    task = await hub.task(task_id)
    assert (task["state"], task["message"]) == ("cancelled", "changed my mind")


async def test_a_sealing_task_is_cancelled_at_once_and_a_late_proof_changes_nothing(
    hub: Hub,
) -> None:
    hub.seal_open.clear()
    runner = await hub.runner()
    task_id = (await hub.submit()).task_id
    attempt_id = (await runner.claim_one()).attempt_id
    await runner.complete(runner.won(attempt_id))
    cancelled = await hub.cancel(task_id)
    assert (cancelled.accepted, cancelled.state) == (True, TaskState.CANCELLED)
    hub.seal_open.set()
    other = (await hub.submit()).task_id
    attempt_id = (await runner.claim_one()).attempt_id
    await runner.complete(runner.won(attempt_id))
    await hub.in_state(other, "publishing")  # asked after, so the late answer was handled too
    task = await hub.task(task_id)
    assert (task["state"], task["proof_id"]) == ("cancelled", None)


async def test_publishing_and_after_it_is_too_late(hub: Hub) -> None:
    runner = await hub.runner()
    task_id = (await hub.submit()).task_id
    await runner.complete(runner.won((await runner.claim_one()).attempt_id))
    publish = await runner.claim_one(UnitKind.PUBLISH)
    cancelled = await hub.cancel(task_id)
    assert (cancelled.accepted, cancelled.state) == (False, TaskState.PUBLISHING)
    assert not (await hub.task(task_id))["cancel_requested"]
    await runner.complete(Complete(attempt_id=publish.attempt_id, outcome=AttemptState.WON))
    cancelled = await hub.cancel(task_id)
    assert (cancelled.accepted, cancelled.state) == (False, TaskState.SUCCEEDED)
