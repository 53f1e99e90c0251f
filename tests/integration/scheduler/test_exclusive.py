"""One unit at a time writes into a folder, over all pools and projects."""

import asyncio

import pytest
from scheduler_hub import Hub, Runner, scheduler
from wfhub_common import subjects
from wfhub_common.messages import (
    Assignment,
    AttemptState,
    Complete,
    CreateProject,
    Project,
    UnitKind,
)
from wfhub_scheduler import claim

PUBLISH = (UnitKind.PUBLISH,)


async def won(
    hub: Hub, runner: Runner, repo: str, pool: str = "default", project: str = "default"
) -> str:
    """A task whose publication waits."""
    submitted = await hub.submit(project, repo=repo, apply=True, pool=pool)
    (agent,) = await runner.claim(1, pool=pool, kinds=(UnitKind.AGENT,), wait_s=10)
    await runner.complete(runner.won(agent.attempt_id))
    await hub.in_state(submitted.task_id, "publishing")
    return submitted.task_id


async def claimed(runner: Runner, pool: str = "default", wait_s: float = 0) -> list[Assignment]:
    return list(await runner.claim(5, pool=pool, kinds=PUBLISH, wait_s=wait_s))


async def published(runner: Runner, attempt_id: str) -> None:
    await runner.complete(Complete(attempt_id=attempt_id, outcome=AttemptState.WON))


async def test_writers_of_one_folder_take_turns(hub: Hub) -> None:
    runner = await hub.runner()
    tasks = {
        await won(hub, runner, "directory:notes/q3"),
        await won(hub, runner, "mount:notes"),
        await won(hub, runner, "directory:notes/q3/deep"),
    }
    beside = await won(hub, runner, "directory:other")
    first = await claimed(runner, wait_s=10)
    assert {a.task_id for a in first} > {beside}
    done: set[str] = set()
    now = first
    while done != tasks:
        (one,) = [a for a in now if a.task_id in tasks]
        assert await claimed(runner) == []
        await published(runner, one.attempt_id)
        await hub.in_state(one.task_id, "succeeded")
        done.add(one.task_id)
        now = await claimed(runner, wait_s=10) if done != tasks else []
    assert (await hub.task(beside))["branch"] is None


async def test_they_do_in_other_pools_too(hub: Hub) -> None:
    runner, pools = await hub.runner(), ("default", "gpu")
    for pool in pools:
        await won(hub, runner, "directory:notes", pool)
    async with scheduler(hub.settings):
        runners = [await hub.runner() for _ in range(8)]
        answers = await asyncio.gather(
            *(claimed(one, pools[n % 2]) for n, one in enumerate(runners))
        )
        held = [(r, a) for r, answer in zip(runners, answers, strict=True) for a in answer]
        assert len(held) == 1
        holder, attempt = held[0]
        await published(holder, attempt.attempt_id)
        others = await asyncio.gather(*(claimed(holder, pool, wait_s=3) for pool in pools))
    assert sum(map(len, others)) == 1


async def test_tasks_that_only_read_or_push_do_not_wait(hub: Hub) -> None:
    runner = await hub.runner()
    for _ in range(3):
        task = await hub.submit("default", repo="mount:notes")
        (agent,) = await runner.claim(1, kinds=(UnitKind.AGENT,), wait_s=10)
        await runner.complete(runner.won(agent.attempt_id))
        await hub.in_state(task.task_id, "publishing")
    assert len(await claimed(runner, wait_s=10)) == 3


async def test_who_waits_for_a_folder_holds_up_no_other_project(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "ROUNDS_MAX", 1)  # as many projects as that would have to wait
    for name, weight in (("first", 1000), ("second", 1)):
        project = CreateProject(name=name, weight=weight)
        await hub.ask(subjects.API, "create_project", project, Project)
    runner = await hub.runner()
    for _ in range(2):
        await won(hub, runner, "directory:notes", project="first")
    assert len(await claimed(runner)) == 1  # it writes, the other one waits for it
    tasks = [(await hub.submit("second")).task_id for _ in range(2)]
    given = [await runner.claim(1, wait_s=1) for _ in tasks]
    assert [[each.task_id for each in answer] for answer in given] == [[each] for each in tasks]
