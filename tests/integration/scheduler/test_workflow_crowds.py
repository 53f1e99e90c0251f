"""Workflows with many schedulers or tasks, with a scheduler that dies, with one that is stuck."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
import workflow_lab
from wfhub_scheduler.workflows import advancing
from wfhub_scheduler.workflows.advancing import Advancing
from workflow_lab import DIAMOND, Lab


@pytest.fixture
async def lab(database_url: str) -> AsyncIterator[Lab]:
    async with workflow_lab.opened(database_url) as made:
        yield made


async def test_two_schedulers_at_once_count_each_end_once(lab: Lab) -> None:
    cores = [lab.core() for _ in range(3)]
    fan: dict[str, Any] = {f"t{n}": {} for n in range(40)}
    fan |= {f"next{n}": {"needs": [f"t{n}"]} for n in range(40)}
    await lab.submit({**fan, "last": {"needs": list(fan)}})
    for names in ([f"t{n}" for n in range(40)], [f"next{n}" for n in range(40)]):
        for start in range(0, 40, 8):
            await lab.end(*names[start : start + 8])
            await asyncio.gather(*(Advancing(core).turn() for core in cores))
    await lab.advance()
    assert (await lab.states())["last"] == "ready"
    assert await lab.pg.fetchval("SELECT count(*) FROM sched.unit") == 81
    await lab.after("last")
    assert (await lab.row())["state"] == "succeeded"


async def test_a_scheduler_that_dies_while_it_advances_leaves_it_to_another(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lab.submit(DIAMOND)
    await lab.end("a")
    dying, other = lab.core(), lab.core()
    reached, killed = asyncio.Event(), asyncio.Event()
    make_ready = advancing.make_ready

    async def hangs(*args: Any) -> Any:
        made = await make_ready(*args)
        if not reached.is_set():
            reached.set()
            await killed.wait()
        return made

    monkeypatch.setattr(advancing, "make_ready", hangs)
    turning = asyncio.create_task(Advancing(dying).turn())
    await reached.wait()  # the children are ready, the commit is not
    assert await Advancing(other).turn() is False, "it neither waits for the lock nor advances"
    assert (await lab.states())["b"] == "blocked"
    await lab.pg.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE state = 'idle in transaction' AND datname = current_database()"
    )
    killed.set()
    await asyncio.gather(turning, return_exceptions=True)
    await lab.advance(other)
    assert [*(await lab.states()).values()] == ["succeeded", "ready", "ready", "blocked"]


async def test_a_workflow_that_cannot_advance_holds_up_no_other(lab: Lab) -> None:
    broken = await lab.submit(DIAMOND)
    await lab.end("a")
    await lab.pg.execute(
        'UPDATE sched.task SET spec = spec || \'{"prompt": "${{ tasks.gone.outputs.state }}"}\''
        " WHERE task_id = $1",
        broken.tasks["b"],
    )
    await lab.submit(DIAMOND)
    for _ in range(12):
        await Advancing(lab.one).turn()
    assert (await lab.after("a"))["b"] == "ready"
    letter = await lab.pg.fetchrow("SELECT source, subject FROM sched.api_dead_letter")
    assert tuple(letter) == ("workflow", broken.workflow_id)


async def test_a_fan_of_a_thousand_is_a_handful_of_statements(lab: Lab) -> None:
    names = [f"t{n}" for n in range(1000)]
    middle = {
        name: {"needs": ["first"], "prompt": "part of ${{ tasks.first.outputs.branch }}"}
        for name in names
    }
    last = {"needs": names, "needs_policy": "all_done"}
    times: dict[str, float] = {}

    async def timed(what: str, work: Any) -> None:
        lab.statements.clear()
        began = time.monotonic()
        await work
        times[what] = time.monotonic() - began
        assert 0 < lab.statements.total() < 60, (what, lab.statements)
        assert times[what] < 10, times

    tasks = {"first": {}, **middle, "last": last}
    await timed("submit", lab.submit(tasks, on_failure="continue"))
    await lab.end("first")
    await timed("fan out", lab.advance())
    counts = "SELECT count(*) FROM sched.task WHERE state = 'ready'"
    assert await lab.pg.fetchval(counts) == 1000
    await lab.end(*names[:500])
    await timed("half", lab.advance())
    await lab.end(*names[500:], state="failed")
    await timed("fan in", lab.advance())
    assert (await lab.states())["last"] == "ready"
    await lab.end("last")
    await timed("end", lab.advance())
    row = await lab.row()
    assert (row["state"], row["unsuccessful_count"]) == ("failed", 500)
