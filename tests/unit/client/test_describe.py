"""Events and results as text: what to look at, and nothing that a terminal would obey."""

from typing import Any

from wfhub_client import describe, shapes
from wfhub_client.text import elapsed, one_line

TASK: dict[str, Any] = {
    "task_id": "tsk_x",
    "project": "default",
    "state": "succeeded",
    "spec": {"repo": "/srv/my repo", "base": "main"},
    "branch": "wfhub/tsk_x",
    "commit": "c" * 40,
    "verdict": "passed",
    "proof_id": "prf_x",
    "attempts_used": 2,
    "created_at": "2030-01-01T00:00:00Z",
    "duration_s": 75.0,
    "tokens": None,
    "attempts": [{"base_commit": "b" * 40}, {"base_commit": None}],
}


def event(type_: str, **data: Any) -> shapes.Event:
    raw = {"type": type_, "subject": "s", "time": "2030-01-01T00:00:00Z", "data": data}
    return shapes.event("1-1", raw)


def test_of_a_folder_that_only_the_runner_knows_the_patch_is_shown() -> None:
    look = "wfhub artifacts tsk_x result.patch"
    for repo, branch in (("mount:team/app", "wfhub/tsk_x"), ("directory:notes/q3", None)):
        raw = {**TASK, "spec": {"repo": repo}, "branch": branch}
        assert describe.how_to_look(shapes.task(raw))[0] == look


def test_a_result_has_the_promised_fields() -> None:
    promised = {"task_id", "state", "reason", "message", "branch", "commit", "verdict"}
    promised |= {"proof_id", "attempts", "duration_s", "tokens"}
    assert set(describe.result(shapes.task(TASK))) == promised


def test_a_success_says_how_to_look_at_it() -> None:
    assert describe.how_to_look(shapes.task(TASK)) == [
        "git -C '/srv/my repo' diff bbbbbbbbbbbb..wfhub/tsk_x",
        "wfhub proof verify prf_x",
        "wfhub logs tsk_x",
    ]


def test_a_remote_result_is_fetched_first() -> None:
    task = shapes.task({**TASK, "spec": {"repo": "https://h/r.git"}})
    fetch = "git fetch https://h/r.git wfhub/tsk_x && git diff bbbbbbbbbbbb..FETCH_HEAD"
    assert describe.how_to_look(task)[0] == fetch


def test_a_failure_points_at_the_logs_alone() -> None:
    task = shapes.task({**TASK, "state": "failed", "branch": "", "proof_id": None})
    assert describe.how_to_look(task) == ["wfhub logs tsk_x"]


def test_a_task_that_waits_says_what_for() -> None:
    why = ["project app is paused", "there is no active runner with the labels gpu"]
    waiting = shapes.task({**TASK, "state": "ready", "waits_because": why})
    assert f"    waits  {'; '.join(why)}" in describe.summary(waiting)
    running = shapes.task({**TASK, "state": "running", "waits_because": []})
    assert not [line for line in describe.summary(running) if "waits" in line]


def test_events_are_lines() -> None:
    changed = event("task.state_changed", **{"from": "ready", "to": "failed", "reason": "why"})
    assert describe.event_line(changed) == "task ready → failed (why)"
    assert changed.final_state == "failed"
    step = event("attempt.step", step="agent-started", task_id="t", argv="a\x1b[2Jb\nc")
    assert describe.event_line(step) == "agent-started argv=a[2Jb c"
    assert describe.event_line(event("thing.happened", task_id="t", n=1)) == "thing.happened n=1"


def test_text_is_short_and_harmless() -> None:
    assert one_line("a\u202eb\r\n\x9bc", 10) == "ab c"
    assert one_line("x" * 20, 10) == "x" * 9 + "…"
    assert [elapsed(s) for s in (7.31, 245, 7390)] == ["7.3s", "4m05s", "2h03m"]
