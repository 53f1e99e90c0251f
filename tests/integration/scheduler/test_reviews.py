"""A person's word before anything is published: approved, declined, too late, said twice."""

from datetime import UTC, datetime
from typing import Any

import pytest
from scheduler_hub import Hub
from wfhub_common import subjects
from wfhub_common.errors import Rejected
from wfhub_common.messages import (
    AttemptState,
    Complete,
    ReviewDecision,
    Reviewed,
    ReviewTask,
    TaskState,
    UnitKind,
)

APPROVED, DECLINED = ReviewDecision.APPROVED, ReviewDecision.DECLINED


async def in_review(hub: Hub, **spec: Any) -> str:
    task_id = (await hub.submit(**{"review_s": 3600, **spec})).task_id
    runner = await hub.runner()
    await runner.complete(runner.won((await runner.claim_one()).attempt_id))
    hub.seal_open.set()
    await hub.in_state(task_id, "review")
    return task_id


async def decide(hub: Hub, task_id: str, decision: ReviewDecision, comment: str = "") -> Reviewed:
    request = ReviewTask(task_id=task_id, decision=decision, reviewer="ada", comment=comment)
    return await hub.ask(subjects.API, "review_task", request, Reviewed)


async def outcome(hub: Hub, task_id: str) -> tuple[str, str, str]:
    task = await hub.task(task_id)
    return task["state"], task["reason"], task["message"]


async def test_what_is_approved_is_published_and_nothing_before(hub: Hub) -> None:
    task_id = await in_review(hub)
    runner = await hub.runner()
    assert await runner.claim(wait_s=0) == ()
    task = await hub.task(task_id)
    assert task["proof_id"] is not None
    assert task["review_until"] is not None
    answer = await decide(hub, task_id, APPROVED, "well done")
    assert (answer.accepted, answer.state) == (True, "publishing")
    publication = await runner.claim_one(UnitKind.PUBLISH)
    done = Complete(attempt_id=publication.attempt_id, outcome=AttemptState.WON)
    await runner.complete(done)
    task = await hub.task(task_id)
    assert (task["state"], task["review"], task["reviewed_by"]) == ("succeeded", "approved", "ada")
    assert task["review_until"] is None
    (said,) = [e for e in await hub.all_published() if e.type == "task.reviewed"]
    assert said.data == {"decision": "approved", "reviewer": "ada", "comment": "well done"}


async def test_what_is_declined_is_never_published(hub: Hub) -> None:
    task_id = await in_review(hub)
    assert (await decide(hub, task_id, DECLINED, "not like this")).state == "failed"
    assert await outcome(hub, task_id) == ("failed", "review-declined", "not like this")
    assert await (await hub.runner()).claim(wait_s=0) == ()


async def test_a_decision_said_again_is_accepted_again_and_another_is_not(hub: Hub) -> None:
    task_id = await in_review(hub)
    first, again = await decide(hub, task_id, APPROVED), await decide(hub, task_id, APPROVED)
    assert first == again
    assert (await decide(hub, task_id, DECLINED)) == Reviewed(
        accepted=False, state=TaskState.PUBLISHING
    )
    said = [e for e in await hub.all_published() if e.type == "task.reviewed"]
    assert len(said) == 1


async def test_what_nobody_decides_in_time_fails(hub: Hub) -> None:
    task_id = await in_review(hub, review_s=1)
    await hub.in_state(task_id, "failed")
    assert (await outcome(hub, task_id))[1] == "review-timeout"
    assert not (await decide(hub, task_id, APPROVED)).accepted


async def test_a_deadline_ends_a_review_too(hub: Hub) -> None:
    task_id = await in_review(hub, deadline_at=datetime(2100, 1, 1, tzinfo=UTC))
    await hub.pg.execute(
        "UPDATE sched.task SET review_until = now(), spec = jsonb_set(spec, '{deadline_at}',"
        " '\"2020-01-01T00:00:00Z\"') WHERE task_id = $1",
        task_id,
    )
    assert not (await decide(hub, task_id, APPROVED)).accepted
    await hub.in_state(task_id, "failed")
    assert (await outcome(hub, task_id))[1] == "deadline"


async def test_a_review_can_be_cancelled(hub: Hub) -> None:
    task_id = await in_review(hub)
    assert (await hub.cancel(task_id)).accepted
    assert (await outcome(hub, task_id))[0] == "cancelled"


async def test_there_is_nothing_to_decide_before_there_is_a_result(hub: Hub) -> None:
    ready = (await hub.submit(review_s=60)).task_id
    assert await decide(hub, ready, APPROVED) == Reviewed(accepted=False, state=TaskState.READY)
    with pytest.raises(Rejected, match="there is no task"):
        await decide(hub, "tsk_nobody", APPROVED)


async def test_a_task_without_review_is_published_at_once(hub: Hub) -> None:
    hub.seal_open.set()
    task_id = (await hub.submit()).task_id
    runner = await hub.runner()
    await runner.complete(runner.won((await runner.claim_one()).attempt_id))
    await hub.in_state(task_id, "publishing")
