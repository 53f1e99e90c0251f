"""Schedules over REST and with `wfhub schedule`: the real API and the real scheduler."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
import real_api

SPEC: dict[str, Any] = {
    "cron": "30 2 * * *",
    "time_zone": "Europe/Berlin",
    "task": {"repo": "/srv/repo", "prompt": "tidy up"},
}


async def test_a_schedule_is_put_shown_fired_paused_and_deleted(api: httpx.AsyncClient) -> None:
    path = "/v1/schedules/nightly"
    made = await api.put(path, json=SPEC)
    assert (made.status_code, made.json()["version"]) == (201, 1), made.text
    again = await api.put(path, json=SPEC)
    assert (again.status_code, again.json()["changed"]) == (200, False)
    by_id = f"/v1/schedules/{made.json()['schedule_id']}"
    assert made.headers["Location"] == by_id

    key = {"Idempotency-Key": "k1"}
    fired = await api.post(f"{path}/fire", headers=key)
    assert fired.status_code == 201, fired.text
    assert (await api.post(f"{path}/fire", headers=key)).status_code == 200
    busy = await api.post(f"{path}/fire")
    assert (busy.status_code, busy.json()["code"]) == (409, "schedule-busy")

    assert (await api.post(f"{path}/pause")).json()["paused"] is True
    shown = (await api.get(by_id)).json()
    assert (shown["paused"], shown["next_fire_at"], shown["project"]) == (True, None, "default")
    assert [(f["outcome"], f["task_state"]) for f in shown["firings"]] == [("fired", "ready")]
    assert shown["firings"][0]["task_id"] == fired.json()["task_id"]
    assert (await api.post(f"{path}/resume")).json()["next_fire_at"] is not None

    await api.put("/v1/schedules/other", json={**SPEC, "cron": "@every 15m"})
    first = (await api.get("/v1/schedules", params={"limit": 1, "project": "default"})).json()
    second = (await api.get("/v1/schedules", params={"cursor": first["next_cursor"]})).json()
    names = [s["name"] for s in [*first["schedules"], *second["schedules"]]]
    assert (names, second["next_cursor"]) == (["nightly", "other"], None)

    instants = (await api.get(f"{path}/next", params={"count": 400})).status_code
    assert instants == 422
    instants = (await api.get(f"{path}/next", params={"count": 3})).json()["firings"]
    assert [one["local"][11:16] for one in instants] == ["02:30"] * 3

    assert (await api.delete(path)).status_code == 204
    for answer in (await api.get(path), await api.delete(path), await api.post(f"{path}/fire")):
        assert (answer.status_code, answer.json()["code"]) == (404, "schedule-unknown")
    assert (await api.get(f"/v1/tasks/{fired.json()['task_id']}")).json()["state"] == "ready"


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"cron": "61 * * * *"}, "minute"),
        ({"cron": "@every 1s"}, "interval"),
        ({"time_zone": "Europe/Berlim"}, "time_zone"),
        ({"task": {"repo": "/r", "run_at": "2030-01-01T00:00:00Z"}}, "run_at"),
        ({"overlap": "parallel"}, "overlap"),
        ({"every": "day"}, "every"),
    ],
)
async def test_what_is_wrong_is_named(
    api: httpx.AsyncClient, change: dict[str, Any], field: str
) -> None:
    answer = await api.put("/v1/schedules/nightly", json={**SPEC, **change})
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert field in answer.text
    assert (await api.get("/v1/schedules")).json()["schedules"] == []


async def test_the_command_line_does_the_same(api: httpx.AsyncClient, tmp_path: Path) -> None:
    async def wfhub(*arguments: str, code: int = 0) -> str:
        found, out, err = await real_api.cli(api, tmp_path, "schedule", *arguments)
        assert found == code, err
        return out if code == 0 else err

    (tmp_path / "repo").mkdir()
    made = await wfhub(
        *("put", "nightly", "--cron", "@every 15m", "--repo", "repo", "--prompt", "tidy up"),
        *("--overlap", "queue", "--verify", "true", "--json"),
    )
    assert json.loads(made)["created"] is True
    (tmp_path / "spec.json").write_text(json.dumps(SPEC))
    assert "changed: next at" in await wfhub("put", "nightly", "--file", "spec.json")
    assert "as it was: next at" in await wfhub("put", "nightly", "--file", "spec.json")
    assert "nightly" in await wfhub("list")
    assert "paused" in await wfhub("pause", "nightly")
    assert "fired: tsk_" in await wfhub("fire", "nightly")
    shown = await wfhub("show", "nightly")
    assert "paused" in shown
    assert "tsk_" in shown
    assert "next at" in await wfhub("resume", "nightly")
    lines = (await wfhub("next", "nightly", "-n", "2")).splitlines()
    assert [line[11:16] for line in lines] == ["02:30", "02:30"]
    assert json.loads(await wfhub("next", "nightly", "--json"))["time_zone"] == "Europe/Berlin"
    assert "Europe/Berlin" in await wfhub(
        *("put", "x", "--cron", "@daily", "--repo", "/srv", "--time-zone", "Berlin"), code=2
    )
    assert "still at work" in await wfhub("fire", "nightly", code=1)
    assert "give --cron and --repo" in await wfhub("put", "x", code=2)
    assert "deleted" in await wfhub("delete", "nightly")
    assert await wfhub("list") == ""


YAML = """
name: nightly upgrade
defaults: {repo: /srv/repo}
tasks:
  bump: {prompt: Upgrade}
  report: {needs: [bump], needs_policy: all_done, prompt: Sum up}
