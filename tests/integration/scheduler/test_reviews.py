"""A person's word before anything is published: approved, declined, too late, said twice."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from scheduler_hub import Hub
from wfhub_common import subjects
from wfhub_common.errors import Rejected
from wfhub_common.messages import (
    AttemptState,
    Change,
    Complete,
    Project,
    ReviewDecision,
    Reviewed,
    ReviewTask,
    SubmitWorkflow,
    TaskState,
    UnitKind,
    UpdateProject,
    VerdictStatus,
    WorkflowSubmitted,
)
from wfhub_scheduler.states import REVIEW_S

CI_FILE = ".github/workflows/ci.yml"
APPROVED, DECLINED = ReviewDecision.APPROVED, ReviewDecision.DECLINED


async def in_review(hub: Hub, **spec: Any) -> str:
    task_id = (await hub.submit(**{"review_s": 3600, **spec})).task_id
    runner = await hub.runner()
    await runner.complete(runner.won((await runner.claim_one()).attempt_id))
    hub.seal_open.set()
    await hub.in_state(task_id, "review")
    return task_id


async def decide(hub: Hub, task_id: str, decision: ReviewDecision, comment: str = "") -> Reviewed:
    request = ReviewTask(task_id=task_id, decision=decision, reviewer="ada", comment=comment)
    return await hub.ask(subjects.API, "review_task", request, Reviewed)


async def outcome(hub: Hub, task_id: str) -> tuple[str, str, str]:
    task = await hub.task(task_id)
    return task["state"], task["reason"], task["message"]


async def test_what_is_approved_is_published_and_nothing_before(hub: Hub) -> None:
    task_id = await in_review(hub)
    runner = await hub.runner()
    assert await runner.claim(wait_s=0) == ()
    task = await hub.task(task_id)
    assert task["proof_id"] is not None
    assert task["review_until"] is not None
    answer = await decide(hub, task_id, APPROVED, "well done")
    assert (answer.accepted, answer.state) == (True, "publishing")
    publication = await runner.claim_one(UnitKind.PUBLISH)
    done = Complete(attempt_id=publication.attempt_id, outcome=AttemptState.WON)
    await runner.complete(done)
    task = await hub.task(task_id)
    assert (task["state"], task["review"], task["reviewed_by"]) == ("succeeded", "approved", "ada")
    assert task["review_until"] is None
    (said,) = [e for e in await hub.all_published() if e.type == "task.reviewed"]
    assert said.data == {"decision": "approved", "reviewer": "ada", "comment": "well done"}


async def test_what_is_declined_is_never_published(hub: Hub) -> None:
    task_id = await in_review(hub)
    assert (await decide(hub, task_id, DECLINED, "not like this")).state == "failed"
    assert await outcome(hub, task_id) == ("failed", "review-declined", "not like this")
    assert await (await hub.runner()).claim(wait_s=0) == ()


async def test_a_decision_said_again_is_accepted_again_and_another_is_not(hub: Hub) -> None:
    task_id = await in_review(hub)
    first, again = await decide(hub, task_id, APPROVED), await decide(hub, task_id, APPROVED)
    assert first == again
    assert (await decide(hub, task_id, DECLINED)) == Reviewed(
        accepted=False, state=TaskState.PUBLISHING
    )
    said = [e for e in await hub.all_published() if e.type == "task.reviewed"]
    assert len(said) == 1


async def test_what_nobody_decides_in_time_fails(hub: Hub) -> None:
    task_id = await in_review(hub, review_s=77)
    left_s = "SELECT extract(epoch FROM review_until - now())::float8 FROM sched.task"
    assert 17 < await hub.pg.fetchval(left_s) < 77
    await hub.pg.execute("UPDATE sched.task SET review_until = now()")
    await hub.in_state(task_id, "failed")
    assert (await outcome(hub, task_id))[1] == "review-timeout"
    assert not (await decide(hub, task_id, APPROVED)).accepted


async def test_a_deadline_ends_a_review_too(hub: Hub) -> None:
    task_id = await in_review(hub, deadline_at=datetime(2100, 1, 1, tzinfo=UTC))
    await hub.pg.execute(
        "UPDATE sched.task SET review_until = now(), spec = jsonb_set(spec, '{deadline_at}',"
        " '\"2020-01-01T00:00:00Z\"') WHERE task_id = $1",
        task_id,
    )
    assert not (await decide(hub, task_id, APPROVED)).accepted
    await hub.in_state(task_id, "failed")
    assert (await outcome(hub, task_id))[1] == "deadline"


async def test_a_review_can_be_cancelled(hub: Hub) -> None:
    task_id = await in_review(hub)
    assert (await hub.cancel(task_id)).accepted
    assert (await outcome(hub, task_id))[0] == "cancelled"


async def test_there_is_nothing_to_decide_before_there_is_a_result(hub: Hub) -> None:
    ready = (await hub.submit(review_s=60)).task_id
    assert await decide(hub, ready, APPROVED) == Reviewed(accepted=False, state=TaskState.READY)
    with pytest.raises(Rejected, match="there is no task"):
        await decide(hub, "tsk_nobody", APPROVED)


async def test_a_task_without_review_is_published_at_once(hub: Hub) -> None:
    hub.seal_open.set()
    task_id = (await hub.submit()).task_id
    runner = await hub.runner()
    await runner.complete(runner.won((await runner.claim_one()).attempt_id))
    await hub.in_state(task_id, "publishing")


# --- results that change CI files ---------------------------------------------------------------


async def won(
    hub: Hub, changed: Sequence[str], *, spec: dict[str, Any] | None = None, **observed: Any
) -> str:
    """A task whose runner says so much of what it changed."""
    task_id = (await hub.submit(**(spec or {}))).task_id
    await win(hub, changed, **observed)
    return task_id


async def win(hub: Hub, changed: Sequence[str], **observed: Any) -> None:
    runner = await hub.runner()
    seen = runner.observed(VerdictStatus.PASSED).model_copy(
        update={
            "changes": tuple(Change(path=path, change="modified") for path in changed),
            "changes_total": len(changed),
            "ci_files": tuple(path for path in changed if path == CI_FILE),
            "ci_files_total": changed.count(CI_FILE),
            **observed,
        }
    )
    (assigned,) = await runner.claim(kinds=(UnitKind.AGENT,))  # publications would go before
    await runner.complete(runner.won(assigned.attempt_id, observed=seen))


async def policy(hub: Hub, ci_files: str | None = None) -> str:
    change = UpdateProject.model_validate({"project": "default", "ci_files": ci_files})
    return (await hub.ask(subjects.API, "update_project", change, Project)).ci_files


async def test_changed_ci_files_wait_for_a_person_who_is_told_which(hub: Hub) -> None:
    hub.seal_open.set()
    task_id = await won(hub, ["a.py", CI_FILE])
    await hub.in_state(task_id, "review")
    state, reason, message = await outcome(hub, task_id)
    assert (state, reason) == ("review", "ci-files-changed")
    assert repr(CI_FILE) in message
    assert "a.py" not in message
    task = await hub.task(task_id)
    assert task["review_until"] - task["updated_at"] == timedelta(seconds=REVIEW_S)
    (asked,) = hub.seal_questions
    assert asked.runner.ci_files == (CI_FILE,)  # in the proof, under who saw it
    attempt = await hub.attempt(asked.scheduler.attempt_id)
    assert CI_FILE in attempt["ci_files"]
    (said,) = [
        e
        for e in await hub.all_published()
        if e.type == "task.state_changed" and e.data["to"] == "review"
    ]
    assert (said.data["reason"], said.data["message"]) == (reason, message)

    runner = await hub.runner()
    assert await runner.claim(wait_s=0) == ()
    assert (await decide(hub, task_id, APPROVED)).accepted
    assert await outcome(hub, task_id) == ("publishing", "", "")
    await runner.claim_one(UnitKind.PUBLISH)


async def test_declined_ci_files_are_never_published(hub: Hub) -> None:
    hub.seal_open.set()
    task_id = await won(hub, [CI_FILE])
    await hub.in_state(task_id, "review")
    await decide(hub, task_id, DECLINED, "no")
    assert await outcome(hub, task_id) == ("failed", "review-declined", "no")
    assert await (await hub.runner()).claim(wait_s=0) == ()


async def test_a_tasks_own_review_time_holds_for_ci_files_too(hub: Hub) -> None:
    hub.seal_open.set()
    task_id = await won(hub, [CI_FILE], spec={"review_s": 60})
    await hub.in_state(task_id, "review")
    task = await hub.task(task_id)
    assert task["reason"] == "ci-files-changed"
    assert task["review_until"] - task["updated_at"] == timedelta(seconds=60)


async def test_what_waits_because_of_ci_files_ends_with_its_time_or_deadline(hub: Hub) -> None:
    hub.seal_open.set()
    late = await won(hub, [CI_FILE])
    soon = datetime.now(UTC) + timedelta(days=1)
    bound = await won(hub, [CI_FILE], spec={"deadline_at": soon})
    for task_id in (late, bound):
        await hub.in_state(task_id, "review")
    assert (await hub.task(bound))["review_until"] == soon
    await hub.pg.execute("UPDATE sched.task SET review_until = now() WHERE task_id = $1", late)
    await hub.in_state(late, "failed")
    assert (await outcome(hub, late))[1] == "review-timeout"


async def test_a_project_that_allows_them_publishes_them_as_any_result(hub: Hub) -> None:
    hub.seal_open.set()
    assert await policy(hub) == "review"
    assert await policy(hub, "allow") == "allow"
    assert await policy(hub) == "allow"
    task_id = await won(hub, [CI_FILE])
    await hub.in_state(task_id, "publishing")
    assert (await outcome(hub, task_id))[1:] == ("", "")
    asked = await won(hub, [CI_FILE], spec={"review_s": 60})
    await hub.in_state(asked, "review")
    assert (await outcome(hub, asked))[1:] == ("", "")


async def test_the_policy_is_the_projects_when_the_result_is_sealed(hub: Hub) -> None:
    await policy(hub, "allow")
    task_id = (await hub.submit()).task_id
    await policy(hub, "review")
    hub.seal_open.set()
    await win(hub, [CI_FILE])
    await hub.in_state(task_id, "review")


async def test_a_runner_of_the_version_before_is_judged_by_its_list_of_changes(hub: Hub) -> None:
    hub.seal_open.set()
    seen = await won(hub, [CI_FILE], ci_files=None, ci_files_total=0)
    none = await won(hub, ["a.py"], ci_files=None)
    cut = await won(hub, ["a.py"], ci_files=None, changes_total=2000)
    await hub.in_state(seen, "review")
    await hub.in_state(none, "publishing")
    await hub.in_state(cut, "review")
    assert "listed 1 of 2000" in (await outcome(hub, cut))[2]


async def test_a_runner_that_leaves_out_what_its_own_list_shows_is_not_believed(hub: Hub) -> None:
    hub.seal_open.set()
    task_id = await won(hub, [CI_FILE], ci_files=(), ci_files_total=0)
    await hub.in_state(task_id, "review")
    linked = await won(hub, ["ci/main.yml"], ci_files=("ci/main.yml",), ci_files_total=1)
    await hub.in_state(linked, "review")


async def test_what_a_workflow_builds_on_changed_ci_files_waits_for_the_person(hub: Hub) -> None:
    hub.seal_open.set()
    document = {
        "name": "w",
        "defaults": {"repo": "/srv/demo", "prompt": "p", "verify": ["true"]},
        "tasks": {"a": {}, "b": {"needs": ["a"], "base": "${{ tasks.a.outputs.commit }}"}},
    }
    asked = SubmitWorkflow.model_validate({"project": "default", "document": document})
    made = await hub.ask(subjects.API, "submit_workflow", asked, WorkflowSubmitted)
    first, second = made.tasks["a"], made.tasks["b"]
    await win(hub, [CI_FILE])
    await hub.in_state(first, "review")
    assert (await hub.task(second))["state"] == "blocked"
    await decide(hub, first, APPROVED)
    runner = await hub.runner()
    publication = await runner.claim_one(UnitKind.PUBLISH)
    done = Complete(attempt_id=publication.attempt_id, outcome=AttemptState.WON)
    await runner.complete(done)
    await hub.in_state(second, "ready")


async def test_a_retry_of_what_was_approved_is_looked_at_again(hub: Hub) -> None:
    """Approved was one result; another attempt, or another task, makes another."""
    hub.seal_open.set()
    first = await won(hub, [CI_FILE])
    await hub.in_state(first, "review")
    await decide(hub, first, APPROVED)
    await (await hub.runner()).claim_one(UnitKind.PUBLISH)
    again = await won(hub, [CI_FILE])
    await hub.in_state(again, "review")
