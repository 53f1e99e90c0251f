"""Runners that vanish, attempts that fail: what is tried again, and what is not."""

import asyncio

import asyncpg
import pytest
from scheduler_hub import Hub, Runner, until
from wfhub_common import ids
from wfhub_common.errors import RetryLater
from wfhub_common.messages import AttemptState, Complete, Retry, TaskState, UnitKind
from wfhub_scheduler.states import INFRA_LOSSES_MAX, PUBLISH_TRIES_MAX
from wfhub_scheduler.sweeper import SWEEP_S_MAX

TTL_S = 5.0  # longer than a busy machine keeps a test from its next question
QUICK = pytest.mark.parametrize("settings", [{"lease_ttl_s": TTL_S}], indirect=True)


async def fail(runner: Runner, attempt_id: str, **more: object) -> TaskState:
    fields = {"attempt_id": attempt_id, "outcome": AttemptState.FAILED, "reason": "agent-died"}
    completion = Complete.model_validate({**fields, **more})
    return (await runner.complete(completion)).task_state


async def at_publishing(hub: Hub, runner: Runner) -> str:
    submitted = await hub.submit()
    agent = await runner.claim_one()
    await runner.complete(runner.won(agent.attempt_id))
    await hub.in_state(submitted.task_id, "publishing")
    return submitted.task_id


@QUICK
async def test_an_expired_lease_is_lost_and_the_task_claimed_again(hub: Hub) -> None:
    silent, lively = await hub.runner(), await hub.runner()
    await hub.submit()
    lost = await silent.claim_one()
    again = await lively.claim_one()
    assert (again.task_id, again.number) == (lost.task_id, 2)
    row = await hub.attempt(lost.attempt_id)
    assert (row["state"], row["reason"]) == ("lost", "lease-expired")
    assert (await hub.task(lost.task_id))["attempts_used"] == 0
    assert await hub.pg.fetchval("SELECT infra_losses FROM sched.task") == 1
    assert await hub.pg.fetchval("SELECT count(*) FROM sched.unit WHERE state = 'leased'") == 1


@QUICK
async def test_heartbeats_keep_a_lease_alive(hub: Hub) -> None:
    silent, lively = await hub.runner(), await hub.runner()
    await hub.submit()
    await hub.submit()
    kept, lost = await lively.claim_one(), await silent.claim_one()

    async def beats_longer_than_the_silent_one_is_waited_for() -> bool:
        reply = await lively.heartbeat(kept.attempt_id)
        assert reply.lease_until[kept.attempt_id] >= kept.lease_until
        return bool((await hub.attempt(lost.attempt_id))["state"] == "lost")

    await until(beats_longer_than_the_silent_one_is_waited_for)
    assert (await hub.attempt(kept.attempt_id))["state"] == "leased"


async def test_a_restarted_runner_frees_what_its_earlier_process_held_at_once(hub: Hub) -> None:
    runner = await hub.runner()
    await hub.submit()
    await hub.submit()
    held = await runner.claim(2)
    restarted = await runner.again().register()
    for assignment in held:
        row = await hub.attempt(assignment.attempt_id)
        assert (row["state"], row["reason"]) == ("lost", "runner-restarted")
    again = await restarted.claim(2)
    assert {a.task_id for a in again} == {a.task_id for a in held}
    await restarted.register()  # the same process again: nothing is lost
    assert set((await restarted.heartbeat(*(a.attempt_id for a in again))).lost) == set()


async def test_infrastructure_losses_have_a_cap_of_their_own(hub: Hub) -> None:
    runner = await hub.runner()
    submitted = await hub.submit()
    for n in range(INFRA_LOSSES_MAX):
        await hub.pg.execute(
            "UPDATE sched.unit SET run_at = now(), due = true"
        )  # not what is tested here
        assert (await runner.claim_one()).number == n + 1
        runner = await runner.again().register()
    task = await hub.task(submitted.task_id)
    assert (task["state"], task["reason"]) == ("failed", "infrastructure")
    assert await hub.pg.fetchval("SELECT count(*) FROM sched.unit WHERE state = 'leased'") == 0


async def test_a_failed_attempt_is_retried_up_to_the_tasks_limit(hub: Hub) -> None:
    runner = await hub.runner()
    submitted = await hub.submit(retry=Retry(attempts_max=3, backoff_ms=10))
    for number, state in ((1, TaskState.READY), (2, TaskState.READY), (3, TaskState.FAILED)):
        assignment = await runner.claim_one()
        assert assignment.number == number
        assert await fail(runner, assignment.attempt_id, message="boom") is state
    task = await hub.task(submitted.task_id)
    assert (task["reason"], task["message"], task["attempts_used"]) == ("agent-died", "boom", 3)


async def test_what_is_not_retryable_fails_at_once(hub: Hub) -> None:
    runner = await hub.runner()
    await hub.submit(retry=Retry(attempts_max=3, backoff_ms=10))
    assignment = await runner.claim_one()
    assert await fail(runner, assignment.attempt_id, retryable=False) is TaskState.FAILED


