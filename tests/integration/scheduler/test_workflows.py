"""Workflows on a real Postgres, and one through a whole scheduler."""

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import workflow_lab
from scheduler_hub import BASE_COMMIT, COMMIT, Hub, until
from wfhub_common import subjects
from wfhub_common.errors import Rejected
from wfhub_common.messages import (
    AttemptState,
    CancelWorkflow,
    Complete,
    SubmitWorkflow,
    UnitKind,
    WorkflowCancelled,
    WorkflowState,
    WorkflowSubmitted,
)
from wfhub_scheduler import lanes
from wfhub_scheduler.states import TaskEvent
from wfhub_scheduler.timeouts import end_overdue
from workflow_lab import DIAMOND, REPO, Lab, document

CONTINUE = {"on_failure": "continue"}


@pytest.fixture
async def lab(database_url: str) -> AsyncIterator[Lab]:
    async with workflow_lab.opened(database_url) as made:
        yield made


# --- the way of a workflow -------------------------------------------------------------------


async def test_a_diamond_goes_from_task_to_task(lab: Lab) -> None:
    made = await lab.submit(DIAMOND)
    assert (made.created, made.state, list(made.tasks)) == (True, "running", list("abcd"))
    assert await lab.states() == {"a": "ready", "b": "blocked", "c": "blocked", "d": "blocked"}
    assert await lab.after("a") == {
        "a": "succeeded",
        "b": "ready",
        "c": "ready",
        "d": "blocked",
    }
    assert (await lab.after("c"))["d"] == "blocked"
    assert (await lab.after("b"))["d"] == "ready"
    assert (await lab.row())["state"] == "running"
    await lab.after("d")
    row = await lab.row()
    assert (row["state"], row["open_count"], row["unsuccessful_count"]) == ("succeeded", 0, 0)
    assert row["finished_at"] is not None
    assert await lab.events() == ["workflow.submitted", "workflow.state_changed"]
    units = await lab.pg.fetch("SELECT task_id FROM sched.unit")
    assert sorted(unit["task_id"] for unit in units) == sorted(made.tasks.values())


async def test_results_reach_those_who_need_them(lab: Lab) -> None:
    await lab.submit(
        {
            "a": {"prompt": "write $${{ here }}"},
            "b": {
                "needs": ["a"],
                "prompt": "${{ tasks.a.outputs.state }} on ${{ tasks.a.outputs.branch }}",
            },
            "c": {
                "needs": ["b"],
                "base": "${{ tasks.a.outputs.branch }}",
                "verify": ["git diff ${{ tasks.b.outputs.commit }}"],
            },
            "d": {"needs": ["b", "c"]},
        }
    )
    assert await lab.spec("a", "prompt") == "write ${{ here }}"
    await lab.after("a")
    branch = f"wfhub/{lab.task_id('a')}"
    assert await lab.spec("b", "prompt") == f"succeeded on {branch}"
    commit = await lab.pg.fetchval("SELECT commit_id FROM sched.task WHERE branch = $1", branch)
    assert await lab.spec("b", "base") == commit, "it needs one other: it goes on from its commit"
    await lab.after("b")
    assert await lab.spec("c", "base") == branch, "it said where it begins"
    of_b = await lab.pg.fetchval(
        "SELECT commit_id FROM sched.task WHERE task_id = $1", lab.task_id("b")
    )
    assert await lab.spec("c", "verify") == f'["git diff {of_b}"]'
    await lab.after("c")
    assert await lab.spec("d", "base") == "main", "which of the two results is not ours to guess"


async def test_what_cannot_be_filled_ends_that_task_with_a_message(lab: Lab) -> None:
    await lab.submit(
        {
            "a": CONTINUE,
            "b": {
                "needs": ["a"],
                "needs_policy": "all_done",
                "base": "${{ tasks.a.outputs.branch }}",
                **CONTINUE,
            },
            "report": {"needs": ["b"], "needs_policy": "all_done"},
        }
    )
    states = await lab.after("a", state="failed")  # so it has no branch
    assert states == {"a": "failed", "b": "failed unresolvable", "report": "ready"}
    message = await lab.pg.fetchval(
        "SELECT message FROM sched.task WHERE task_id = $1", lab.task_id("b")
    )
    assert "base" in message
    assert await lab.spec("report", "base") == "main", "what it would continue has no result"


