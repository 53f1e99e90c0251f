"""The edge: tokens, problem documents for every error, limits, headers, readiness."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import httpx
import pytest
from structlog.testing import capture_logs
from wfhub_api import tokens
from wfhub_api.edge import REQUEST_BYTES_MAX
from wfhub_common import db

UNKNOWN = "tsk_" + "a" * 24


def assert_problem(answer: httpx.Response, status: int) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["code"]
    assert body["detail"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    return body


@pytest.mark.parametrize(
    "header",
    [
        {},
        {"Authorization": "Bearer wht_wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": "Basic wht_test-admin-token"},
        {"Authorization": "Bearer wat_test-admin-token"},
    ],
)
@pytest.mark.hostile(16)
async def test_without_a_valid_token_every_path_is_a_401(hub: Any, header: dict[str, str]) -> None:
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as anyone:
        operations = [
            (method, path.replace("{task_id}", UNKNOWN))
            for path, methods in hub.app.openapi()["paths"].items()
            for method in methods
            if path not in ("/healthz", "/readyz")
        ]
        assert len(operations) >= 12
        for method, path in [*operations, ("get", "/openapi.json"), ("get", "/nothing")]:
            answer = await anyone.request(method, path, headers=header)
            assert assert_problem(answer, 401)["code"] == "unauthenticated"
            assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.hostile(16)
async def test_a_made_token_opens_until_it_is_revoked(hub: Any) -> None:
    engine = db.make_engine(hub.database_url, application="test")
    token_id, token = await tokens.create(engine, "ci")
    header = {"Authorization": f"Bearer {token}"}
    body = {"repo": "/r", "prompt": "p"}
    assert (await hub.http.post("/v1/tasks", headers=header, json=body)).status_code == 201
    assert hub.scheduler.submitted[0].submitted_by == "ci"
    await tokens.revoke(engine, token_id)
    assert_problem(await hub.http.get("/v1/tasks", headers=header), 401)
    await engine.dispose()


async def test_who_changed_what_is_in_the_log_and_nothing_of_its_content(hub: Any) -> None:
    body = {"repo": "/r", "prompt": "s3cret"}
    with capture_logs() as told:
        task_id = (await hub.http.post("/v1/tasks?x=s3cret", json=body)).json()["task_id"]
        await hub.http.get("/v1/tasks")
        await hub.http.patch("/v1/projects/nobody", json={"paused": True})
        await hub.http.post("/v1/tasks", content=b"{")
    of = [one for one in told if one["event"] == "request"]
    assert [(one["by"], one["method"], one["path"], one["status"]) for one in of] == [
        ("admin", "POST", "/v1/tasks", 201),
        ("admin", "PATCH", "/v1/projects/nobody", 404),
        ("admin", "POST", "/v1/tasks", 422),
    ]
    assert task_id
    assert "s3cret" not in str(told)


async def test_what_is_wrong_with_a_request_is_said_so_that_it_can_be_mended(hub: Any) -> None:
    async def said(method: str, path: str, **more: Any) -> str:
        return str(assert_problem(await hub.http.request(method, path, **more), 422)["detail"])

    form = {"content-type": "application/x-www-form-urlencoded"}
    for headers in (form, {"content-type": "text/plain"}):
        for content in (b'{"repo": "/r", "prompt": "p"}', b"{"):
            detail = await said("POST", "/v1/tasks", content=content, headers=headers)
            assert "Content-Type: application/json" in detail
    detail = await said("POST", "/v1/tasks", json={"repo": "/r", "prompt": "a\x00"})
    assert detail == "body: a text holds a NUL character, which no program can be given"
    detail = await said("GET", "/v1/tasks/tsk_no")
    assert (
        detail == "path.task_id: this is no id: one looks like tsk_ and 24 more letters and digits"
    )


@pytest.mark.hostile(22)
async def test_the_database_holds_no_token(hub: Any) -> None:
    engine = db.make_engine(hub.database_url, application="test")
    _, token = await tokens.create(engine, "ci")
    await engine.dispose()
    connection = await asyncpg.connect(hub.database_url)
    rows = await connection.fetch("SELECT t::text AS line FROM api.token t")
    await connection.close()
    assert rows
    assert all(token.removeprefix("wht_") not in row["line"] for row in rows)


async def test_every_kind_of_error_is_a_problem_document(hub: Any) -> None:
    http = hub.http
    assert_problem(await http.get("/nothing"), 404)
    wrong_method = await http.put("/v1/tasks")
    assert_problem(wrong_method, 405)
    assert wrong_method.headers["allow"] == "GET, POST"
    assert_problem(await http.post("/v1/tasks", content=b"{"), 422)
    assert_problem(await http.post("/v1/tasks", content=b"\xff\xfe"), 422)
    assert_problem(await http.get("/v1/tasks", params={"limit": 201}), 422)
    assert_problem(await http.get("/v1/tasks", params={"cursor": "???"}), 422)
    assert_problem(await http.get("/v1/tasks", params={"project": "a\x00b"}), 422)
    assert_problem(await http.get(f"/v1/tasks/{UNKNOWN}"), 404)
    project = {"repo": "/r", "project": "nobody"}
    assert_problem(await http.post("/v1/tasks", json=project), 404)


async def test_a_validation_error_names_each_field_and_not_the_input(hub: Any) -> None:
    body = {"prompt": "SECRET-VALUE" * 1000, "limits": {"run_s": -1}, "nonsense": "SECRET-VALUE"}
    problem = assert_problem(await hub.http.post("/v1/tasks", json=body), 422)
    fields = {error["field"]: error["message"] for error in problem["errors"]}
    assert set(fields) == {"body.repo", "body.limits.run_s", "body.nonsense"}
    assert "greater than or equal to 1" in fields["body.limits.run_s"]
    assert "SECRET-VALUE" not in str(problem)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
        ("[" * 100_000 + "]" * 100_000, "nested too deeply"),
        ('{"repo": "/srv/x", "priority": ' + "9" * 5000 + "}", "digits"),
    ],
    ids=["objects", "lists", "number"],
)
async def test_a_body_that_cannot_be_read_is_refused_in_words(
    hub: Any, body: str, said: str
) -> None:
    json_type = {"Content-Type": "application/json"}
    for path in ("/v1/tasks", "/v1/projects", "/v1/tasks:batch"):
        answer = await hub.http.post(path, content=body, headers=json_type)
        problem = assert_problem(answer, 422)
        assert problem["code"] == "request-invalid"
        assert said in problem["detail"]
        assert said in problem["errors"][0]["message"]


@pytest.mark.parametrize("field", ["prompt", "title", "repo", "base"])
async def test_a_nul_character_is_refused_wherever_it_stands(hub: Any, field: str) -> None:
    body = {"repo": "/r", field: "a\x00b"}
    assert_problem(await hub.http.post("/v1/tasks", json=body), 422)


async def test_a_body_announced_too_large_is_refused_unread(hub: Any) -> None:
    body = b"x" * (REQUEST_BYTES_MAX + 1)
    assert_problem(await hub.http.post("/v1/tasks", content=body), 413)


async def test_an_unannounced_body_is_cut_at_the_limit(hub: Any) -> None:
    sent = 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 50 * REQUEST_BYTES_MAX:
            sent += 65536
            yield b"x" * 65536
            await asyncio.sleep(0)

    try:
        answer = await hub.http.post("/v1/tasks", content=endless())
    except httpx.TransportError:
        pass  # the server hung up while we were sending: as good as its answer
    else:
        assert_problem(answer, 413)
    assert sent < 50 * REQUEST_BYTES_MAX


async def test_health_and_readiness_need_no_token(hub: Any) -> None:
    async with httpx.AsyncClient(base_url=hub.url, trust_env=False) as anyone:
        assert (await anyone.get("/healthz")).json() == {"status": "ok"}
        assert (await anyone.get("/readyz")).json() == {"status": "ready"}


async def test_readiness_names_the_views_that_are_not_migrated(hub: Any) -> None:
    await hub.scheduler.pool.execute("ALTER TABLE sched.api_event RENAME TO gone")
    problem = assert_problem(await hub.http.get("/readyz"), 503)
    assert "sched.api_event" in problem["not_ready"]["database"]
    assert_problem(await hub.http.get("/v1/events"), 503)


async def test_without_a_scheduler_a_write_is_a_503_and_reads_go_on(hub: Any) -> None:
    hub.app.state.hub.broker_up.clear()
    answer = await hub.http.post("/v1/tasks", json={"repo": "/r"})
    assert assert_problem(answer, 503)["code"] == "broker-down"
    assert answer.headers["retry-after"]
    assert (await hub.http.get("/v1/tasks")).status_code == 200
    assert "nats" in assert_problem(await hub.http.get("/readyz"), 503)["not_ready"]


async def test_an_answer_does_not_wait_for_the_acknowledgement_of_its_head(hub: Any) -> None:
    """Where it does, every answer but the first few of a connection takes 40 ms and more."""
    async with asyncio.timeout(30):
        shortest = min([await _request_s(hub.http) for _ in range(60)][30:])
    assert shortest < 0.035


async def _request_s(http: httpx.AsyncClient) -> float:
    begun = time.perf_counter()
    assert (await http.get("/healthz")).status_code == 200
    return time.perf_counter() - begun
