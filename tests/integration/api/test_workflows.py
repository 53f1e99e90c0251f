"""Workflows over REST and with `wfhub workflow`: the real API and the real scheduler."""

import json
from pathlib import Path
from typing import Any

import httpx
import real_api

YAML = """
name: release
defaults: {repo: /srv/app, prompt: Do it}
tasks:
  build: {}
  test: {needs: [build], prompt: "Test ${{ tasks.build.outputs.branch }}"}
  report: {needs: [build, test], needs_policy: all_done}
"""
FAULTY = YAML.replace("needs: [build],", "needs: [biuld, test],")
AS_YAML = {"Content-Type": "application/yaml"}


async def test_a_workflow_is_submitted_shown_listed_and_cancelled(api: httpx.AsyncClient) -> None:
    key = {"Idempotency-Key": "k1"}
    made = await api.post("/v1/workflows", content=YAML, headers={**AS_YAML, **key})
    assert made.status_code == 201, made.text
    path = f"/v1/workflows/{made.json()['workflow_id']}"
    assert made.headers["Location"] == path
    document = (await api.get(f"{path}/document")).json()
    assert list(document["tasks"]) == ["build", "test", "report"]
    again = await api.post("/v1/workflows", json=document, headers=key)
    assert (again.status_code, again.json()["created"]) == (200, False)
    assert again.json()["tasks"] == made.json()["tasks"]
    other = await api.post("/v1/workflows", json={**document, "name": "x"}, headers=key)
    assert (other.status_code, other.json()["code"]) == (409, "idempotency-conflict")

    shown = (await api.get(path)).json()
    assert (shown["state"], shown["task_count"], shown["open_count"]) == ("running", 3, 3)
    assert [(t["name"], t["state"], t["needs"]) for t in shown["tasks"]] == [
        ("build", "ready", []),
        ("test", "blocked", ["build"]),
        ("report", "blocked", ["build", "test"]),
    ]
    task = (await api.get(f"/v1/tasks/{made.json()['tasks']['test']}")).json()
    assert (task["state"], task["workflow_id"]) == ("blocked", made.json()["workflow_id"])

    second = (await api.post("/v1/workflows", json={**document, "name": "second"})).json()
    first_page = (await api.get("/v1/workflows", params={"limit": 1})).json()
    page = {"limit": 1, "cursor": first_page["next_cursor"], "state": "running"}
    second_page = (await api.get("/v1/workflows", params=page)).json()
    names = [w["name"] for w in [*first_page["workflows"], *second_page["workflows"]]]
    assert (names, second_page["next_cursor"]) == (["second", "release"], None)

    cancelled = await api.post(f"{path}/cancel")
    assert (cancelled.status_code, cancelled.json()["state"]) == (202, "cancelled")
    again = await api.post(f"{path}/cancel")
    assert (again.status_code, again.json()["accepted"]) == (202, False)
    shown = (await api.get(path, params={"tasks": False})).json()
    assert (shown["state"], shown["unsuccessful_count"], shown["tasks"]) == ("cancelled", 3, [])
    left = (await api.get("/v1/workflows", params={"state": "running"})).json()["workflows"]
    assert [w["workflow_id"] for w in left] == [second["workflow_id"]]
    unknown = "/v1/workflows/wfl_" + "a" * 24
    for answer in (
        await api.get(unknown),
        await api.get(f"{unknown}/document"),
        await api.post(f"{unknown}/cancel"),
    ):
        assert (answer.status_code, answer.json()["code"]) == (404, "workflow-unknown")


async def test_what_is_wrong_is_named_with_its_path(api: httpx.AsyncClient) -> None:
    async def refused(content: Any, type_: str = "application/yaml") -> dict[str, Any]:
        answer = await api.post("/v1/workflows", content=content, headers={"Content-Type": type_})
        assert answer.headers["content-type"] == "application/problem+json", answer.text
        problem: dict[str, Any] = answer.json()
        return problem

    problem = await refused(FAULTY)
    assert (problem["status"], problem["code"]) == (422, "workflow-invalid")
    assert [fault["path"] for fault in problem["faults"]] == [
        "tasks.test.needs[0]",
        "tasks.test.needs[1]",
    ]
    assert "biuld" in problem["detail"]
    loop = {"name": "x", "defaults": {"repo": "/r"}, "tasks": {"a": {"needs": ["b"]}}}
    loop["tasks"]["b"] = {"needs": ["a"]}
    problem = await refused(json.dumps(loop), "application/json")
    assert problem["detail"] == "tasks.a.needs[0]: these tasks wait for each other: a → b → a"
    assert (await refused("a: [", "text/yaml"))["code"] == "document-malformed"
    assert (await refused("{}", "text/plain"))["status"] == 415
    assert (await refused(json.dumps({**loop, "x": "y" * 900_000}), "application/json"))[
        "status"
    ] == 413
    assert (await api.get("/v1/workflows")).json()["workflows"] == []


async def test_the_command_line_does_the_same(api: httpx.AsyncClient, tmp_path: Path) -> None:
    async def wfhub(*arguments: str, code: int = 0) -> str:
        found, out, err = await real_api.cli(api, tmp_path, "workflow", *arguments)
        assert found == code, err
        return out if code == 0 else err

    (tmp_path / "good.yaml").write_text(YAML)
    (tmp_path / "bad.yaml").write_text(FAULTY)
    workflow_id = (await wfhub("submit", "good.yaml", "--key", "k")).strip()
    assert (
        json.loads(await wfhub("submit", "good.yaml", "--key", "k", "--json"))["workflow_id"]
        == workflow_id
    )
    shown = await wfhub("show", workflow_id)
    assert "0/3 ended" in shown
    assert "blocked" in shown
    assert workflow_id in await wfhub("list", "--state", "running")
    faults = (await wfhub("submit", "bad.yaml", code=2)).splitlines()
    assert faults[0].startswith("tasks.test.needs[1]: ")
    assert faults[1].startswith("wfhub: tasks.test.needs[0]: no task is named 'biuld'")
    assert "cannot read" in await wfhub("submit", "none.yaml", code=2)
    assert "cancelled" in await wfhub("cancel", workflow_id)
    assert "cancelled" in await wfhub("cancel", workflow_id)  # it is, whoever asks again
    found = json.loads(await wfhub("show", workflow_id, "--json"))
    assert {task["state"] for task in found["tasks"]} == {"cancelled"}
    waited = await wfhub("submit", "good.yaml", "--key", "k", "--wait", code=1)
    assert workflow_id in waited
    (tmp_path / "again.json").write_text(await wfhub("document", workflow_id))
    again = (await wfhub("submit", "again.json")).strip()
    assert again != workflow_id
    assert await wfhub("document", again) == await wfhub("document", workflow_id)