"""
DEEP: dict[str, Any] = {"name": "deep", "tasks": json.loads('{"a":' * 40 + "1" + "}" * 40)}


async def test_a_schedule_of_a_workflow_is_put_as_yaml_fired_and_its_tasks_listed(
    api: httpx.AsyncClient, tmp_path: Path
) -> None:
    async def wfhub(*arguments: str) -> str:
        code, out, err = await real_api.cli(api, tmp_path, *arguments)
        assert code == 0, err
        return out

    (tmp_path / "upgrade.yaml").write_text(YAML)
    put = ("schedule", "put", "upgrade", "--cron", "@daily", "--workflow")
    assert "made: next at" in await wfhub(*put, "upgrade.yaml")
    shown = (await api.get("/v1/schedules/upgrade")).json()["spec"]
    assert list(shown["workflow"]["tasks"]) == ["bump", "report"]
    assert shown["task"] is None
    said = await wfhub("schedule", "fire", "upgrade")
    assert "fired: wfl_" in said
    workflow_id = said.split()[-1]
    (firing,) = json.loads(await wfhub("schedule", "show", "upgrade", "--json"))["firings"]
    assert (firing["workflow_id"], firing["workflow_state"]) == (workflow_id, "running")

    alone = {"repo": "/srv/repo", "prompt": "alone"}
    assert (await api.post("/v1/tasks", json=alone)).status_code == 201
    listed = await wfhub("list", "--workflow", workflow_id, "--json")
    rows = [json.loads(line) for line in listed.splitlines()]
    assert {row["workflow_id"] for row in rows} == {workflow_id}
    assert sorted(row["state"] for row in rows) == ["blocked", "ready"]
    page = (await api.get("/v1/tasks", params={"workflow": workflow_id, "limit": 1})).json()
    rest = {"workflow": workflow_id, "cursor": page["next_cursor"]}
    assert len((await api.get("/v1/tasks", params=rest)).json()["tasks"]) == 1
    assert (await api.get("/v1/tasks", params={"workflow": "nonsense"})).status_code == 422

    spec = {"cron": "@daily", "workflow": YAML}
    same = await api.put("/v1/schedules/upgrade", json=spec)
    assert (same.status_code, same.json()["changed"]) == (200, False), same.text
    for wrong, code, said in (
        (YAML.replace("[bump]", "[bumb]"), "workflow-invalid", "tasks.report.needs[0]"),
        ("tasks: &all {}", "document-malformed", "anchors"),
        (DEEP, "document-malformed", "nested"),
    ):
        refused = await api.put("/v1/schedules/bad", json={**spec, "workflow": wrong})
        assert (refused.status_code, refused.json()["code"]) == (422, code), refused.text
        assert said in refused.text
    both = {**SPEC, "workflow": YAML}
    assert (await api.put("/v1/schedules/both", json=both)).status_code == 422
