"""A task's whole way, and what each party is told on it."""

import json

from scheduler_hub import BASE_COMMIT, COMMIT, Hub
from wfhub_common.digests import of_bytes
from wfhub_common.messages import BUNDLE_ARTIFACT, AttemptState, Complete, TaskState, UnitKind


async def test_a_won_task_is_sealed_published_and_told_in_exact_order(hub: Hub) -> None:
    runner = await hub.runner()
    submitted = await hub.submit()
    agent = await runner.claim_one()
    assert agent.task_id == submitted.task_id
    assert agent.token.startswith("wat_")
    await runner.report(agent.attempt_id, AttemptState.RUNNING, "agent-started", pid=1)
    await runner.report(agent.attempt_id, AttemptState.VERIFYING, "verify-started")
    done = await runner.complete(runner.won(agent.attempt_id))
    assert done.task_state is TaskState.SEALING

    publish = await runner.claim_one(UnitKind.PUBLISH)
    assert publish.token == ""
    assert publish.publish is not None
    assert publish.publish.bundle_digest == of_bytes(BUNDLE_ARTIFACT.encode())
    assert publish.publish.commit == COMMIT
    assert publish.publish.base_commit == BASE_COMMIT
    assert publish.publish.branch_ref == f"refs/heads/wfhub/{agent.task_id}"
    assert publish.publish.marker_ref == f"refs/wfhub/published/{agent.task_id}"
    done = await runner.complete(Complete(attempt_id=publish.attempt_id, outcome=AttemptState.WON))
    assert done.task_state is TaskState.SUCCEEDED

    task = await hub.task(agent.task_id)
    assert (task["state"], task["branch"]) == ("succeeded", f"wfhub/{agent.task_id}")
    assert (task["commit_id"], task["verdict"], task["attempts_used"]) == (COMMIT, "passed", 1)
    assert task["title"] == "Fix the bug"
    assert task["finished_at"] is not None
    attempt = await hub.attempt(agent.attempt_id)
    assert attempt["base_commit"] == BASE_COMMIT
    assert [each["name"] for each in json.loads(attempt["artifacts"])] == [BUNDLE_ARTIFACT, "log"]
    (question,) = hub.seal_questions
    assert question.scheduler.prompt_digest == of_bytes(b"Fix the bug\n\nplease")
    assert "prompt" not in question.scheduler.spec

    events = await hub.all_published()
    assert [(e.wfhubgeneration, e.wfhubpos) for e in events] == [
        (1, n + 1) for n in range(len(events))
    ]
    told = [(e.type, e.data.get("from"), e.data.get("to") or e.data.get("step")) for e in events]
    assert told == [
        ("task.submitted", None, None),
        ("attempt.state_changed", None, "leased"),
        ("task.state_changed", "ready", "running"),
        ("attempt.state_changed", "leased", "running"),
        ("attempt.step", None, "agent-started"),
        ("attempt.state_changed", "running", "verifying"),
        ("attempt.step", None, "verify-started"),
        ("attempt.state_changed", "verifying", "won"),
        ("task.state_changed", "running", "sealing"),
        ("proof.sealed", None, None),
        ("task.state_changed", "sealing", "publishing"),
        ("attempt.state_changed", None, "leased"),
        ("attempt.state_changed", "leased", "won"),
        ("task.state_changed", "publishing", "succeeded"),
    ]
    assert {e.data.get("task_id") or e.subject for e in events} == {agent.task_id}
