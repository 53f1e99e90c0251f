"""Proofs are asked for until they are there, or refused for good."""

import pytest
from scheduler_hub import SPEC, Hub, scheduler, until
from wfhub_common import limits
from wfhub_common.errors import Corrupt, Rejected, RetryLater, WfhubError
from wfhub_common.messages import BUNDLE_ARTIFACT, Change, VerdictStatus

RECEIPTS = 2 * limits.VERIFY_COMMANDS_MAX + 16  # a log a command, here and on the base; and more


async def win(hub: Hub) -> str:
    runner = await hub.runner()
    task_id = (await hub.submit()).task_id
    await runner.complete(runner.won((await runner.claim_one()).attempt_id))
    return task_id


async def test_a_proof_store_that_is_down_is_asked_again(hub: Hub) -> None:
    hub.seal_refusals = [RetryLater("gateway-down", "later"), RetryLater("gateway-down", "later")]
    task_id = await win(hub)
    await hub.in_state(task_id, "publishing")
    assert len(hub.seal_questions) == 3
    assert len({q.model_dump_json() for q in hub.seal_questions}) == 1
    assert await hub.pg.fetchval("SELECT tokens FROM sched.task") == 1234
    assert (await hub.task(task_id))["proof_id"].startswith("prf_")


@pytest.mark.parametrize(
    "refusal", [Rejected("commit-missing", "no commit"), Corrupt("blob-lost", "blob is gone")]
)
async def test_a_refused_proof_fails_the_task_and_keeps_the_question(
    hub: Hub, refusal: WfhubError
) -> None:
    hub.seal_refusals = [refusal]
    task_id = await win(hub)
    await hub.in_state(task_id, "failed")
    task = await hub.task(task_id)
    assert (task["reason"], task["message"]) == (refusal.code, refusal.message)
    letter = await hub.pg.fetchrow("SELECT source, subject, code, error FROM sched.dead_letter")
    assert letter is not None
    assert tuple(letter) == ("seal", task_id, refusal.code, refusal.message)


async def test_a_scheduler_that_starts_later_asks_for_the_proofs_still_due(idle_hub: Hub) -> None:
    hub = idle_hub
    hub.seal_open.clear()
    async with scheduler(hub.settings):
        await until(lambda: answers(hub))
        task_id = await win(hub)
        await until(lambda: asked(hub))
    await hub.pg.execute("UPDATE sched.task SET seal_due_at = now()")  # not wait for the backoff
    hub.seal_open.set()
    async with scheduler(hub.settings):
        await hub.in_state(task_id, "publishing")


async def answers(hub: Hub) -> bool:
    try:
        await hub.runner()
    except RetryLater:
        return False
    return True


async def asked(hub: Hub) -> bool:
    return bool(hub.seal_questions)


async def test_the_largest_task_with_the_largest_observations_is_sealed(hub: Hub) -> None:
    """A question of more than a message would fail a task whose work is done."""
    commands = ("x" * 7_900,) * 16
    more = "x" * (limits.SPEC_BYTES_MAX - _bytes(verify=commands) - len('"",'))
    spec = {"verify": (*commands, more), "prompt": "p" * limits.PROMPT_BYTES_MAX}
    assert _bytes(**spec) == limits.SPEC_BYTES_MAX
    runner = await hub.runner()
    task_id = (await hub.submit(**spec)).task_id
    attempt_id = (await runner.claim_one()).attempt_id
    bare = runner.observed(VerdictStatus.PASSED)
    size = limits.OBSERVED_BYTES_MAX - len(bare.model_dump_json()) - 100
    observed = bare.model_copy(update={"changes": (Change(path="p" * size, change="added"),)})
    names = (BUNDLE_ARTIFACT, *(f"verify-{n:02}-of-the-base.log" for n in range(RECEIPTS)))
    kept = tuple(runner.receipt(attempt_id, name) for name in names)
    await runner.complete(runner.won(attempt_id, observed=observed, receipts=kept))
    await hub.in_state(task_id, "publishing")


def _bytes(**spec: object) -> int:
    """As it is stored, without its prompt."""
    full = SPEC.model_copy(update=spec)
    settled = full.model_copy(update={"limits": full.limits.in_force()})
    return len(settled.model_dump_json(exclude={"prompt"}).encode())
