"""Limits, pauses, pools, runners and batches, over REST and the CLI, with the real scheduler."""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import httpx
import nats
import pytest
import real_api
from faststream.nats import NatsBroker
from pydantic import BaseModel
from wfhub_common import broker as rpc
from wfhub_common import ids, subjects
from wfhub_common.messages import Claim, Claimed, Complete, Completed, Register
from wfhub_common.settings import BrokerSettings

R = TypeVar("R", bound=BaseModel)

SPEC = {"repo": "/srv/repo", "prompt": "p"}


@dataclass(frozen=True)
class Finished:
    code: int | None
    out: str
    err: str


async def cli(api: httpx.AsyncClient, *arguments: str) -> Finished:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "wfhub_client.cli", *arguments),
        env={
            "PATH": os.environ["PATH"],
            "HOME": "/nonexistent",
            "WFHUB_URL": str(api.base_url),
            "WFHUB_TOKEN": real_api.TOKEN,
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), real_api.WAIT_S)
    return Finished(process.returncode, out.decode(), err.decode())


async def registered(nats_url: str, *labels: str, pool: str | None = None) -> str:
    runner_id = ids.new_runner_id()
    request = Register(incarnation="i", name="one", slots=4, labels=labels, pool=pool)
    client = await nats.connect(nats_url)
    subject = subjects.rpc(runner_id, "register")
    reply = await client.request(subject, request.model_dump_json().encode(), timeout=10)
    assert b'"ok"' in reply.data
    await client.close()
    return runner_id


async def test_a_projects_limits_are_shown_and_changed(api: httpx.AsyncClient) -> None:
    assert (await api.post("/v1/tasks", json=SPEC)).status_code == 201
    shown = (await api.get("/v1/projects/default")).json()
    assert (shown["running"], shown["queued"], shown["paused"]) == (0, 1, False)
    changed = await api.patch("/v1/projects/default", json={"queue_limit": 2, "paused": True})
    assert changed.status_code == 200, changed.text
    assert changed.json() == {**shown, "queue_limit": 2, "paused": True}
    assert (await api.get(f"/v1/projects/{shown['project_id']}")).json() == changed.json()
    assert (await api.patch("/v1/projects/nowhere", json={})).status_code == 404
    assert (await api.get("/v1/projects/nowhere")).status_code == 404
    wrong = await api.patch("/v1/projects/default", json={"running_limits": 2})
    assert wrong.status_code == 422


async def test_a_projects_limits_of_attempts_are_set_taken_away_and_hold(
    api: httpx.AsyncClient,
) -> None:
    given = {
        "default": {"cpu_millicores": 1500, "run_s": 60},
        "max": {"cpu_millicores": 2000, "memory_bytes": 2**30},
    }
    made = await api.post("/v1/projects", json={"name": "demo", "limits": given})
    assert (made.status_code, made.json()["limits"]) == (201, given)
    assert (await api.get("/v1/projects/demo")).json()["limits"] == given
    listed = (await api.get("/v1/projects")).json()["projects"]
    assert {each["name"]: each["limits"] for each in listed}["demo"] == given, listed
    more = {"max": {"cpu_millicores": None, "run_s": 600}, "default": {"cpu_millicores": 4000}}
    changed = await api.patch("/v1/projects/demo", json={"limits": more})
    assert changed.status_code == 200, changed.text
    wanted = {
        "default": {"cpu_millicores": 4000, "run_s": 60},
        "max": {"memory_bytes": 2**30, "run_s": 600},
    }
    assert changed.json()["limits"] == wanted
    task = {**SPEC, "project": "demo"}
    fine = await api.post("/v1/tasks", json={**task, "limits": {"memory_bytes": 2**29}})
    limits = (await api.get(f"/v1/tasks/{fine.json()['task_id']}")).json()["spec"]["limits"]
    assert (limits["cpu_millicores"], limits["run_s"], limits["memory_bytes"]) == (4000, 60, 2**29)
    refused = await api.post("/v1/tasks", json={**task, "limits": {"memory_bytes": 2**31}})
    problem = refused.json()
    assert (refused.status_code, problem["code"]) == (422, "limit-above-maximum")
    assert "limits.memory_bytes" in problem["detail"]
    assert str(2**30) in problem["detail"]