# --- failure and cancel ----------------------------------------------------------------------

FAN: dict[str, Any] = {
    "a": {},
    "b": {},
    "c": {},
    "after-a": {"needs": ["a"]},
    "after-b": {"needs": ["b"]},
    "deep": {"needs": ["after-a"]},
    "report": {"needs": ["deep", "after-b"], "needs_policy": "all_done"},
}


async def test_a_failure_stops_what_has_not_started_but_reports(lab: Lab) -> None:
    await lab.submit(FAN)
    await lab.pg.execute(  # it was tried, and waits for its next try
        "UPDATE sched.task SET attempts_used = 1 WHERE task_id = $1", lab.task_id("b")
    )
    assert await lab.after("a", state="failed") == {
        "a": "failed",
        "b": "ready",
        "c": "cancelled workflow-failed",
        "after-a": "cancelled workflow-failed",
        "after-b": "cancelled workflow-failed",
        "deep": "cancelled workflow-failed",
        "report": "ready",
    }
    dead = await lab.pg.fetchval(
        "SELECT state FROM sched.unit WHERE task_id = $1", lab.task_id("c")
    )
    assert dead == "dead"
    await lab.after("b")
    assert (await lab.row())["state"] == "running"
    await lab.after("report")
    row = await lab.row()
    assert (row["state"], row["unsuccessful_count"]) == ("failed", 5)


async def test_with_continue_a_failure_takes_its_descendants_only(lab: Lab) -> None:
    await lab.submit(FAN, on_failure="continue")
    assert await lab.after("a", state="failed") == {
        "a": "failed",
        "b": "ready",
        "c": "ready",
        "after-a": "cancelled parent-failed",
        "after-b": "blocked",
        "deep": "cancelled parent-failed",
        "report": "blocked",
    }
    assert (await lab.after("b", "c"))["after-b"] == "ready"
    assert (await lab.after("after-b"))["report"] == "ready"
    await lab.after("report")
    assert (await lab.row())["state"] == "failed", "some did not succeed"


async def test_a_blocked_task_that_somebody_cancels_counts_as_a_failure(lab: Lab) -> None:
    await lab.submit(DIAMOND, on_failure="continue")
    await lab.cancel_one("b")
    await lab.advance()
    assert await lab.states() == {
        "a": "ready",
        "b": "cancelled cancelled",
        "c": "blocked",
        "d": "cancelled parent-failed",
    }
    assert (await lab.after("a"))["c"] == "ready"
    await lab.after("c")
    assert (await lab.row())["state"] == "failed"


async def test_a_deadline_ends_a_blocked_task_as_any_other(lab: Lab) -> None:
    late = {"needs": ["a"], "deadline_at": "2020-01-01T00:00:00Z"}
    await lab.submit({"a": {}, "late": late, "next": {"needs": ["late"]}, "b": {"needs": ["a"]}})
    assert await end_overdue(lab.one, TaskEvent.DEADLINE) is False
    await lab.advance()
    assert await lab.states() == {
        "a": "cancelled workflow-failed",
        "late": "failed deadline",
        "next": "cancelled workflow-failed",
        "b": "cancelled workflow-failed",
    }
    assert (await lab.row())["state"] == "failed"


async def test_a_cancel_ends_what_has_not_started_and_stops_what_runs(lab: Lab) -> None:
    await lab.submit(FAN)
    await lab.end("a")
    cancelled = await lab.cancel()
    assert (cancelled.accepted, cancelled.state) == (True, "cancelled")
    states = await lab.states()
    assert states.pop("a") == "succeeded"
    assert set(states.values()) == {"cancelled cancelled"}
    again = await lab.cancel()
    assert (again.accepted, again.finished_at) == (False, cancelled.finished_at)
    assert (await lab.events())[1:] == ["workflow.cancel_requested", "workflow.state_changed"]
    units = await lab.pg.fetch("SELECT state FROM sched.unit ORDER BY created_at")
    assert [unit["state"] for unit in units] == ["done", "dead", "dead"]
    lab.workflow = WorkflowSubmitted.model_validate(
        {**dict(lab.workflow or ()), "workflow_id": "wfl_unknown"}
    )
    with pytest.raises(Rejected, match="workflow-unknown"):
        await lab.cancel()


