"""Projects and tasks over HTTP: submit once, list in pages, look at all of it, cancel in time."""

from datetime import UTC, datetime
from typing import Any

import pytest

SPEC = {"repo": "/srv/repo", "prompt": "add a test", "verify": ["pytest -q"]}


async def test_a_task_is_submitted_with_what_was_asked_for(hub: Any) -> None:
    answer = await hub.http.post("/v1/tasks", json={**SPEC, "title": "T"})
    assert answer.status_code == 201
    task_id = answer.json()["task_id"]
    assert answer.headers["location"] == f"/v1/tasks/{task_id}"
    asked = hub.scheduler.submitted[0]
    assert asked.project == "default"
    assert asked.submitted_by == "admin"
    assert asked.spec.prompt == "add a test"
    detail = (await hub.http.get(f"/v1/tasks/{task_id}")).json()
    assert detail["spec"]["verify"] == ["pytest -q"]
    assert detail["attempts"] == []
    assert detail["duration_s"] >= 0


@pytest.mark.hostile(16)
async def test_the_same_key_gets_the_same_task_and_another_body_a_conflict(hub: Any) -> None:
    key = {"Idempotency-Key": "k-1"}
    first = await hub.http.post("/v1/tasks", json=SPEC, headers=key)
    again = await hub.http.post("/v1/tasks", json=SPEC, headers=key)
    other = await hub.http.post("/v1/tasks", json={**SPEC, "prompt": "else"}, headers=key)
    assert (first.status_code, again.status_code, other.status_code) == (201, 200, 409)
    assert first.json()["task_id"] == again.json()["task_id"]
    assert other.json()["code"] == "idempotency-conflict"


async def test_a_task_waits_for_a_runner_that_is_there_and_has_its_labels(hub: Any) -> None:
    task_id = await hub.scheduler.task(spec={"repo": "/r", "pool": "big", "labels": ["gpu"]})

    async def waits() -> list[str]:
        found: list[str] = (await hub.http.get(f"/v1/tasks/{task_id}")).json()["waits_because"]
        return found

    silent = "there is no active runner with the labels gpu"
    await hub.scheduler.pool.execute(
        "INSERT INTO sched.api_runner VALUES"
        " ('rnr_a', 'one', 4, '[\"gpu\"]', 'bwrap', '1', true, now(), now(), 2),"
        " ('rnr_b', 'two', 4, '[\"gpu\"]', 'bwrap', '1', false, now(), now() - interval '1h', 0),"
        " ('rnr_c', 'three', 4, '[]', 'bwrap', '1', false, now(), now(), 0)"
    )
    assert await waits() == [silent]
    await hub.scheduler.pool.execute("UPDATE sched.api_runner SET seen_at = now()")
    assert await waits() == [
        "no runner of pool big has asked for work yet: RUNNER_POOL is a runner's"
    ]
    known = "INSERT INTO sched.api_pool VALUES ('big', 2, false, now(), 1)"
    await hub.scheduler.pool.execute(known)
    assert await waits() == [
        "no runner of pool big with the labels gpu has room: all are full, or none is there"
    ]
    await hub.scheduler.pool.execute(
        "UPDATE sched.api_pool SET running = 2; UPDATE sched.api_project SET running_limit = 0"
    )
    assert await waits() == [
        "project default has as many at work as it may: 0",
        "pool big has as many at work as it may: 2",
    ]
    await hub.scheduler.update("api_task", task_id, state="running")
    assert await waits() == []


async def test_projects_are_made_once_and_listed_in_pages(hub: Any) -> None:
    for name in ("alpha", "beta"):
        assert (await hub.http.post("/v1/projects", json={"name": name})).status_code == 201
    assert (await hub.http.post("/v1/projects", json={"name": "beta"})).status_code == 200
    first = (await hub.http.get("/v1/projects", params={"limit": 2})).json()
    assert [p["name"] for p in first["projects"]] == ["alpha", "beta"]
    rest = (await hub.http.get("/v1/projects", params={"cursor": first["next_cursor"]})).json()
    assert [p["name"] for p in rest["projects"]] == ["default"]
    assert rest["next_cursor"] is None


async def test_listing_pages_through_every_task_once_newest_first(hub: Any) -> None:
    made = [await hub.scheduler.task() for _ in range(7)]
    seen: list[str] = []
    params: dict[str, Any] = {"limit": 3}
    while True:
        page = (await hub.http.get("/v1/tasks", params=params)).json()
        seen += [task["task_id"] for task in page["tasks"]]
        if page["next_cursor"] is None:
            break
        params["cursor"] = page["next_cursor"]
    assert seen == made[::-1]


