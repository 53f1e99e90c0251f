"""Hostile action 16: every operation of the OpenAPI document, asked by who may not, and wrongly.

Each time the tables of all services and what was asked of them stay as they were.
"""

import base64
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import api_world
import pytest
from api_world import Operation, World
from wfhub_api import tokens
from wfhub_common import db, ids

# Hundreds of requests a test, beside other tests.
pytestmark = [pytest.mark.hostile(16), pytest.mark.timeout(400)]

OTHER_BODIES: dict[str, tuple[dict[str, Any], ...]] = {
    "post /v1/tasks": ({"prompt": "x"}, {"title": "x"}, {"repo": "/srv/other"}, {"priority": 9}),
    "post /v1/webhooks": ({"url": "https://other.invalid/"}, {"events": ["task.*"]}),
    "post /v1/workflows": ({"name": "x"}, {"tasks": {"b": {}}}, {"on_failure": "continue"}),
}
# No agent is at work here (tests/e2e/test_steering.py has one), and no result waits (test_reviews).
UNHEARD = {
    "post /v1/tasks/{task_id}/messages": "task-not-running",
    "post /v1/tasks/{task_id}/hand-in": "task-not-running",
    "post /v1/tasks/{task_id}/review": "not-in-review",
    # By another than the admin (test_tokens).
    "post /v1/tokens": "admins-only",
    "get /v1/tokens": "admins-only",
    "delete /v1/tokens/{token_id}": "admins-only",
}
SAME_AGAIN = {"put /v1/schedules/{schedule}"}  # the schedule is there as it is put
UPSERTS = {"put /v1/schedules/{schedule}", "patch /v1/pools/{pool}"}  # by a name of one's choice
UNKNOWN = {
    "task_id": ids.new_task_id,
    "attempt_id": ids.new_attempt_id,
    "proof_id": ids.new_proof_id,
    "runner_id": ids.new_runner_id,
    "workflow_id": ids.new_workflow_id,
    "dead_letter_id": ids.new_dead_letter_id,
    "webhook_id": ids.new_webhook_id,
    "schedule": ids.new_schedule_id,
    "ref": ids.new_project_id,
    "token_id": lambda: "tok_" + "0" * 16,
}
MALFORMED = (
    "../../v1/projects",
    "..%2f..%2fv1%2fprojects",
    "x\x00y",
    "x\ny",
    "' OR 1=1 --",
    "*",
    "x" * 4096,
)


@pytest.fixture
async def world(
    database_url: str, nats_url: str, tmp_path: Path, proof_store: Any
) -> AsyncIterator[World]:
    async with api_world.world(database_url, nats_url, tmp_path, proof_store) as made:
        yield made


