"""Projects, submissions and their keys."""

import asyncio

import pytest
from scheduler_hub import SPEC, Hub
from wfhub_common import subjects
from wfhub_common.errors import Rejected
from wfhub_common.messages import CreateProject, Project, SubmitTask, Submitted, TaskState


async def create(hub: Hub, name: str = "demo", **more: int) -> Project:
    request = CreateProject(name=name, **more)
    return await hub.ask(subjects.API, "create_project", request, Project)


async def submit(hub: Hub, key: str | None, project: str = "default", **spec: str) -> Submitted:
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


async def test_a_runner_cannot_submit_nor_a_service_claim(hub: Hub) -> None:
    request = SubmitTask(project="default", spec=SPEC)
    with pytest.raises(Rejected, match="not-allowed"):
        await hub.ask("rnr_x", "submit_task", request, Submitted)