async def test_listing_filters_by_project_name_or_id_and_by_states(hub: Any) -> None:
    project = (await hub.http.post("/v1/projects", json={"name": "other"})).json()
    mine = await hub.scheduler.task(project_id=project["project_id"], state="failed")
    await hub.scheduler.task(project_id=project["project_id"], state="ready")
    await hub.scheduler.task(state="failed")
    for ref in ("other", project["project_id"]):
        found = await hub.http.get("/v1/tasks", params={"project": ref, "state": "failed"})
        assert [task["task_id"] for task in found.json()["tasks"]] == [mine]
    both = await hub.http.get(
        "/v1/tasks", params=[("project", "other"), ("state", "failed"), ("state", "ready")]
    )
    assert len(both.json()["tasks"]) == 2


async def test_a_task_shows_attempts_verdicts_artifacts_and_tokens(hub: Any) -> None:
    task_id = await hub.scheduler.task(state="succeeded", verdict="passed")
    verdict = {
        "status": "passed",
        "commands": [
            {
                "command": "true",
                "exit_code": 0,
                "outcome": "exited",
                "duration_ms": 3,
                "log": "verify.log",
            }
        ],
    }
    attempt_id = await hub.scheduler.attempt(task_id, state="won", verdict=verdict)
    receipt = hub.proof_store.receipt(attempt_id, "verify.log", b"ok\n")
    await hub.scheduler.update("api_attempt", attempt_id, artifacts=[receipt])
    detail = (await hub.http.get(f"/v1/tasks/{task_id}")).json()
    (attempt,) = detail["attempts"]
    assert attempt["verdict"]["commands"][0]["exit_code"] == 0
    assert attempt["artifacts"][0]["digest"] == receipt["digest"]
    assert detail["tokens"] == 12
    assert detail["usage"]["prompt_tokens"] == 7


async def test_a_silent_gateway_leaves_the_tokens_unknown(hub: Any) -> None:
    hub.scheduler.usage = None
    task_id = await hub.scheduler.task()
    detail = (await hub.http.get(f"/v1/tasks/{task_id}")).json()
    assert detail["tokens"] is None


async def test_a_cancel_is_accepted_or_answered_too_late(hub: Any) -> None:
    task_id = await hub.scheduler.task(state="running")
    assert (await hub.http.post(f"/v1/tasks/{task_id}/cancel")).status_code == 202
    assert hub.scheduler.cancels == [task_id]
    late = await hub.scheduler.task(state="publishing")
    answer = await hub.http.post(f"/v1/tasks/{late}/cancel")
    assert answer.status_code == 409
    assert answer.json()["code"] == "too-late"
    assert answer.json()["state"] == "publishing"


async def test_a_review_is_decided_by_who_asks_while_there_is_one(hub: Any) -> None:
    until = datetime(2030, 1, 1, tzinfo=UTC)
    task_id = await hub.scheduler.task(state="review", review_until=until)
    shown = (await hub.http.get(f"/v1/tasks/{task_id}")).json()
    assert (shown["review"], shown["review_until"]) == (None, "2030-01-01T00:00:00Z")
    word = {"decision": "approved", "comment": "fine"}
    answer = await hub.http.post(f"/v1/tasks/{task_id}/review", json=word)
    assert (answer.status_code, answer.json()["accepted"]) == (200, True)
    (said,) = hub.scheduler.reviews
    assert (said.task_id, said.decision, said.comment) == (task_id, "approved", "fine")
    assert said.reviewer
    other = await hub.scheduler.task(state="running")
    answer = await hub.http.post(f"/v1/tasks/{other}/review", json=word)
    assert (answer.status_code, answer.json()["code"]) == (409, "not-in-review")
    answer = await hub.http.post(f"/v1/tasks/{other}/review", json={"decision": "maybe"})
    assert answer.status_code == 422


@pytest.mark.parametrize("path", ["", "/events", "/logs"])
async def test_an_unknown_task_is_a_404_and_a_malformed_id_a_422(hub: Any, path: str) -> None:
    unknown = "tsk_" + "a" * 24
    assert (await hub.http.get(f"/v1/tasks/{unknown}{path}")).status_code == 404
    assert (await hub.http.get(f"/v1/tasks/nonsense{path}")).status_code == 422