@pytest.mark.parametrize(
    "limits",
    [
        {"max": {"cpus": 1}},
        {"max": {"memory_bytes": 1}},
        {"max": {"run_s": 60}, "default": {"run_s": 61}},
        {"most": {}},
    ],
)
async def test_limits_that_cannot_be_are_refused(
    api: httpx.AsyncClient, limits: dict[str, Any]
) -> None:
    changed = await api.patch("/v1/projects/default", json={"limits": limits})
    assert changed.status_code == 422, changed.text
    assert (await api.get("/v1/projects/default")).json()["limits"] == {"default": {}, "max": {}}


async def test_a_full_queue_is_429_with_retry_after(api: httpx.AsyncClient) -> None:
    await api.patch("/v1/projects/default", json={"queue_limit": 1})
    assert (await api.post("/v1/tasks", json=SPEC)).status_code == 201
    full = await api.post("/v1/tasks", json=SPEC)
    assert (full.status_code, full.json()["code"]) == (429, "queue-full")
    assert int(full.headers["Retry-After"]) >= 1


async def test_a_batch_tells_of_each_task(api: httpx.AsyncClient) -> None:
    await api.patch("/v1/projects/default", json={"queue_limit": 2})
    tasks: list[dict[str, Any]] = [
        {**SPEC, "idempotency_key": "a"},
        {**SPEC, "idempotency_key": "a"},
        {**SPEC, "project": "nowhere"},
        SPEC,
        SPEC,
    ]
    answer = await api.post("/v1/tasks:batch", json={"tasks": tasks})
    assert answer.status_code == 200, answer.text
    results = answer.json()["results"]
    assert [result["status"] for result in results] == [201, 200, 404, 201, 429]
    assert results[0]["submitted"]["task_id"] == results[1]["submitted"]["task_id"]
    assert results[4]["problem"]["code"] == "queue-full"
    assert int(answer.headers["Retry-After"]) >= 1
    again = await api.post("/v1/tasks:batch", json={"tasks": tasks[:1]})
    assert [result["status"] for result in again.json()["results"]] == [200]
    assert "Retry-After" not in again.headers
    assert (await api.post("/v1/tasks:batch", json={"tasks": []})).status_code == 422
    assert (await api.post("/v1/tasks:batch", json={"tasks": [SPEC] * 501})).status_code == 422


async def test_pools_are_listed_limited_and_paused(api: httpx.AsyncClient) -> None:
    assert (await api.get("/v1/pools")).json() == {"pools": []}
    changed = await api.patch("/v1/pools/gpu", json={"running_limit": 2, "paused": True})
    assert changed.status_code == 200, changed.text
    assert (await api.get("/v1/pools")).json()["pools"] == [changed.json()]
    free = (await api.patch("/v1/pools/gpu", json={"running_limit": None})).json()
    assert free == {**changed.json(), "running_limit": None}


async def test_a_runner_is_listed_and_drained(api: httpx.AsyncClient, nats_url: str) -> None:
    runner_id = await registered(nats_url, "gpu", "docker")
    (runner,) = (await api.get("/v1/runners")).json()["runners"]
    assert (runner["runner_id"], runner["state"], runner["running"]) == (runner_id, "active", 0)
    assert runner["labels"] == ["gpu", "docker"]
    drained = await api.post(f"/v1/runners/{runner_id}/drain")
    assert (drained.status_code, drained.json()["state"]) == (200, "draining")
    undone = await api.post(f"/v1/runners/{runner_id}/drain", json={"drain": False})
    assert undone.json()["state"] == "active"
    assert (await api.post("/v1/runners/nobody/drain")).status_code == 404


async def test_a_runners_pool_is_told_unless_it_did_not_say(
    api: httpx.AsyncClient, nats_url: str
) -> None:
    silent, big = await registered(nats_url), await registered(nats_url, pool="big")
    found = {each["runner_id"]: each for each in (await api.get("/v1/runners")).json()["runners"]}
    assert (found[silent]["pool"], found[big]["pool"]) == (None, "big")
    lines = (await cli(api, "runner", "list")).out.splitlines()
    assert "pool big" in next(line for line in lines if big in line)
    assert "pool ?" in next(line for line in lines if silent in line)


