"""With the real scheduler: its views, its RPCs, its event log; nothing of it stood in for."""

import asyncio
import json

import httpx
from real_api import WAIT_S


async def test_a_task_is_submitted_seen_followed_and_cancelled(api: httpx.AsyncClient) -> None:
    spec = {"repo": "/srv/repo", "prompt": "p", "title": "T", "verify": ["true"]}
    key = {"Idempotency-Key": "k1"}
    first = await api.post("/v1/tasks", json=spec, headers=key)
    assert first.status_code == 201, first.text
    task_id = first.json()["task_id"]
    assert (await api.post("/v1/tasks", json=spec, headers=key)).status_code == 200
    other = await api.post("/v1/tasks", json={**spec, "prompt": "q"}, headers=key)
    assert (other.status_code, other.headers["content-type"]) == (409, "application/problem+json")

    listed = (await api.get("/v1/tasks", params={"project": "default", "state": "ready"})).json()
    assert [task["task_id"] for task in listed["tasks"]] == [task_id]
    detail = (await api.get(f"/v1/tasks/{task_id}")).json()
    assert (detail["title"], detail["state"], detail["attempts"]) == ("T", "ready", [])
    assert detail["tokens"] is None  # no gateway runs here

    events = []
    async with asyncio.timeout(WAIT_S):
        async with api.stream("GET", f"/v1/tasks/{task_id}/events") as response:
            async for line in response.aiter_lines():
                if not line.startswith("data: "):
                    continue
                event = json.loads(line.removeprefix("data: "))
                events.append(event)
                if event["type"] == "task.submitted":
                    cancelled = await api.post(f"/v1/tasks/{task_id}/cancel")
                    assert cancelled.status_code == 202, cancelled.text
    assert events[0]["type"] == "task.submitted"
    assert events[-1]["type"] == "task.state_changed"
    assert events[-1]["data"]["to"] == "cancelled"
    page = (await api.get("/v1/events", params={"limit": 1000})).json()
    assert [e["id"] for e in page["events"] if e["subject"] == task_id] == [e["id"] for e in events]
    again = await api.post(f"/v1/tasks/{task_id}/cancel")
    assert (again.status_code, again.json()) == (202, {"accepted": False, "state": "cancelled"})


async def test_a_task_that_ended_is_submitted_again_as_it_was(api: httpx.AsyncClient) -> None:
    spec = {
        "repo": "/srv/repo",
        "prompt": "p",
        "title": "T",
        "verify": ["true"],
        "priority": 3,
        "labels": ["gpu"],
        "limits": {"run_s": 77},
        "budget": {"usd": "2.50"},
        "agent": {"argv": ["sh", "-c", "true"]},
        "review_s": 60,
        "run_at": "2020-01-01T00:00:00Z",
    }
    key = {"Idempotency-Key": "again"}
    task_id = (await api.post("/v1/tasks", json=spec, headers=key)).json()["task_id"]
    path = f"/v1/tasks/{task_id}/retry"
    early = await api.post(path)
    assert (early.status_code, early.json()["code"]) == (409, "not-ended")
    await api.post(f"/v1/tasks/{task_id}/cancel")
    made, same = [await api.post(path, headers=key) for _ in range(2)]
    assert (made.status_code, same.status_code) == (201, 200), made.text
    assert made.json()["task_id"] == same.json()["task_id"] != task_id
    assert made.headers["location"] == f"/v1/tasks/{made.json()['task_id']}"
    before, after = [
        (await api.get(f"/v1/tasks/{each}")).json() for each in (task_id, made.json()["task_id"])
    ]
    assert (after["state"], after["spec"], after["project"]) == (
        *("ready", before["spec"], before["project"]),
    )
    flow = {"name": "w", "tasks": {"a": {"repo": "/r", "prompt": "p"}}}
    flow_id = (await api.post("/v1/workflows", json=flow)).json()["workflow_id"]
    node = (await api.get(f"/v1/workflows/{flow_id}")).json()["tasks"][0]["task_id"]
    await api.post(f"/v1/tasks/{node}/cancel")
    refused = await api.post(f"/v1/tasks/{node}/retry")
    assert (refused.status_code, refused.json()["code"]) == (409, "of-a-workflow")


async def test_a_task_that_is_ready_says_what_it_waits_for(api: httpx.AsyncClient) -> None:
    async def waits(**more: object) -> list[str]:
        task = {"repo": "/r", "prompt": "p", **more}
        task_id = (await api.post("/v1/tasks", json=task)).json()["task_id"]
        found: list[str] = (await api.get(f"/v1/tasks/{task_id}")).json()["waits_because"]
        return found

    assert await waits() == ["there is no active runner"]
    assert await waits(labels=["gpu"]) == ["there is no active runner with the labels gpu"]
    await api.patch("/v1/projects/default", json={"paused": True})
    await api.patch("/v1/pools/big", json={"paused": True})
    later = "2100-01-01T00:00:00Z"
    assert await waits(pool="big", run_at=later) == [
        f"it is not to begin before {later}",
        "project default is paused",
        "pool big is paused",
        "there is no active runner",
    ]


async def test_what_the_scheduler_refuses_is_a_problem_document(api: httpx.AsyncClient) -> None:
    unknown = "tsk_" + "a" * 24
    assert (await api.post(f"/v1/tasks/{unknown}/cancel")).status_code == 404
    task = {"repo": "/r", "project": "nobody", "prompt": "p"}
    answer = await api.post("/v1/tasks", json=task)
    assert answer.status_code in (404, 422)
    assert answer.headers["content-type"] == "application/problem+json"
    assert (await api.post("/v1/projects", json={"name": "warm"})).status_code == 200
    conflict = await api.post("/v1/projects", json={"name": "warm", "weight": 5})
    assert conflict.status_code == 409
