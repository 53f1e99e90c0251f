"""Projects, submissions and their keys."""

import asyncio

import pytest
from scheduler_hub import SPEC, Hub
from wfhub_common import subjects
from wfhub_common.errors import Rejected
from wfhub_common.messages import (
    CreateProject,
    Project,
    SubmitResult,
    SubmitTask,
    SubmitTasks,
    Submitted,
    SubmittedTasks,
    TaskState,
)


async def create(hub: Hub, name: str = "demo", **more: int) -> Project:
    request = CreateProject(name=name, **more)
    return await hub.ask(subjects.API, "create_project", request, Project)


async def submit(hub: Hub, key: str | None, project: str = "default", **spec: object) -> Submitted:
    request = SubmitTask(project=project, spec=SPEC.model_copy(update=spec), idempotency_key=key)
    return await hub.ask(subjects.API, "submit_task", request, Submitted)


async def test_a_project_is_made_once_and_named_again_with_its_settings_only(hub: Hub) -> None:
    first = await create(hub, running_limit=3, weight=2)
    again = await create(hub, running_limit=3, weight=2)
    assert (first.created, again.created) == (True, False)
    assert again.project_id == first.project_id
    with pytest.raises(Rejected, match="weight") as caught:
        await create(hub, running_limit=3, weight=5)
    assert (caught.value.code, caught.value.status) == ("project-exists", 409)


async def test_a_task_goes_to_a_project_by_name_or_id_and_to_no_other(hub: Hub) -> None:
    project = await create(hub)
    assert (await submit(hub, None, "demo")).project_id == project.project_id
    assert (await submit(hub, None, project.project_id)).project_id == project.project_id
    with pytest.raises(Rejected) as caught:
        await submit(hub, None, "nowhere")
    assert (caught.value.code, caught.value.status) == ("project-unknown", 404)


async def test_the_same_key_and_spec_is_the_same_task(hub: Hub) -> None:
    answers = await asyncio.gather(*(submit(hub, "key-1") for _ in range(8)))
    assert len({answer.task_id for answer in answers}) == 1
    assert sum(answer.created for answer in answers) == 1
    assert await hub.pg.fetchval("SELECT count(*) FROM sched.task") == 1
    with pytest.raises(Rejected) as caught:
        await submit(hub, "key-1", prompt="another")
    assert (caught.value.code, caught.value.status) == ("idempotency-conflict", 409)


async def test_a_key_belongs_to_its_project_and_no_key_means_a_new_task(hub: Hub) -> None:
    await create(hub)
    one, other = await submit(hub, "key-1"), await submit(hub, "key-1", "demo")
    assert one.task_id != other.task_id
    assert (await submit(hub, None)).task_id != (await submit(hub, None)).task_id


async def test_a_repeated_submission_tells_the_state_of_now(hub: Hub) -> None:
    submitted = await submit(hub, "key-1")
    await hub.cancel(submitted.task_id)
    assert (await submit(hub, "key-1")).state is TaskState.CANCELLED


async def test_a_character_that_cannot_be_stored_is_refused(hub: Hub) -> None:
    with pytest.raises(Rejected, match="nul-character"):
        await submit(hub, "key-1", prompt="a\x00b")
    await submit(hub, "key-1", prompt="a\\u0000b")  # six characters, not one


async def test_a_task_that_no_proof_could_be_made_of_is_refused_with_the_figure(hub: Hub) -> None:
    """Else it would fail after its work: what the question for a proof holds is one message."""
    long = {"verify": ("x" * 8_000,) * 17}
    for key in ("key-1", None, "key-1"):
        with pytest.raises(Rejected, match=r"has 13\d{4} bytes as JSON; at most 131072") as caught:
            await submit(hub, key, **long)
        assert (caught.value.code, caught.value.status) == ("spec-too-large", 413)
    await submit(hub, "key-1", prompt="é" * 130_000)  # a digest stands for it


async def test_a_runner_cannot_submit_nor_a_service_claim(hub: Hub) -> None:
    request = SubmitTask(project="default", spec=SPEC)
    with pytest.raises(Rejected, match="not-allowed"):
        await hub.ask("rnr_x", "submit_task", request, Submitted)


async def batch(hub: Hub, *commands: SubmitTask) -> tuple[SubmitResult, ...]:
    reply = await hub.ask(subjects.API, "submit_tasks", SubmitTasks(tasks=commands), SubmittedTasks)
    return reply.results


async def test_a_batch_answers_for_each_task_and_a_bad_one_takes_none_with_it(hub: Hub) -> None:
    await create(hub, queue_limit=2)
    known = await submit(hub, "known")

    def task(project: str = "demo", key: str | None = None, **spec: str) -> SubmitTask:
        spec_ = SPEC.model_copy(update=spec)
        return SubmitTask(project=project, spec=spec_, idempotency_key=key)

    results = await batch(
        hub,
        task("default", "known"),
        task("nowhere"),
        task(key="a"),
        task(key="a"),
        task(key="a", prompt="another"),
        task(prompt="a\x00b"),
        task("default", "known", prompt="another"),
        task(),
        task(key="b"),
    )
    codes = [result.error["code"] if result.error else None for result in results]
    assert codes == [
        None,
        "project-unknown",
        None,
        None,
        "idempotency-conflict",
        "nul-character",
        "idempotency-conflict",
        None,
        "queue-full",
    ]
    replay, first, second = (results[n].submitted for n in (0, 2, 3))
    assert replay is not None
    assert (replay.task_id, replay.created) == (known.task_id, False)
    assert first is not None
    assert second is not None
    assert (first.task_id, first.created, second.created) == (second.task_id, True, False)
    assert await hub.pg.fetchval("SELECT count(*) FROM sched.task") == 3
    assert results[-1].error is not None
    assert results[-1].error["fields"]["retry_after_s"] >= 1
    (again,) = await batch(hub, task("default", key="b"))  # what was refused left no key behind
    assert again.submitted is not None
    assert again.submitted.created


async def test_a_refused_key_can_be_used_when_there_is_room(hub: Hub) -> None:
    await create(hub, queue_limit=1)
    first = await submit(hub, "a", "demo")
    with pytest.raises(Rejected, match="queue-full"):
        await submit(hub, "b", "demo")
    assert (await submit(hub, "a", "demo")).task_id == first.task_id  # a repeat needs no place
    await hub.cancel(first.task_id)
    assert (await submit(hub, "b", "demo")).created


async def test_a_batch_is_claimed_in_its_order(hub: Hub) -> None:
    command = SubmitTask(project="default", spec=SPEC)
    submitted = [r.submitted for r in await batch(hub, *[command] * 200)]
    runner = await hub.runner()
    await hub.pg.execute("UPDATE sched.project SET running_limit = 1000")
    claimed = [a.task_id for _ in range(4) for a in await runner.claim(50)]
    assert claimed == [one.task_id for one in submitted if one is not None]


async def test_what_is_submitted_at_once_shares_transactions(hub: Hub) -> None:
    async def commits() -> int:
        sql = "SELECT count(DISTINCT xmin::text) FROM sched.task"
        return int(await hub.pg.fetchval(sql))

    await asyncio.gather(*(submit(hub, None) for _ in range(100)))
    assert await hub.pg.fetchval("SELECT count(*) FROM sched.task") == 100
    assert await commits() < 50
    events = [e for e in await hub.all_published() if e.type == "task.submitted"]
    assert len({e.subject for e in events}) == 100