async def test_limits_of_attempts_by_command(api: httpx.AsyncClient) -> None:
    created = await cli(
        api, *("project", "create", "demo", "--limit", "memory=4GiB", "--default-limit", "cpu=2")
    )
    assert created.code == 0, created.err
    updated = await cli(
        *(api, "project", "update", "demo", "--limit", "memory=none", "--limit", "run_s=90"),
        "--json",
    )
    wanted = {"default": {"cpu_millicores": 2000}, "max": {"run_s": 90}}
    assert json.loads(updated.out)["limits"] == wanted, updated.err
    shown = await cli(api, "project", "show", "demo")
    assert shown.out.splitlines()[1:] == ["  default cpu=2", "  max run_s=90"]
    refused = await cli(
        *(api, "run", "--project", "demo", "--repo", "https://git.example.org/x", "--prompt", "p"),
        *("--limit", "run_s=91", "--detach"),
    )
    assert refused.code != 0
    assert "limits.run_s: 91 is more than" in refused.err


async def test_the_commands_say_the_same(api: httpx.AsyncClient, nats_url: str) -> None:
    runner_id = await registered(nats_url, "gpu")
    for arguments, wanted in (
        # First: a runner that only registered is soon given up for lost.
        (("runner", "drain", runner_id), {"state": "draining"}),
        (("runner", "list"), {"runner_id": runner_id, "labels": ["gpu"]}),
        (("runner", "drain", runner_id, "--undo"), {"state": "active"}),
        (("project", "create", "demo", "--queue-limit", "5"), {"queue_limit": 5}),
        (("project", "update", "demo", "--running-limit", "3"), {"running_limit": 3}),
        (("project", "pause", "demo"), {"paused": True, "running_limit": 3}),
        (("project", "resume", "demo"), {"paused": False}),
        (("project", "show", "demo"), {"queued": 0, "running": 0}),
        (("project", "list"), {"name": "default", "weight": 1}),
        (("pool", "update", "gpu", "--running-limit", "4", "--pause"), {"running_limit": 4}),
        (("pool", "list"), {"pool": "gpu", "paused": True}),
        (("pool", "update", "gpu", "--unlimited"), {"running_limit": None, "paused": True}),
    ):
        finished = await cli(api, *arguments, "--json")
        assert finished.code == 0, finished.err
        said = [json.loads(line) for line in finished.out.splitlines()]
        assert any(wanted.items() <= each.items() for each in said), (arguments, said)
        finished = await cli(api, *arguments)
        assert finished.code == 0, finished.err
        assert not finished.out.startswith("{")
    for arguments in (
        ("project", "update", "demo"),
        ("pool", "update", "gpu"),
        ("pool", "update", "gpu", "--unlimited", "--running-limit", "1"),
    ):
        assert (await cli(api, *arguments)).code == 2
    assert (await cli(api, "project", "pause", "nowhere")).code == 1


async def test_what_run_was_asked_is_in_the_task(api: httpx.AsyncClient, tmp_path: Path) -> None:
    options = {
        "--priority": "7",
        "--label": "gpu",
        "--pool": "big",
        "--run-at": "2090-01-31T18:00:00+01:00",
        "--deadline": "2091-01-01T00:00:00+00:00",
        "--queue-timeout-s": "60",
        "--idle-timeout-s": "30",
        "--retry-on": "verification-failed",
        "--backoff-s": "1.5",
        "--attempts": "3",
        "--prompt": "p",
        "--repo": str(tmp_path),
    }
    asked = [part for pair in options.items() for part in pair]
    finished = await cli(api, "run", "--detach", *asked)
    assert finished.code == 0, finished.err
    spec = (await api.get(f"/v1/tasks/{finished.out.strip()}")).json()["spec"]
    assert (spec["priority"], spec["labels"], spec["pool"]) == (7, ["gpu"], "big")
    assert (spec["queue_s"], spec["limits"]["idle_s"]) == (60, 30)
    assert spec["retry"]["on"] == ["verification-failed"]
    assert (spec["retry"]["backoff_ms"], spec["retry"]["attempts_max"]) == (1500, 3)
    assert spec["run_at"].startswith("2090-01-31T17:00:00")
    assert spec["deadline_at"].startswith("2091-01-01T00:00:00")
    bad = await cli(api, "run", "--prompt", "p", "--repo", str(tmp_path), "--run-at", "soon")
    assert (bad.code, "--run-at" in bad.err) == (2, True)


