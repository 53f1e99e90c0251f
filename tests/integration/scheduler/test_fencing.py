"""Only the current attempt's own runner changes anything; everyone else changes nothing."""

from typing import Any

import pytest
from scheduler_hub import Hub, Runner, until
from wfhub_common import ids, signing
from wfhub_common.errors import Corrupt, LeaseLost, Rejected
from wfhub_common.messages import (
    BUNDLE_ARTIFACT,
    AttemptState,
    Complete,
    TaskState,
    VerdictStatus,
)

TABLES = ("project", "task", "unit", "attempt", "pool", "pool_project", "event", "dead_letter")


async def everything(hub: Hub) -> dict[str, Any]:
    """All rows that a command could change (positions are the relay's)."""
    return {
        table: await hub.pg.fetch(
            f"SELECT to_jsonb(t) - 'pos' - 'generation' FROM sched.{table} t ORDER BY 1"
        )
        for table in TABLES
    }


async def changes_nothing(hub: Hub, runner: Runner, attempt_id: str) -> None:
    before = await everything(hub)
    completions = (
        runner.won(attempt_id),
        Complete(attempt_id=attempt_id, outcome=AttemptState.FAILED),
        Complete(attempt_id=attempt_id, outcome=AttemptState.CANCELLED),
    )
    for completion in completions:
        with pytest.raises(LeaseLost):
            await runner.complete(completion)
    with pytest.raises(LeaseLost):
        await runner.report(attempt_id, AttemptState.RUNNING)
    assert (await runner.heartbeat(attempt_id)).lost == (attempt_id,)
    assert await everything(hub) == before


async def test_a_foreign_runner_changes_nothing(hub: Hub) -> None:
    await hub.submit()
    assignment = await (await hub.runner()).claim_one()
    await changes_nothing(hub, await hub.runner(), assignment.attempt_id)


async def test_an_unknown_attempt_changes_nothing(hub: Hub) -> None:
    await changes_nothing(hub, await hub.runner(), ids.new_attempt_id())


async def test_a_stale_attempt_changes_nothing_while_the_next_one_works(hub: Hub) -> None:
    runner = await hub.runner()
    await hub.submit()
    stale = await runner.claim_one()
    restarted = await runner.again().register()
    current = await restarted.claim_one()
    assert (current.task_id, current.number) == (stale.task_id, 2)
    await changes_nothing(hub, runner, stale.attempt_id)
    await changes_nothing(hub, restarted, stale.attempt_id)
    assert (await restarted.complete(restarted.won(current.attempt_id))).task_state is (
        TaskState.SEALING
    )


async def test_an_earlier_process_cannot_renew_what_the_runner_holds_now(hub: Hub) -> None:
    runner = await hub.runner()
    await hub.submit()
    restarted = await runner.again().register()
    current = await restarted.claim_one()
    assert (await runner.heartbeat(current.attempt_id)).lost == (current.attempt_id,)


async def test_the_same_completion_again_is_answered_again(hub: Hub) -> None:
    hub.seal_open.clear()
    runner = await hub.runner()
    await hub.submit()
    assignment = await runner.claim_one()
    completion = runner.won(assignment.attempt_id)
    first, second = await runner.complete(completion), await runner.complete(completion)
    assert (first.repeated, second.repeated) == (False, True)
    assert second.task_state is TaskState.SEALING
    other = Complete(attempt_id=assignment.attempt_id, outcome=AttemptState.FAILED)
    with pytest.raises(LeaseLost):
        await runner.complete(other)
    with pytest.raises(LeaseLost):
        await (await hub.runner()).complete(other)
    hub.seal_open.set()


async def test_a_win_without_its_evidence_is_refused_and_stays_open(hub: Hub) -> None:
    runner, other = await hub.runner(), await hub.runner()
    await hub.submit()
    attempt_id = (await runner.claim_one()).attempt_id
    forged = runner.receipt(attempt_id, BUNDLE_ARTIFACT, key=signing.generate_private_key())
    good = runner.receipt(attempt_id, BUNDLE_ARTIFACT)
    bad: list[tuple[dict[str, Any], type[Exception]]] = [
        ({"receipts": ()}, Rejected),
        ({"receipts": (forged,)}, Corrupt),
        ({"receipts": (good.model_copy(update={"digest": "sha256:" + "0" * 64}),)}, Corrupt),
        ({"receipts": (other.receipt(attempt_id, BUNDLE_ARTIFACT),)}, Rejected),
        ({"receipts": (runner.receipt(ids.new_attempt_id(), BUNDLE_ARTIFACT),)}, Rejected),
        ({"observed": None}, Rejected),
        ({"observed": runner.observed(VerdictStatus.NONE)}, Rejected),
        ({"observed": runner.observed(VerdictStatus.FAILED)}, Rejected),
    ]
    before = await everything(hub)
    for fields, error in bad:
        with pytest.raises(error):
            await runner.complete(runner.won(attempt_id, **fields))
    assert await everything(hub) == before
    assert (await runner.complete(runner.won(attempt_id))).task_state is TaskState.SEALING


async def test_an_attempt_does_not_go_backwards(hub: Hub) -> None:
    runner = await hub.runner()
    await hub.submit()
    attempt_id = (await runner.claim_one()).attempt_id
    await runner.report(attempt_id, AttemptState.VERIFYING)
    await runner.report(attempt_id, AttemptState.VERIFYING)  # again: a step, no transition
    with pytest.raises(Rejected, match="attempt-backwards"):
        await runner.report(attempt_id, AttemptState.RUNNING)
    with pytest.raises(Rejected, match="step-too-large"):
        await runner.report(attempt_id, text="x" * 20_000)
    assert (await hub.attempt(attempt_id))["state"] == "verifying"


async def test_a_duplicate_completion_changes_nothing(hub: Hub) -> None:
    hub.seal_open.clear()
    runner = await hub.runner()
    await hub.submit()
    completion = runner.won((await runner.claim_one()).attempt_id)
    await runner.complete(completion)

    async def asked() -> bool:
        return bool(hub.seal_questions)

    await until(asked, "the proof is asked for: from here on nothing moves by itself")
    before = await everything(hub)
    for _ in range(3):
        assert (await runner.complete(completion)).repeated
    assert await everything(hub) == before
    hub.seal_open.set()


async def test_an_unknown_task_changes_nothing(hub: Hub) -> None:
    await hub.submit()
    before = await everything(hub)
    for task_id in (ids.new_task_id(), "", "\x00", "x" * 100_000):
        with pytest.raises(Rejected, match="task-unknown"):
            await hub.cancel(task_id)
    assert await everything(hub) == before


async def test_what_is_refused_is_logged_once_and_says_what_and_whose(
    hub: Hub, capsys: pytest.CaptureFixture[str]
) -> None:
    runner = await hub.runner()
    await hub.submit()
    attempt_id = (await runner.claim_one()).attempt_id
    stale = ids.new_attempt_id()
    capsys.readouterr()
    with pytest.raises(LeaseLost):
        await runner.complete(runner.won(stale))
    with pytest.raises(Rejected):
        await runner.complete(runner.won(attempt_id, receipts=()))
    lines = [line for line in capsys.readouterr().out.splitlines() if "refused" in line]
    assert len(lines) == 2
    for line, code, about in (
        (lines[0], "attempt-not-current", stale),
        (lines[1], "bundle-missing", attempt_id),
    ):
        assert code in line
        assert about in line
        assert f"{runner.runner_id}.complete" in line