# --- submission ------------------------------------------------------------------------------


async def test_the_same_key_is_the_same_workflow(lab: Lab) -> None:
    lab.one, lab.core()
    first, second = await asyncio.gather(*(lab.submit(DIAMOND, key="k") for _ in range(2)))
    assert {first.created, second.created} == {True, False}
    assert first.model_dump(exclude={"created"}) == second.model_dump(exclude={"created"})
    with pytest.raises(Rejected, match="idempotency-conflict") as caught:
        await lab.submit({"a": {}}, key="k")
    assert caught.value.fields["workflow_id"] == first.workflow_id
    assert await lab.pg.fetchval("SELECT count(*) FROM sched.task") == 4


async def test_what_does_not_fit_the_queue_leaves_nothing(lab: Lab) -> None:
    await lab.pg.execute("UPDATE sched.project SET queue_limit = 6")
    await lab.submit(DIAMOND)
    with pytest.raises(Rejected) as caught:
        await lab.submit(DIAMOND)
    assert (caught.value.status, caught.value.fields["retry_after_s"]) == (429, 5.0)
    with pytest.raises(Rejected, match="queue_limit") as caught:
        await lab.submit({f"t{n}": {} for n in range(7)})
    assert caught.value.status == 413, "to ask again later would be of no use"
    counts = "SELECT (SELECT count(*) FROM sched.workflow), (SELECT count(*) FROM sched.task)"
    assert tuple(await lab.pg.fetchrow(counts)) == (1, 4)
    assert await lab.events() == ["workflow.submitted"]


async def test_a_blocked_task_has_its_place_among_the_label_sets(
    lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lanes, "LANES_OF_A_PROJECT_MAX", 2)
    first = await lab.submit({"build": {}, "train": {"needs": ["build"], "labels": ["gpu"]}})
    with pytest.raises(Rejected, match="label-sets-full"):
        await lab.submit({"other": {"labels": ["arm"]}})
    with pytest.raises(Rejected, match="label-sets-full"):
        await lab.submit({"build": {}, "pack": {"needs": ["build"], "labels": ["arm"]}})
    lab.workflow = first
    assert (await lab.after("build"))["train"] == "ready"


async def test_limits_of_each_task_are_settled_or_refused_by_path(lab: Lab) -> None:
    most = '{"max": {"run_s": 60}, "default": {"cpu_millicores": 2000}}'
    await lab.pg.execute("UPDATE sched.project SET limits = $1", most)
    tasks = {"a": {"limits": {"run_s": 90}}, "b": {"needs": ["a"], "limits": {"run_s": 91}}}
    with pytest.raises(Rejected, match=r"tasks\.a\.limits\.run_s: 90 is more than") as caught:
        await lab.submit(tasks)
    paths = [fault["path"] for fault in caught.value.fields["faults"]]
    assert paths == ["tasks.a.limits.run_s", "tasks.b.limits.run_s"]
    assert await lab.pg.fetchval("SELECT count(*) FROM sched.workflow") == 0
    made = await lab.submit({"a": {}, "b": {"needs": ["a"]}}, key="k")
    await lab.pg.execute("UPDATE sched.project SET limits = '{}'")
    await lab.after("a")
    for task_id in made.tasks.values():
        found = await lab.pg.fetchval("SELECT spec FROM sched.task WHERE task_id = $1", task_id)
        limits = json.loads(found)["limits"]
        assert (limits["run_s"], limits["cpu_millicores"]) == (60, 2000)
    await lab.pg.execute("UPDATE sched.project SET limits = $1", '{"max": {"run_s": 1}}')
    assert not (await lab.submit({"a": {}, "b": {"needs": ["a"]}}, key="k")).created