async def assert_kept_out(
    world: World, operations: list[Operation], headers: Mapping[str, str], path: str = ""
) -> None:
    for operation in operations:
        answer = await world.send(operation, world.path(operation) + path, headers)
        assert answer.status_code == 401, (operation.name, headers, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.headers["www-authenticate"] == "Bearer"
        assert answer.json()["code"] == "unauthenticated"


async def test_every_operation_is_for_who_holds_a_live_token_and_for_nobody_else(
    world: World, database_url: str
) -> None:
    operations = await world.operations()
    assert len(operations) >= 36
    engine = db.make_engine(database_url, application="test")
    token_id, token = await tokens.create(engine, "ci")
    live = {"Authorization": f"Bearer {token}"}
    before = await world.state()
    basic = base64.b64encode(f"admin:{token}".encode()).decode()
    for headers in (
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wht_"},
        {"Authorization": f"Bearer {token[:-1]}"},
        {"Authorization": f"Bearer {token}x"},
        {"Authorization": f"Bearer {token.upper()}"},
        {"Authorization": f"Bearer {token_id}"},
        {"Authorization": token},
        {"Authorization": f"Basic {basic}"},
        {"Authorization": f"Bearer {world.attempt_token}"},  # of an attempt: the gateway's
        {"Authorization": "Bearer wst_double"},  # of a service: the proof-store's
        {"Cookie": f"token={token}; Authorization=Bearer {token}"},
        {"X-Api-Key": token, "Proxy-Authorization": f"Bearer {token}"},
    ):
        await assert_kept_out(world, operations, headers)
    await assert_kept_out(world, operations, {}, path=f"?token={token}&access_token={token}")
    assert await world.state() == before

    changing = set()
    for operation in operations:  # the control: the same request by who may
        other = {"dead_letter_id": world.values["second_dead_letter_id"]}
        path = world.path(operation, **(other if operation.path.endswith("/discard") else {}))
        earlier = await _state(world)
        answer = await world.send(operation, path, live)
        if code := UNHEARD.get(operation.name):
            assert answer.json()["code"] == code, (operation.name, answer.text)
            continue
        assert answer.status_code < 300, (operation.name, answer.text)
        if operation.method != "get" and await _state(world) != earlier:
            changing.add(operation.name)
    writing = {one.name for one in operations if one.method != "get"}
    assert changing >= writing - SAME_AGAIN - UNHEARD.keys()

    await tokens.revoke(engine, token_id)
    await engine.dispose()
    before = await world.state()
    await assert_kept_out(world, operations, live)
    assert await world.state() == before


async def test_no_operation_takes_what_is_not_there_or_something_else_for_it(world: World) -> None:
    operations = [one for one in await world.operations() if one.takes]
    before = await _state(world)
    tried = 0
    for operation in operations:
        if operation.method == "get":  # the control
            assert (await world.send(operation)).status_code == 200, operation.name
        for name in operation.takes:
            for value in _strange(world, operation, name):
                answer = await world.send(operation, world.path(operation, **{name: value}))
                told = (operation.name, name, value[:40], answer.text[:300])
                assert answer.status_code in (404, 405, 422), told
                assert answer.headers["content-type"] == "application/problem+json", told
                tried += 1
    assert tried > 150
    assert await _state(world) == before


async def test_no_operation_reaches_into_another_project(world: World) -> None:
    other = (await world.http.get("/v1/projects/other")).json()["project_id"]
    before = await _state(world)
    for operation in await world.operations():
        if "schedule" not in operation.takes or operation.name in UPSERTS:
            continue
        for project in ("other", other):
            path = world.path(operation, schedule="nightly")
            answer = await world.send(operation, f"{path}?project={project}")
            assert answer.status_code == 404, (operation.name, answer.text)
    task = (await world.http.post("/v1/tasks", json={**api_world.TASK, "project": "other"})).json()
    at = f"/v1/artifacts/{task['task_id']}/{world.values['attempt_id']}/agent.log"
    assert (await world.http.get(at)).status_code == 404
    control = await world.http.get("/v1/schedules/nightly?project=default")
    assert control.status_code == 200
    for table in ("sched.schedule", "sched.firing", "sched.workflow"):
        assert (await world.state())[table] == before[table]
    foreign = await world.http.get("/v1/tasks", params={"project": "other"})
    assert [one["task_id"] for one in foreign.json()["tasks"]] == [task["task_id"]]


async def test_a_key_with_another_body_changes_nothing(world: World) -> None:
    keyed = [one for one in await world.operations() if one.has_idempotency_key]
    assert {one.name for one in keyed} >= set(OTHER_BODIES)
    for operation in keyed:
        headers = {**world.http.headers, "Idempotency-Key": "key-1"}
        first = await world.send(operation, headers=headers)
        assert first.status_code == 201, first.text
        before = await _state(world)
        assert (await world.send(operation, headers=headers)).status_code == 200
        for other in OTHER_BODIES[operation.name] if operation.body is not None else ():
            answer = await world.send(operation, headers=headers, body=operation.body | other)
            assert answer.status_code == 409, (operation.name, other, answer.text)
            assert answer.json()["code"] == "idempotency-conflict"
        assert await _state(world) == before


async def test_a_key_of_a_batch_with_another_body_changes_nothing(world: World) -> None:
    tasks = [{**api_world.TASK, "idempotency_key": "key-1"}]
    first = await world.http.post("/v1/tasks:batch", json={"tasks": tasks})
    assert [one["status"] for one in first.json()["results"]] == [201]
    before = await _state(world)
    other = [{**tasks[0], "prompt": "x"}]
    answer = await world.http.post("/v1/tasks:batch", json={"tasks": other * 3})
    assert [one["status"] for one in answer.json()["results"]] == [409] * 3
    assert await _state(world) == before


def _strange(world: World, operation: Operation, name: str) -> list[str]:
    """For a name in a path: malformed; of another kind and unknown, unless one may choose it."""
    if operation.name in UPSERTS:
        return list(MALFORMED)
    ours = (name, f"second_{name}")
    kinds = [value for other, value in world.values.items() if other not in ours]
    return [*MALFORMED, *kinds, *([UNKNOWN[name]()] if name in UNKNOWN else [])]


async def _state(world: World) -> dict[str, str]:
    """But for how much was asked: to be told that there is no such thing, one has to ask."""
    return {**await world.state(), "asked": ""}
