"""Limits: what runs and what waits, of a project and of a pool; pauses."""

import asyncio
from typing import Any

import pytest
from scheduler_hub import Hub, Runner, scheduler
from wfhub_common import subjects
from wfhub_common.errors import Rejected
from wfhub_common.messages import (
    AttemptState,
    Complete,
    CreateProject,
    Pool,
    Project,
    UnitKind,
    UpdatePool,
    UpdateProject,
)


async def create(hub: Hub, name: str, **limits: int) -> Project:
    return await hub.ask(
        subjects.API, "create_project", CreateProject(name=name, **limits), Project
    )


async def update(hub: Hub, project: str, **changes: Any) -> Project:
    asked = UpdateProject(project=project, **changes)
    return await hub.ask(subjects.API, "update_project", asked, Project)


async def pool(hub: Hub, name: str = "default", **changes: Any) -> Pool:
    asked = UpdatePool(pool=name, **changes)
    return await hub.ask(subjects.API, "update_pool", asked, Pool)


async def fail(runner: Runner, attempt_id: str) -> None:
    await runner.complete(
        Complete(attempt_id=attempt_id, outcome=AttemptState.FAILED, retryable=False)
    )


async def test_a_project_never_runs_more_than_its_limit_over_all_pools(hub: Hub) -> None:
    await create(hub, "small", running_limit=3)
    for _ in range(4):
        await hub.submit("small")
        await hub.submit("small", pool="gpu")
    async with scheduler(hub.settings):
        runners = [await hub.runner() for _ in range(6)]
        pools = ("default", "gpu") * 3
        claims = await asyncio.gather(
            *(r.claim(4, pool=p, wait_s=0) for r, p in zip(runners, pools, strict=True))
        )
        assert sum(map(len, claims)) == 3
        holder, held = next((r, c) for r, c in zip(runners, claims, strict=True) if c)
        await fail(holder, held[0].attempt_id)
        again = await asyncio.gather(
            *(holder.claim(4, pool=p, wait_s=3) for p in ("default", "gpu"))
        )
    assert sum(map(len, again)) == 1


async def test_a_changed_limit_holds_from_its_answer_on(hub: Hub) -> None:
    await create(hub, "small", running_limit=1)
    for _ in range(5):
        await hub.submit("small")
    runner = await hub.runner()
    (first,) = await runner.claim(5)
    waiting = asyncio.create_task(runner.claim(5, wait_s=20))
    assert (await update(hub, "small", running_limit=3)).running_limit == 3
    assert len(await waiting) == 2
    await update(hub, "small", running_limit=1)
    await fail(runner, first.attempt_id)
    assert await runner.claim(5, wait_s=0) == ()


async def test_a_pool_never_runs_more_than_its_limit(hub: Hub) -> None:
    assert await pool(hub, running_limit=2) == Pool(pool="default", running_limit=2)
    for name in ("one", "other"):
        await create(hub, name)
        for _ in range(3):
            await hub.submit(name)
    async with scheduler(hub.settings):
        runners = [await hub.runner() for _ in range(4)]
        claims = await asyncio.gather(*(r.claim(4, wait_s=0) for r in runners))
    assert sum(map(len, claims)) == 2
    assert (await pool(hub, unlimited=True)).running_limit is None
    assert len(await runners[0].claim(6, wait_s=5)) == 4
    with pytest.raises(Rejected, match="pool-limit-unclear"):
        await pool(hub, unlimited=True, running_limit=1)


async def test_a_paused_project_starts_nothing_but_what_it_won_is_published(hub: Hub) -> None:
    await create(hub, "calm")
    tasks = [await hub.submit("calm") for _ in range(2)]
    runner = await hub.runner()
    held = await runner.claim_one()
    paused = await update(hub, "calm", paused=True)
    assert paused.paused
    assert await update(hub, "calm", paused=True) == paused
    assert await runner.claim(wait_s=0) == ()
    elsewhere = await hub.submit()
    assert [a.task_id for a in await runner.claim(4, wait_s=0)] == [elsewhere.task_id]
    await runner.complete(runner.won(held.attempt_id))
    await hub.in_state(held.task_id, "publishing")
    (publication,) = await runner.claim(4)
    assert (publication.kind, publication.task_id) == (UnitKind.PUBLISH, held.task_id)
    waiting = asyncio.create_task(runner.claim(4, wait_s=20))
    await update(hub, "calm", paused=False)
    (resumed,) = await waiting
    assert {resumed.task_id, held.task_id} == {task.task_id for task in tasks}


