"""A task's own policy of retries: how often, after what, how long after."""

import pytest
from scheduler_hub import Hub, Runner
from wfhub_common.messages import AttemptState, Complete, Retry, TaskState

QUICK = Retry(attempts_max=3, backoff_ms=0)


async def end(
    runner: Runner, outcome: AttemptState, reason: str, *, retryable: bool = True
) -> TaskState:
    """The next claim's attempt, ended so."""
    completion = Complete(
        attempt_id=(await runner.claim_one()).attempt_id,
        outcome=outcome,
        reason=reason,
        retryable=retryable,
    )
    return (await runner.complete(completion)).task_state


async def test_the_wait_before_the_next_try_is_the_policys(hub: Hub) -> None:
    runner = await hub.runner()
    policy = Retry(attempts_max=3, backoff_ms=60_000, factor=3, jitter_percent=0)
    task_id = (await hub.submit(retry=policy)).task_id
    for wait_s in (60, 180):
        assert await end(runner, AttemptState.FAILED, "agent-failed") is TaskState.READY
        waits = await hub.pg.fetchrow(
            "SELECT due, extract(epoch FROM run_at - a.finished_at)::float AS after_s"
            "  FROM sched.unit u JOIN sched.attempt a USING (unit_id)"
            " WHERE u.task_id = $1 ORDER BY a.number DESC LIMIT 1",
            task_id,
        )
        assert waits is not None
        assert (waits["due"], waits["after_s"]) == (False, pytest.approx(wait_s, abs=0.001))
        assert await runner.claim(wait_s=0) == ()
        await hub.pg.execute("UPDATE sched.unit SET run_at = now(), due = true")
    assert await end(runner, AttemptState.FAILED, "agent-failed") is TaskState.FAILED


async def test_a_policy_that_names_reasons_tries_no_other_again(hub: Hub) -> None:
    runner = await hub.runner()
    policy = QUICK.model_copy(update={"on": ("verification-failed", "limit:")})
    for outcome, reason, state in (
        (AttemptState.REJECTED, "verification-failed", TaskState.READY),
        (AttemptState.FAILED, "limit:idle", TaskState.READY),
        (AttemptState.FAILED, "no-changes", TaskState.FAILED),
    ):
        await hub.submit(retry=policy)
        assert await end(runner, outcome, reason) is state
        await hub.pg.execute("UPDATE sched.unit SET state = 'dead' WHERE state = 'ready'")


async def test_what_the_runner_calls_hopeless_is_not_tried_again_even_if_named(hub: Hub) -> None:
    runner = await hub.runner()
    await hub.submit(retry=QUICK.model_copy(update={"on": ("agent-cannot-start",)}))
    assert (
        await end(runner, AttemptState.FAILED, "agent-cannot-start", retryable=False)
        is TaskState.FAILED
    )


async def test_lost_infrastructure_is_tried_again_whatever_the_policy_names(hub: Hub) -> None:
    runner = await hub.runner()
    task_id = (await hub.submit(retry=Retry(on=("verification-failed",)))).task_id
    await runner.claim_one()
    restarted = await runner.again().register()
    assert (await restarted.claim_one()).task_id == task_id
    assert (await hub.task(task_id))["attempts_used"] == 0
