"""Claims: each unit to one runner, each claim one answer, limits and turns kept."""

import asyncio
import time

import pytest
from scheduler_hub import Hub, Runner, scheduler, until
from wfhub_common import ids, subjects
from wfhub_common.errors import Rejected
from wfhub_common.httpauth import token_sha256
from wfhub_common.messages import (
    AttemptState,
    Complete,
    CreateProject,
    Introspect,
    Project,
    TokenInfo,
)


async def info(hub: Hub, token: str) -> TokenInfo:
    asked = Introspect(token_sha256=token_sha256(token))
    return await hub.ask(subjects.GATEWAY, "introspect", asked, TokenInfo)


async def fail(runner: Runner, attempt_id: str) -> None:
    await runner.complete(
        Complete(attempt_id=attempt_id, outcome=AttemptState.FAILED, retryable=False)
    )


async def test_a_repeated_claim_gets_the_same_attempts_with_usable_tokens(hub: Hub) -> None:
    runner = await hub.runner()
    for _ in range(3):
        await hub.submit()
    claim_id = ids.new_claim_id()
    first = await runner.claim(2, claim_id=claim_id)
    again = await runner.claim(2, claim_id=claim_id)
    assert [a.attempt_id for a in again] == [a.attempt_id for a in first]
    assert len(first) == 2
    assert [(await info(hub, a.token)).attempt_id for a in again] == [a.attempt_id for a in first]
    assert not (await info(hub, first[0].token)).active  # replaced: nobody else has it
    assert len(await runner.claim(2)) == 1


async def test_the_same_claim_sent_at_once_many_times_is_one_claim(hub: Hub) -> None:
    runner = await hub.runner()
    for _ in range(6):
        await hub.submit()
    claim_id = ids.new_claim_id()
    answers = await asyncio.gather(*(runner.claim(2, claim_id=claim_id) for _ in range(6)))
    assert len({tuple(a.attempt_id for a in answer) for answer in answers}) == 1
    assert await hub.pg.fetchval("SELECT count(*) FROM sched.attempt") == 2


async def test_a_repeated_claim_after_the_end_gets_nothing_new(hub: Hub) -> None:
    runner = await hub.runner()
    await hub.submit()
    await hub.submit()
    claim_id = ids.new_claim_id()
    (only,) = await runner.claim(1, claim_id=claim_id)
    await fail(runner, only.attempt_id)
    assert await runner.claim(1, claim_id=claim_id) == ()


async def test_two_schedulers_and_many_claimers_never_lease_a_unit_twice(hub: Hub) -> None:
    async with scheduler(hub.settings):
        await asyncio.gather(*(hub.submit() for _ in range(40)))
        runners = [await hub.runner() for _ in range(8)]

        async def work(runner: Runner) -> list[str]:
            got: list[str] = []
            while claimed := await runner.claim(3, wait_s=0):
                got += [a.task_id for a in claimed]
            return got

        taken = [task for got in await asyncio.gather(*map(work, runners)) for task in got]
    assert len(taken) == 40
    assert len(set(taken)) == 40
    assert await hub.pg.fetchval("SELECT running FROM sched.pool_project") == 40


async def test_a_waiting_claim_is_woken_by_a_submission(hub: Hub) -> None:
    runner = await hub.runner()
    waiting = asyncio.create_task(runner.claim(wait_s=20))
    await until(lambda: hub.pg.fetchval("SELECT count(*) FROM sched.runner"))
    begun = time.monotonic()
    submitted = await hub.submit()
    (assignment,) = await waiting
    assert assignment.task_id == submitted.task_id
    assert time.monotonic() - begun < 5


async def test_a_claim_that_finds_nothing_answers_when_its_wait_is_over(hub: Hub) -> None:
    assert await (await hub.runner()).claim(wait_s=0.1) == ()


async def test_priority_goes_before_age_and_other_pools_are_not_looked_at(hub: Hub) -> None:
    runner = await hub.runner()
    old = await hub.submit()
    urgent = await hub.submit(priority=5)
    await hub.submit(pool="gpu", priority=9)
    first, second = await runner.claim(3)
    assert [first.task_id, second.task_id] == [urgent.task_id, old.task_id]
    assert len(await runner.claim(3, pool="gpu")) == 1


async def test_a_project_never_runs_more_than_its_limit(hub: Hub) -> None:
    small = CreateProject(name="small", running_limit=2)
    await hub.ask(subjects.API, "create_project", small, Project)
    for _ in range(4):
        await hub.submit("small")
    runners = [await hub.runner() for _ in range(4)]
    claims = await asyncio.gather(*(r.claim(4, wait_s=0) for r in runners))
    assert sum(map(len, claims)) == 2
    holder, held = next((r, c) for r, c in zip(runners, claims, strict=True) if c)
    await fail(holder, held[0].attempt_id)
    assert len(await holder.claim(4, wait_s=5)) == 1


async def test_a_flood_does_not_delay_another_projects_turn(hub: Hub) -> None:
    for name in ("flood", "calm"):
        await hub.ask(subjects.API, "create_project", CreateProject(name=name), Project)
    for _ in range(30):
        await hub.submit("flood")
    runner = await hub.runner()
    await runner.claim(8)
    calm = {(await hub.submit("calm")).task_id for _ in range(6)}
    next_ones = [a.task_id for _ in range(12) for a in await runner.claim(1)]
    assert calm <= set(next_ones)  # six of twelve: every other turn


async def test_only_the_registered_process_may_claim(hub: Hub) -> None:
    with pytest.raises(Rejected, match="runner-unknown"):
        await Runner(hub).claim()
    earlier = await hub.runner()
    await earlier.again().register()
    with pytest.raises(Rejected, match="incarnation-stale"):
        await earlier.claim()


async def test_a_token_dies_with_its_attempt(hub: Hub) -> None:
    ended = await hub.broker.connection.subscribe(subjects.CTL_ATTEMPT_ENDED)
    runner = await hub.runner()
    submitted = await hub.submit(budget_tokens=1000)
    assignment = await runner.claim_one()
    token = await info(hub, assignment.token)
    assert (token.active, token.task_id) == (True, submitted.task_id)
    assert (token.budget_tokens, token.models) == (1000, None)
    assert token.valid_until == assignment.lease_until
    await fail(runner, assignment.attempt_id)
    assert not (await info(hub, assignment.token)).active
    assert assignment.attempt_id.encode() in (await ended.next_msg(timeout=5)).data
