"""Times that run out: in the queue, at the deadline, after a stop was asked for, in all."""

from datetime import UTC, datetime, timedelta

import pytest
from scheduler_hub import BASE_COMMIT, Hub, Runner, scheduler, until
from wfhub_common import ids
from wfhub_common.messages import (
    AttemptState,
    Complete,
    Limits,
    Retry,
    TaskState,
    UnitKind,
    VerdictStatus,
)

FAR = datetime(2100, 1, 1, tzinfo=UTC)


async def pass_deadline(hub: Hub, task_id: str) -> None:
    """The spec's deadline is moved into the past; the sweeper finds it."""
    await hub.pg.execute(
        "UPDATE sched.task SET spec = jsonb_set(spec, '{deadline_at}', '\"2020-01-01T00:00:00Z\"')"
        " WHERE task_id = $1",
        task_id,
    )


async def told_to_stop(hub: Hub, runner: Runner, attempt_id: str) -> None:
    async def look() -> bool:
        return (await runner.heartbeat(attempt_id)).cancel == (attempt_id,)

    await until(look, "the runner is told")


async def outcome(hub: Hub, task_id: str) -> tuple[str, str]:
    task = await hub.task(task_id)
    return task["state"], task["reason"]


async def test_a_task_that_no_runner_takes_in_time_fails(hub: Hub) -> None:
    task_id = (await hub.submit(queue_s=1)).task_id
    patient = (await hub.submit(queue_s=3600)).task_id
    await hub.in_state(task_id, "failed")
    assert await outcome(hub, task_id) == ("failed", "queue-timeout")
    (assignment,) = await (await hub.runner()).claim(2)
    assert assignment.task_id == patient
    changes = [e for e in await hub.all_published() if e.type == "task.state_changed"]
    assert changes[0].data["reason"] == "queue-timeout"


async def test_the_wait_begins_when_the_task_may_start(hub: Hub) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    task_id = (await hub.submit(queue_s=1, run_at=soon)).task_id
    until_ = await hub.pg.fetchval("SELECT queue_until FROM sched.task WHERE task_id = $1", task_id)
    assert until_ == soon + timedelta(seconds=1)


async def test_a_task_that_was_tried_once_may_wait_for_its_next_try(hub: Hub) -> None:
    runner = await hub.runner()
    task_id = (await hub.submit(queue_s=3600)).task_id
    await runner.claim_one()
    await runner.again().register()  # lost: it is ready again
    statement = "UPDATE sched.task SET spec = jsonb_set(spec, '{queue_s}', '1') WHERE task_id = $1"
    await hub.pg.execute(statement, task_id)
    other = (await hub.submit(queue_s=1, pool="elsewhere")).task_id
    await hub.in_state(other, "failed")  # swept after the first one would have been
    assert (await hub.task(task_id))["state"] == "ready"


async def test_a_deadline_fails_a_task_that_waits(hub: Hub) -> None:
    task_id = (await hub.submit(deadline_at=datetime.now(UTC) + timedelta(seconds=0.3))).task_id
    await hub.in_state(task_id, "failed")
    assert await outcome(hub, task_id) == ("failed", "deadline")
    assert await (await hub.runner()).claim(wait_s=0) == ()


async def test_a_deadline_stops_a_live_attempt_and_keeps_its_evidence(hub: Hub) -> None:
    runner = await hub.runner()
    task_id = (await hub.submit(deadline_at=FAR, retry=Retry(attempts_max=3))).task_id
    attempt_id = (await runner.claim_one()).attempt_id
    assert not (await runner.report(attempt_id, AttemptState.RUNNING)).cancel
    await pass_deadline(hub, task_id)
    await told_to_stop(hub, runner, attempt_id)
    assert (await runner.report(attempt_id)).cancel
    assert (await hub.task(task_id))["state"] == "running"
    kept = Complete(
        attempt_id=attempt_id,
        outcome=AttemptState.CANCELLED,
        receipts=(runner.receipt(attempt_id, "agent.log"),),
        observed=runner.observed(VerdictStatus.NONE),
    )
    assert (await runner.complete(kept)).task_state is TaskState.FAILED
    assert await outcome(hub, task_id) == ("failed", "deadline")
    attempt = await hub.attempt(attempt_id)
    assert (attempt["state"], attempt["base_commit"]) == ("cancelled", BASE_COMMIT)
    assert "agent.log" in attempt["artifacts"]

    async def told_once() -> bool:
        types = [event.type for event in await hub.published()]
        return types.count("task.deadline_passed") == 1 and types[-1] == "task.state_changed"

    await until(told_once)


async def test_a_win_after_the_deadline_is_too_late_even_before_the_sweeper_saw_it(
    hub: Hub,
) -> None:
    runner = await hub.runner()
    task_id = (await hub.submit(deadline_at=FAR)).task_id
    attempt_id = (await runner.claim_one()).attempt_id
    await pass_deadline(hub, task_id)
    assert (await runner.complete(runner.won(attempt_id))).task_state is TaskState.FAILED
    assert await outcome(hub, task_id) == ("failed", "deadline")
    assert hub.seal_questions == []


