"""Limits of attempts, per project: settled at submission, kept for good, refused by name."""

import json
from typing import Any

import pytest
from scheduler_hub import SPEC, Hub
from wfhub_common import subjects
from wfhub_common.errors import Rejected
from wfhub_common.messages import (
    CreateProject,
    LimitChanges,
    LimitPolicy,
    LimitsAsked,
    Project,
    SubmitTask,
    SubmitTasks,
    Submitted,
    SubmittedTasks,
    UpdateProject,
)


async def project(hub: Hub, default: dict[str, int] | None = None, **most: int) -> Project:
    limits = LimitPolicy.model_validate({"default": default or {}, "max": most})
    asked = CreateProject(name="web", limits=limits)
    return await hub.ask(subjects.API, "create_project", asked, Project)


async def change(hub: Hub, **limits: dict[str, int | None]) -> Project:
    asked = UpdateProject(project="web", limits=LimitChanges(**limits))
    return await hub.ask(subjects.API, "update_project", asked, Project)


def asking(key: str | None = None, verify: tuple[str, ...] = (), **limits: int) -> SubmitTask:
    asked = {"limits": LimitsAsked.model_validate(limits), "verify": verify}
    return SubmitTask(project="web", spec=SPEC.model_copy(update=asked), idempotency_key=key)


async def submit(hub: Hub, command: SubmitTask) -> str:
    return (await hub.ask(subjects.API, "submit_task", command, Submitted)).task_id


async def stored(hub: Hub, task_id: str) -> dict[str, Any]:
    found = await hub.pg.fetchval("SELECT spec FROM sched.task WHERE task_id = $1", task_id)
    return dict(json.loads(found)["limits"])


async def test_a_task_is_stored_with_the_limits_that_hold_for_it(hub: Hub) -> None:
    made = await project(hub, {"run_s": 60, "cpu_millicores": 1500}, run_s=600, idle_s=30)
    assert made.limits.default.said() == {"run_s": 60, "cpu_millicores": 1500}
    task_id = await submit(hub, asking(verify=("a", "b"), verify_s=10))
    limits = await stored(hub, task_id)
    assert (limits["run_s"], limits["cpu_millicores"], limits["verify_s"], limits["idle_s"]) == (
        60,
        1500,
        10,
        30,
    )
    assert None not in limits.values()
    # What the scheduler waits for an attempt at most comes from them.
    attempt_s = await hub.pg.fetchval("SELECT attempt_s FROM sched.task")
    assert attempt_s == 60 + 2 * 10


async def test_an_attempt_gets_the_limits_of_the_submission_not_of_today(hub: Hub) -> None:
    await project(hub, {"run_s": 60})
    task_id = await submit(hub, asking())
    await change(hub, default={"run_s": 30}, max={"run_s": 30})
    runner = await hub.runner()
    assigned = await runner.claim_one()
    assert assigned.task_id == task_id
    assert assigned.spec.limits.in_force().run_s == 60


async def test_more_than_the_maximum_is_refused_and_its_key_stays_free(hub: Hub) -> None:
    await project(hub, memory_bytes=2**30)
    with pytest.raises(Rejected, match=r"limits\.memory_bytes: 2147483648") as caught:
        await submit(hub, asking("key", memory_bytes=2**31))
    assert (caught.value.code, caught.value.status) == ("limit-above-maximum", 422)
    assert await hub.pg.fetchval("SELECT count(*) FROM sched.task") == 0
    assert await hub.pg.fetchval("SELECT count(*) FROM sched.idempotency") == 0
    await submit(hub, asking("key", memory_bytes=2**30))


async def test_a_repeated_key_gets_its_task_whatever_is_allowed_by_now(hub: Hub) -> None:
    await project(hub)
    first = await submit(hub, asking("key", run_s=600))
    await change(hub, max={"run_s": 60})
    assert await submit(hub, asking("key", run_s=600)) == first
    with pytest.raises(Rejected, match="60"):
        await submit(hub, asking("another", run_s=600))


async def test_one_of_a_batch_that_asks_for_too_much_takes_none_with_it(hub: Hub) -> None:
    await project(hub, run_s=60)
    batch = SubmitTasks(
        tasks=(asking(run_s=10), asking("a", run_s=61), asking("a", run_s=61), asking())
    )
    reply = await hub.ask(subjects.API, "submit_tasks", batch, SubmittedTasks)
    codes = [result.error["code"] if result.error else "" for result in reply.results]
    assert codes == ["", "limit-above-maximum", "limit-above-maximum", ""]
    assert await hub.pg.fetchval("SELECT count(*) FROM sched.task") == 2


async def test_a_change_of_limits_is_told_and_what_cannot_be_is_refused(hub: Hub) -> None:
    await project(hub, {"cpu_millicores": 1000})
    assert (await change(hub, max={"cpu_millicores": 2000})).limits.max.said() == {
        "cpu_millicores": 2000
    }
    assert (await change(hub, max={"cpu_millicores": 2000})).limits.default.said() == {
        "cpu_millicores": 1000
    }
    events = await hub.pg.fetch("SELECT data FROM sched.event WHERE type = 'project.updated'")
    told = [json.loads(row["data"]) for row in events]
    assert told == [
        {"limits": {"default": {"cpu_millicores": 1000}, "max": {"cpu_millicores": 2000}}}
    ]
    with pytest.raises(Rejected, match=r"default\.cpu_millicores") as caught:
        await change(hub, max={"cpu_millicores": 500})
    assert caught.value.code == "limits-invalid"