async def test_bad_documents_are_refused_with_their_paths(lab: Lab) -> None:
    for tasks, path in (
        ({"a": {"needs": ["b"]}, "b": {"needs": ["a"]}}, "tasks.a.needs[0]"),
        ({"a": {"needs": ["x"]}}, "tasks.a.needs[0]"),
        ({"a": {"prompt": "${{ tasks.b.outputs.commit }}"}}, "tasks.a.prompt"),
    ):
        with pytest.raises(Rejected) as caught:
            await lab.submit(tasks)
        assert [fault["path"] for fault in caught.value.fields["faults"]] == [path]
    with pytest.raises(Rejected, match="nul-character"):
        await lab.submit({"a": {"prompt": "\x00"}})
    assert await lab.pg.fetchval("SELECT count(*) FROM sched.workflow") == 0


# --- through a whole scheduler ---------------------------------------------------------------


async def submit(hub: Hub, tasks: dict[str, Any], **fields: Any) -> WorkflowSubmitted:
    command = SubmitWorkflow(project="default", document=document(tasks, **fields))
    return await hub.ask(subjects.API, "submit_workflow", command, WorkflowSubmitted)


async def in_state(hub: Hub, workflow: WorkflowSubmitted, state: WorkflowState) -> None:
    async def look() -> bool:
        found = await hub.pg.fetchval(
            "SELECT state FROM sched.api_workflow WHERE workflow_id = $1", workflow.workflow_id
        )
        return bool(found == state)

    await until(look, state)


async def test_a_chain_is_worked_on_and_published_task_by_task(hub: Hub) -> None:
    tasks = {"a": {}, "b": {"needs": ["a"], "prompt": "${{ tasks.a.outputs.verdict }}"}}
    made = await submit(hub, {name: {**task, "verify": ["true"]} for name, task in tasks.items()})
    runner = await hub.runner()
    bases = []
    for name in ("a", "b"):
        agent = await runner.claim_one()
        assert (agent.task_id, agent.spec.repo) == (made.tasks[name], REPO)
        bases.append((agent.spec.base, agent.spec.prompt))
        await runner.complete(runner.won(agent.attempt_id))
        publish = await runner.claim_one(UnitKind.PUBLISH)
        await runner.complete(Complete(attempt_id=publish.attempt_id, outcome=AttemptState.WON))
    assert bases == [("main", "Do it"), (COMMIT, "passed")]
    await in_state(hub, made, WorkflowState.SUCCEEDED)
    events = [event for event in await hub.all_published() if event.type.startswith("workflow.")]
    assert [(event.type, event.subject) for event in events] == [
        ("workflow.submitted", made.workflow_id),
        ("workflow.state_changed", made.workflow_id),
    ]
    row = await hub.pg.fetchrow(
        "SELECT base_commit FROM sched.task WHERE task_id = $1", made.tasks["b"]
    )
    assert row["base_commit"] == BASE_COMMIT, "what the runner saw, not what was asked for"


async def test_a_cancelled_workflow_ends_when_what_runs_has_stopped(hub: Hub) -> None:
    made = await submit(hub, DIAMOND)
    runner = await hub.runner()
    agent = await runner.claim_one()
    command = CancelWorkflow(workflow_id=made.workflow_id)
    reply = await hub.ask(subjects.API, "cancel_workflow", command, WorkflowCancelled)
    assert (reply.accepted, reply.state) == (True, WorkflowState.RUNNING)
    assert (await runner.heartbeat(agent.attempt_id)).cancel == (agent.attempt_id,)
    await runner.complete(
        Complete(attempt_id=agent.attempt_id, outcome=AttemptState.CANCELLED, reason="cancelled")
    )
    await in_state(hub, made, WorkflowState.CANCELLED)
    with pytest.raises(Rejected, match="not-allowed"):
        await hub.ask(runner.runner_id, "cancel_workflow", command, WorkflowCancelled)