async def test_a_paused_pool_starts_nothing_of_any_project(hub: Hub) -> None:
    await pool(hub, paused=True)
    await hub.submit()
    gpu = await hub.submit(pool="gpu")
    runner = await hub.runner()
    assert await runner.claim(wait_s=0) == ()
    assert [a.task_id for a in await runner.claim(pool="gpu")] == [gpu.task_id]
    await pool(hub, paused=False)
    assert len(await runner.claim()) == 1


async def test_a_full_queue_refuses_with_a_time_to_come_back(hub: Hub) -> None:
    await create(hub, "small", queue_limit=2)
    first = await hub.submit("small")
    await hub.submit("small")
    with pytest.raises(Rejected) as caught:
        await hub.submit("small")
    assert (caught.value.code, caught.value.status) == ("queue-full", 429)
    assert caught.value.fields["retry_after_s"] >= 1
    runner = await hub.runner()
    assert (await runner.claim_one()).task_id == first.task_id
    await hub.submit("small")  # the one that runs does not wait any more
    with pytest.raises(Rejected):
        await hub.submit("small")
    await update(hub, "small", queue_limit=3)
    await hub.submit("small")


async def test_tasks_that_come_back_have_their_place_in_the_queue(hub: Hub) -> None:
    await create(hub, "small", queue_limit=3)
    for _ in range(3):
        await hub.submit("small")
    runner = await hub.runner()
    assert len(await runner.claim(3)) == 3
    await hub.submit("small")  # nothing else waits
    await runner.again().register()  # what it had is ready again
    with pytest.raises(Rejected, match="queue-full"):
        await hub.submit("small")


async def test_a_queue_is_never_longer_than_its_limit_however_many_submit(hub: Hub) -> None:
    await create(hub, "small", queue_limit=25)
    runner = await hub.runner()

    async def submit() -> bool:
        try:
            await hub.submit("small")
        except Rejected:
            return False
        return True

    waiting = "SELECT count(*) FROM sched.task WHERE state IN ('ready', 'blocked')"
    async with scheduler(hub.settings):
        accepted = 0
        for _ in range(4):
            answers = await asyncio.gather(*(submit() for _ in range(40)))
            accepted += sum(answers)
            assert await hub.pg.fetchval(waiting) == 25
            assert len(await runner.claim(7)) == 7
    assert accepted == 25 + 3 * 7


async def test_a_limit_that_was_lowered_and_raised_again_counts_all_that_waits(hub: Hub) -> None:
    await create(hub, "small", queue_limit=10)
    for _ in range(8):
        await hub.submit("small")
    await update(hub, "small", queue_limit=2)
    with pytest.raises(Rejected, match="queue-full"):
        await hub.submit("small")
    await update(hub, "small", queue_limit=10)
    for _ in range(2):
        await hub.submit("small")
    with pytest.raises(Rejected, match="queue-full"):
        await hub.submit("small")


async def test_a_cancelled_task_leaves_its_place(hub: Hub) -> None:
    await create(hub, "small", queue_limit=1)
    task = await hub.submit("small")
    await hub.cancel(task.task_id)
    await hub.submit("small")


async def test_a_project_that_is_not_there_cannot_be_changed(hub: Hub) -> None:
    with pytest.raises(Rejected) as caught:
        await update(hub, "nowhere", paused=True)
    assert (caught.value.code, caught.value.status) == ("project-unknown", 404)


async def test_a_change_is_told_as_an_event_and_no_change_is_not(hub: Hub) -> None:
    project = await create(hub, "calm")
    await update(hub, "calm", weight=5, running_limit=100)
    await update(hub, project.project_id, weight=5)
    events = [e for e in await hub.all_published() if e.type == "project.updated"]
    assert [(e.subject, e.data) for e in events] == [(project.project_id, {"weight": 5})]
