"""Commands that come at the same time share a transaction, and no fate."""

import asyncio
from typing import Any

from scheduler_hub import Hub, Runner
from wfhub_common import ids, signing
from wfhub_common.errors import Corrupt, LeaseLost, Rejected, WfhubError, from_wire
from wfhub_common.messages import (
    BUNDLE_ARTIFACT,
    AttemptState,
    Complete,
    Completed,
    CompletedMany,
    CompleteMany,
    TaskState,
)

TASKS = 12


async def claimed(hub: Hub, runner: Runner, count: int) -> list[str]:
    await asyncio.gather(*(hub.submit() for _ in range(count)))
    held: list[str] = []
    while len(held) < count:
        held += [assignment.attempt_id for assignment in await runner.claim(count)]
    return held


async def row(hub: Hub, attempt_id: str) -> Any:
    return await hub.pg.fetchval(
        "SELECT to_jsonb(a) || to_jsonb(t) || to_jsonb(u) FROM sched.attempt a"
        " JOIN sched.task t USING (task_id) JOIN sched.unit u USING (unit_id)"
        " WHERE attempt_id = $1",
        attempt_id,
    )


async def test_good_and_bad_completions_at_once_are_each_answered_for_itself(hub: Hub) -> None:
    hub.seal_open.clear()
    runner, other = await hub.runner(), await hub.runner()
    held = await claimed(hub, runner, TASKS)
    good, broken = held[: TASKS // 2], held[TASKS // 2 :]
    unsigned = runner.receipt(broken[1], BUNDLE_ARTIFACT, key=signing.generate_private_key())
    bad: list[tuple[Runner, Complete, type[WfhubError]]] = [
        (runner, runner.won(broken[0], receipts=()), Rejected),
        (runner, runner.won(broken[1], receipts=(unsigned,)), Corrupt),
        (other, other.won(broken[2]), LeaseLost),
        (runner, runner.won(ids.new_attempt_id()), LeaseLost),
        (runner, runner.won("\x00nonsense"), LeaseLost),
    ]
    before = [await row(hub, attempt_id) for attempt_id in broken]
    commands: list[tuple[Runner, Complete]] = [(runner, runner.won(each)) for each in good]
    for n, (who, command, _) in enumerate(bad):
        commands.insert(2 * n, (who, command))
    commands.append((runner, runner.won(good[0])))  # one of them twice
    answers = await asyncio.gather(
        *(who.complete(command) for who, command in commands), return_exceptions=True
    )
    found = {id(command): answer for (_, command), answer in zip(commands, answers, strict=True)}
    for _, command, error in bad:
        assert type(found[id(command)]) is error, found[id(command)]
    done = [answer for answer in answers if isinstance(answer, Completed)]
    assert {answer.task_state for answer in done} == {TaskState.SEALING}
    assert sorted(answer.repeated for answer in done) == [False] * len(good) + [True]
    assert [await row(hub, attempt_id) for attempt_id in broken] == before
    for attempt_id in good:
        assert (await hub.attempt(attempt_id))["state"] == "won"
    hub.seal_open.set()


async def test_many_completions_in_one_message_are_each_answered_for_itself(hub: Hub) -> None:
    hub.seal_open.clear()
    runner, other = await hub.runner(), await hub.runner()
    held = await claimed(hub, runner, 4)
    foreign = await claimed(hub, other, 1)
    unsigned = runner.receipt(held[3], BUNDLE_ARTIFACT, key=signing.generate_private_key())
    completions = (
        runner.won(held[0]),
        runner.won(foreign[0]),
        runner.won(held[1]),
        runner.won(held[1]),  # twice in one message
        runner.won(held[2], receipts=()),
        runner.won(held[3], receipts=(unsigned,)),
    )
    request = CompleteMany(completions=completions)
    answer = await hub.ask(runner.runner_id, "complete_many", request, CompletedMany)
    said = [each.completed or from_wire(each.error or {}) for each in answer.results]
    done = Completed(task_state=TaskState.SEALING)
    assert [said[0], said[2], said[3]] == [done, done, done.model_copy(update={"repeated": True})]
    assert [type(said[n]) for n in (1, 4, 5)] == [LeaseLost, Rejected, Corrupt]
    left = await hub.pg.fetch("SELECT attempt_id FROM sched.attempt WHERE state = 'leased'")
    assert {each["attempt_id"] for each in left} == {held[2], held[3], foreign[0]}


async def test_reports_at_once_keep_their_order_and_refuse_their_own(hub: Hub) -> None:
    runner = await hub.runner()
    held = await claimed(hub, runner, 4)
    calls = [runner.report(each, AttemptState.RUNNING, "begun") for each in held]
    calls.append(runner.report(ids.new_attempt_id(), AttemptState.RUNNING, "begun"))
    calls += [runner.report(each, AttemptState.VERIFYING, "checked") for each in held]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [isinstance(answer, LeaseLost) for answer in answers] == [n == 4 for n in range(9)]
    for attempt_id in held:
        steps = await hub.pg.fetch(
            "SELECT coalesce(data ->> 'step', data ->> 'to') AS said FROM sched.event"
            " WHERE entity_id = $1 ORDER BY batch_id, n",
            attempt_id,
        )
        said = [each["said"] for each in steps]
        assert said == ["leased", "running", "begun", "verifying", "checked"]


async def test_heartbeats_of_many_runners_at_once_renew_each_its_own(hub: Hub) -> None:
    runners = [await hub.runner() for _ in range(5)]
    held = [await claimed(hub, runner, 2) for runner in runners]
    stranger = await hub.runner()
    replies = await asyncio.gather(
        *(runner.heartbeat(*held[n], held[n - 1][0]) for n, runner in enumerate(runners)),
        stranger.heartbeat(*held[0], "\x00"),
        Runner(hub, runners[1].runner_id).heartbeat(*held[1]),  # another process of it
    )
    for n, reply in enumerate(replies[:5]):
        assert set(reply.lease_until) == set(held[n])
        assert reply.lost == (held[n - 1][0],)
    assert replies[5].lease_until == replies[6].lease_until == {}
    assert set(replies[5].lost) == {*held[0], "\ufffd"}
    assert set(replies[6].lost) == set(held[1])


async def test_a_renewal_writes_the_row_alone(hub: Hub) -> None:
    """10,000 attempts beat every ten seconds: a lease must stay out of every index."""
    indexed = await hub.pg.fetch(
        "SELECT indexdef FROM pg_indexes WHERE schemaname = 'sched' AND tablename = 'attempt'"
    )
    assert indexed
    assert not [each for each in indexed if "lease_until" in each["indexdef"]]
