"""Wake-ups, stored JSON, titles, and who may ask what."""

import asyncio
import json

from wfhub_common import subjects
from wfhub_common.messages import TaskSpec, Verdict, VerdictStatus
from wfhub_scheduler import handlers, stored_json
from wfhub_scheduler.creation import title_of
from wfhub_scheduler.wakeups import Bell


async def test_a_bell_rung_between_ticket_and_wait_is_not_missed() -> None:
    bell = Bell()
    ticket = bell.ticket()
    bell.ring()
    async with asyncio.timeout(1):
        await ticket.wait(60)


async def test_a_ticket_waits_for_the_next_ring_only() -> None:
    bell = Bell()
    bell.ring()
    ticket = bell.ticket()
    assert not ticket.event.is_set()
    await ticket.wait(0.001)


async def test_nobody_waits_at_a_closed_bell() -> None:
    bell = Bell()
    bell.close()
    bell.ring()
    async with asyncio.timeout(1):
        await bell.ticket().wait(60)


async def test_a_waiter_that_is_woken_can_still_be_cancelled() -> None:
    bell = Bell()

    async def forever() -> None:
        while True:
            await bell.ticket().wait(60)

    task = asyncio.create_task(forever())
    await asyncio.sleep(0)
    bell.ring()
    task.cancel()
    async with asyncio.timeout(1):
        await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()


def test_what_postgres_cannot_store_is_replaced() -> None:
    given = {"a\x00": ["\x00", float("nan"), 1.5, None], "v": Verdict(status=VerdictStatus.NONE)}
    assert json.loads(stored_json.dumped(given)) == {
        "a\ufffd": ["\ufffd", "nan", 1.5, None],
        "v": {"status": "none", "commands": []},
    }


def test_a_task_without_a_title_is_called_by_its_first_line() -> None:
    assert title_of(TaskSpec(repo="r", prompt="\n  Fix it \nnow")) == "Fix it"
    assert title_of(TaskSpec(repo="r", prompt="Fix it", title="T")) == "T"
    assert title_of(TaskSpec(repo="r")) == ""


def test_a_service_is_no_runner_and_a_runner_no_service() -> None:
    for service in (subjects.API, subjects.SCHEDULER, subjects.PROOF_STORE, subjects.GATEWAY):
        assert not handlers.is_runner(service)
    assert handlers.is_runner("rnr_x")
    assert not handlers.is_api("rnr_x")
    assert not handlers.is_gateway(subjects.API)