async def test_a_runner_that_stops_uncalled_fails_the_task(hub: Hub) -> None:
    runner = await hub.runner()
    await hub.submit(retry=Retry(attempts_max=3, backoff_ms=10))
    assignment = await runner.claim_one()
    outcome = AttemptState.CANCELLED
    assert await fail(runner, assignment.attempt_id, outcome=outcome) is TaskState.FAILED


async def test_a_publish_conflict_is_final(hub: Hub) -> None:
    runner = await hub.runner()
    task_id = await at_publishing(hub, runner)
    publish = await runner.claim_one(UnitKind.PUBLISH)
    conflict = {"outcome": AttemptState.REJECTED, "reason": "publish-conflict"}
    assert await fail(runner, publish.attempt_id, **conflict) is TaskState.FAILED
    task = await hub.task(task_id)
    assert (task["reason"], task["branch"]) == ("publish-conflict", None)


async def test_an_unreachable_remote_is_tried_up_to_a_cap(hub: Hub) -> None:
    runner = await hub.runner()
    task_id = await at_publishing(hub, runner)
    for n in range(PUBLISH_TRIES_MAX):
        await hub.pg.execute(
            "UPDATE sched.unit SET run_at = now(), due = true WHERE state = 'ready'"
        )
        publish = await runner.claim_one(UnitKind.PUBLISH)
        assert publish.number == n + 1
        await fail(runner, publish.attempt_id, reason="remote-down")
    task = await hub.task(task_id)
    assert (task["state"], task["reason"]) == ("failed", "publish-unreachable")


async def test_a_lost_publication_is_claimed_again(hub: Hub) -> None:
    runner = await hub.runner()
    task_id = await at_publishing(hub, runner)
    await runner.claim_one(UnitKind.PUBLISH)
    restarted = await runner.again().register()
    assert (await hub.task(task_id))["state"] == "publishing"
    publish = await restarted.claim_one(UnitKind.PUBLISH)
    done = Complete(attempt_id=publish.attempt_id, outcome=AttemptState.WON)
    assert (await restarted.complete(done)).task_state is TaskState.SUCCEEDED


@QUICK
async def test_no_lease_expires_while_the_sweeper_cannot_reach_the_database(
    hub: Hub, postgres_server: str
) -> None:
    """The database refuses connections past the lease's end; then heartbeats get their chance."""
    runner = await hub.runner()
    await hub.submit()
    assignment = await runner.claim_one()
    name = await hub.pg.fetchval("SELECT current_database()")
    admin = await asyncpg.connect(postgres_server + "/postgres")
    await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS false")
    ends = asyncio.get_running_loop().time() + TTL_S + 0.5  # longer than the lease
    while asyncio.get_running_loop().time() < ends:
        await admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = $1 AND pid <> $2",
            name,
            hub.pg.get_server_pid(),
        )
        await asyncio.sleep(0.05)  # the outage's length, not a wait for something
    await admin.execute(f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
    await admin.close()
    await asyncio.sleep(2 * SWEEP_S_MAX)  # two sweeps, before the runner's next beat

    async def renewed() -> bool:
        try:
            reply = await runner.heartbeat(assignment.attempt_id)
        except RetryLater:
            return False
        return assignment.attempt_id in reply.lease_until

    await until(renewed, "the lease is renewed after the outage")
    assert (await hub.attempt(assignment.attempt_id))["state"] == "leased"


async def test_a_restarted_runner_hands_in_what_it_holds_and_loses_the_rest(hub: Hub) -> None:
    runner = await hub.runner()
    for _ in range(2):
        await hub.submit()
    finished, unfinished = await runner.claim(slots=2)
    again = runner.again()
    for _ in range(2):  # a lost reply is asked for again
        kept = await again.register_holding(finished.attempt_id, ids.new_attempt_id())
        assert kept == (finished.attempt_id,)
    assert (await hub.attempt(unfinished.attempt_id))["state"] == "lost"
    beat = await again.heartbeat(finished.attempt_id, unfinished.attempt_id)
    assert set(beat.lease_until) == {finished.attempt_id}
    assert beat.lost == (unfinished.attempt_id,)
    assert (await runner.heartbeat(finished.attempt_id)).lost == (finished.attempt_id,)
    done = await again.complete(again.won(finished.attempt_id))
    assert done.task_state is TaskState.SEALING
    (second,) = await again.claim(kinds=(UnitKind.AGENT,))
    assert (second.task_id, second.number) == (unfinished.task_id, 2)


async def test_nobody_holds_what_is_anothers_or_over(hub: Hub) -> None:
    owner, other = await hub.runner(), await hub.runner()
    await hub.submit()
    assignment = await owner.claim_one()
    assert await other.again().register_holding(assignment.attempt_id) == ()
    assert (await owner.heartbeat(assignment.attempt_id)).lease_until
    await owner.again().register()
    assert await owner.again().register_holding(assignment.attempt_id) == ()
    assert (await hub.attempt(assignment.attempt_id))["state"] == "lost"