@dataclass
class Worker:
    """A runner that does no work, over NATS as a real one."""

    broker: NatsBroker
    runner_id: str

    async def ask(self, command: str, request: BaseModel, reply_type: type[R]) -> R:
        return await rpc.ask(self.broker, self.runner_id, command, request, reply_type)

    async def claimed(self, pool: str = "default") -> list[str]:
        """The tasks of what it gets for two slots."""
        claim = Claim(claim_id=ids.new_claim_id(), incarnation="i", slots=2, pool=pool)
        claimed = await self.ask("claim", claim, Claimed)
        for each in claimed.assignments:
            done = Complete(attempt_id=each.attempt_id, outcome="failed", retryable=False)
            await self.ask("complete", done, Completed)
        return [each.task_id for each in claimed.assignments]


@contextlib.asynccontextmanager
async def worker(nats_url: str, *labels: str) -> AsyncIterator[Worker]:
    runner_id = await registered(nats_url, *labels)
    broker = rpc.make_broker(BrokerSettings(nats_url=nats_url), name="worker")
    await broker.start()
    yield Worker(broker, runner_id)
    await broker.stop()


async def submitted(api: httpx.AsyncClient, **more: Any) -> str:
    answer = await api.post("/v1/tasks", json={**SPEC, **more})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["task_id"])


async def test_what_is_asked_over_rest_decides_who_gets_what(
    api: httpx.AsyncClient, nats_url: str
) -> None:
    async with worker(nats_url, "gpu") as gpu, worker(nats_url) as plain:
        low, high = await submitted(api), await submitted(api, priority=7)
        assert await plain.claimed() == [high, low]

        needs_gpu = await submitted(api, labels=["gpu"])
        assert await plain.claimed() == []
        assert await gpu.claimed() == [needs_gpu]

        waits = await submitted(api, pool="big")
        await api.patch("/v1/pools/big", json={"paused": True})
        assert await plain.claimed("big") == []
        await api.patch("/v1/pools/big", json={"paused": False, "running_limit": 1})
        another = await submitted(api, pool="big")
        assert await plain.claimed("big") == [waits]
        assert await plain.claimed("big") == [another]

        waits = await submitted(api)
        await api.patch("/v1/projects/default", json={"paused": True})
        assert await plain.claimed() == []
        await api.patch("/v1/projects/default", json={"paused": False})
        await api.post(f"/v1/runners/{plain.runner_id}/drain")
        assert await plain.claimed() == []
        assert await gpu.claimed() == [waits]


async def test_a_full_queue_is_said_at_the_prompt(api: httpx.AsyncClient, tmp_path: Path) -> None:
    await api.patch("/v1/projects/default", json={"queue_limit": 1})
    arguments = ("run", "--detach", "--prompt", "p", "--repo", str(tmp_path))
    assert (await cli(api, *arguments)).code == 0
    full = await cli(api, *arguments)
    assert full.code == 1
    assert "queue_limit" in full.err


async def test_wrong_input_is_named(api: httpx.AsyncClient, tmp_path: Path) -> None:
    run = ("run", "--prompt", "p", "--repo", str(tmp_path))
    for arguments, code, said in (
        (("project", "create", "No Spaces"), 2, "name"),
        (("project", "update", "nowhere", "--weight", "2"), 1, "nowhere"),
        (("project", "update", "default", "--running-limit", "0"), 2, "--running-limit"),
        (("project", "update", "default", "--weight", "1000000"), 2, "weight"),
        (("pool", "update", "No Spaces", "--pause"), 2, "pool"),
        (("runner", "drain", "nobody"), 1, "nobody"),
        ((*run, "--label", "No Spaces"), 2, "labels"),
        ((*run, "--priority", "101"), 2, "--priority"),
        ((*run, "--pool", "No Spaces"), 2, "pool"),
        ((*run, "--project", "nowhere"), 1, "nowhere"),
    ):
        finished = await cli(api, *arguments)
        assert (finished.code, said in finished.err) == (code, True), (arguments, finished)
        assert "Traceback" not in finished.err