async def test_a_deadline_while_the_proof_is_made_fails_the_task(hub: Hub) -> None:
    hub.seal_open.clear()
    runner = await hub.runner()
    task_id = (await hub.submit(deadline_at=FAR)).task_id
    await runner.complete(runner.won((await runner.claim_one()).attempt_id))
    await pass_deadline(hub, task_id)
    await hub.in_state(task_id, "failed")
    assert await outcome(hub, task_id) == ("failed", "deadline")
    hub.seal_open.set()


async def test_a_publication_that_has_begun_goes_on_past_the_deadline(hub: Hub) -> None:
    runner = await hub.runner()
    task_id = (await hub.submit(deadline_at=FAR)).task_id
    await runner.complete(runner.won((await runner.claim_one()).attempt_id))
    publish = await runner.claim_one(UnitKind.PUBLISH)
    await pass_deadline(hub, task_id)
    other = (await hub.submit(deadline_at=datetime.now(UTC))).task_id
    await hub.in_state(other, "failed")  # swept
    assert (await runner.heartbeat(publish.attempt_id)).lost == ()
    done = Complete(attempt_id=publish.attempt_id, outcome=AttemptState.WON)
    assert (await runner.complete(done)).task_state is TaskState.SUCCEEDED


@pytest.mark.parametrize("settings", [{"lease_ttl_s": 5.0, "stop_grace_s": 1.0}], indirect=True)
async def test_a_runner_that_does_not_stop_is_given_up_after_its_grace(hub: Hub) -> None:
    runner = await hub.runner()
    task_id = (await hub.submit(retry=Retry(attempts_max=3))).task_id
    attempt_id = (await runner.claim_one()).attempt_id
    await hub.cancel(task_id)

    async def beats() -> bool:
        reply = await runner.heartbeat(attempt_id)
        assert reply.cancel == (attempt_id,) or reply.lost == (attempt_id,)
        return bool((await hub.task(task_id))["state"] == "cancelled")

    await until(beats, "cancelled although the runner beats on")
    attempt = await hub.attempt(attempt_id)
    assert (attempt["state"], attempt["reason"]) == ("lost", "stop-ignored")


@pytest.mark.parametrize("settings", [{"lease_ttl_s": 2.0, "attempt_margin_s": 0.5}], indirect=True)
async def test_an_attempt_that_beats_for_ever_is_ended_by_the_scheduler(hub: Hub) -> None:
    runner = await hub.runner()
    limits = Limits(run_s=1, verify_s=1)
    task_id = (await hub.submit(limits=limits, verify=())).task_id
    claim_id = ids.new_claim_id()
    (assignment,) = await runner.claim(claim_id=claim_id)
    attempt_id = assignment.attempt_id

    async def beats() -> bool:
        await runner.heartbeat(attempt_id)
        await runner.claim(claim_id=claim_id, wait_s=0)  # which renews the lease as well
        return bool((await hub.attempt(attempt_id))["state"] == "lost")

    await until(beats, "lost although the runner beats on")
    attempt = await hub.attempt(attempt_id)
    assert attempt["reason"] == "limit:run-time"
    lasted = attempt["finished_at"] - attempt["created_at"]
    assert timedelta(seconds=1.5) <= lasted < timedelta(seconds=6)
    assert (await hub.task(task_id))["state"] == "ready"


async def test_an_attempt_may_take_what_each_of_its_commands_may(hub: Hub) -> None:
    limits = Limits(run_s=1000, verify_s=100, setup_s=10)
    asked = {"limits": limits, "verify": ("a", "b"), "verify_base": True}
    without = await hub.submit(**asked)
    with_set_up = await hub.submit(**asked, setup=("c", "d", "e"))
    found = {
        row["task_id"]: row["attempt_s"]
        for row in await hub.pg.fetch("SELECT task_id, attempt_s FROM sched.task")
    }
    assert found == {without.task_id: 1400, with_set_up.task_id: 1430}


async def test_two_schedulers_time_a_thousand_tasks_out_once_each(hub: Hub) -> None:
    async with scheduler(hub.settings):
        await hub.submit(queue_s=1)
        await hub.pg.execute(
            """
            INSERT INTO sched.task (task_id, project_id, state, spec)
            SELECT 'tsk_' || n, project_id, 'ready', spec
              FROM sched.task, generate_series(1, 1000) n
            """
        )

        async def all_failed() -> bool:
            count = await hub.pg.fetchval(
                "SELECT count(*) FROM sched.task WHERE reason = 'queue-timeout'"
            )
            return bool(count == 1001)

        await until(all_failed)
    changes = await hub.pg.fetchval(
        "SELECT count(*) FROM sched.event WHERE type = 'task.state_changed'"
    )
    assert changes == 1001