async def test_a_projects_budget_is_set_shown_and_taken_away(api: httpx.AsyncClient) -> None:
    made = await cli(api, "project", "create", "web", "--budget", "usd_per_day=20", "--json")
    assert json.loads(made.out)["budget"]["usd_per_day"] == "20"
    budgets = ("--budget", "tokens=5000", "--budget", "usd=1.50")
    assert "usd 1.5" in (await cli(api, "project", "update", "web", *budgets)).out
    shown = (await api.get("/v1/projects/web")).json()["budget"]
    assert {k: v for k, v in shown.items() if v is not None} == {"tokens": 5000, "usd": "1.5"}
    taken = await api.patch("/v1/projects/web", json={"budget": {"usd_per_day": 3.5}})
    assert (taken.json()["budget"]["tokens"], taken.json()["budget"]["usd_per_day"]) == (
        None,
        "3.5",
    )
    await cli(api, "project", "update", "web", "--budget", "none")
    assert not any((await api.get("/v1/projects/web")).json()["budget"].values())
    wrong = await api.patch("/v1/projects/web", json={"budget": {"euros": 3}})
    assert (wrong.status_code, "euros" in wrong.text) == (422, True)
    assert (await cli(api, "project", "update", "web", "--budget", "much")).code == 2


async def test_a_projects_mcp_servers_are_set_shown_and_taken_away(api: httpx.AsyncClient) -> None:
    await cli(api, "project", "create", "web")
    given = ("--mcp", "notes=npx -y 'notes server'", "--mcp", "words=python3 words.py")
    changed = await cli(api, "project", "update", "web", *given)
    assert "mcp notes: npx -y 'notes server'" in changed.out
    shown = (await api.get("/v1/projects/web")).json()["mcp"]
    assert shown["notes"] == {"argv": ["npx", "-y", "notes server"], "env": {}}
    one = {"words": {"argv": ["w"], "env": {"K": "v"}}}
    taken = await api.patch("/v1/projects/web", json={"mcp": one})
    assert taken.json()["mcp"] == one
    await cli(api, "project", "update", "web", "--mcp", "none")
    assert (await api.get("/v1/projects/web")).json()["mcp"] == {}
    for wrong in (
        {"No Spaces": one["words"]},
        {"a": {"argv": []}},
        {"a": {"argv": ["x" * 17_000]}},
    ):
        refused = await api.patch("/v1/projects/web", json={"mcp": wrong})
        assert (refused.status_code, "mcp" in refused.text) == (422, True), wrong
    for words in ("notes", "notes=", "notes='x"):
        assert (await cli(api, "project", "update", "web", "--mcp", words)).code == 2


async def test_a_projects_policies_are_set_and_shown_by_rest_and_cli(
    api: httpx.AsyncClient,
) -> None:
    await cli(api, "project", "create", "web")
    fresh = (await api.get("/v1/projects/web")).json()
    assert (fresh["ci_files"], fresh["debuggers"]) == ("review", "refuse")
    words = ("--ci-files", "allow", "--debuggers", "allow")
    changed = await cli(api, "project", "update", "web", *words)
    allows = ["  changed CI files are published unseen", "  debuggers in its sandboxes"]
    assert changed.out.splitlines()[1:] == allows
    kept = (await api.patch("/v1/projects/web", json={"weight": 2})).json()
    assert (kept["ci_files"], kept["debuggers"]) == ("allow", "allow")
    back = (await api.patch("/v1/projects/web", json={"ci_files": "review"})).json()
    assert (back["ci_files"], back["debuggers"]) == ("review", "allow")
    for name, value in (("ci_files", "never"), ("debuggers", True)):
        refused = await api.patch("/v1/projects/web", json={name: value})
        assert (refused.status_code, name in refused.text) == (422, True)
    assert (await cli(api, "project", "update", "web", "--debuggers", "yes")).code != 0
    made = {"name": "lab", "ci_files": "allow", "debuggers": "allow"}
    created = await api.post("/v1/projects", json=made)
    assert (created.status_code, created.json()["debuggers"]) == (201, "allow")
    assert (await api.post("/v1/projects", json=made)).status_code == 200
    differs = await api.post("/v1/projects", json={"name": "lab"})
    assert (differs.status_code, differs.json()["code"]) == (409, "project-exists")


async def test_a_tasks_mcp_servers_are_its_agents(api: httpx.AsyncClient, tmp_path: Path) -> None:
    run = ("run", "--prompt", "p", "--repo", str(tmp_path), "--detach", "--json")
    made = json.loads((await cli(api, *run, "--mcp", "notes=npx notes")).out)
    task = (await api.get(f"/v1/tasks/{made['task_id']}")).json()
    assert task["spec"]["agent"]["mcp"] == {"notes": {"argv": ["npx", "notes"], "env": {}}}
