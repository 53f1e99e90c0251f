"""The checker on histories with planted violations: each is found, and a clean one is clean."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chaos.checker import INVARIANTS, check
from chaos.evidence import Evidence

TASK, OTHER, ATTEMPT, PUBLISH = "tsk_a", "tsk_b", "att_1", "att_2"
PROJECT, RUNNER, DIGEST, COMMIT = "prj_p", "rnr_r", "sha256:" + "0" * 64, "c" * 40


def moved(task: str, before: str, after: str) -> dict[str, Any]:
    data = {"from": before, "to": after}
    return {"type": "task.state_changed", "entity_id": task, "task_id": task, "data": data}


def attempt(name: str, task: str, to: str) -> dict[str, Any]:
    data = {"to": to, "runner_id": RUNNER}
    return {"type": "attempt.state_changed", "entity_id": name, "task_id": task, "data": data}


def submitted(task: str) -> dict[str, Any]:
    data = {"state": "ready"}
    return {"type": "task.submitted", "entity_id": task, "task_id": task, "data": data}


def numbered(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**e, "id": n, "event_id": f"evt_{n}", "generation": 1, "pos": n, "project_id": PROJECT}
        for n, e in enumerate(events, 1)
    ]


def clean() -> Evidence:
    """Two tasks: one was published, one was cancelled while it waited."""
    events = numbered(
        [
            submitted(TASK),
            submitted(OTHER),
            attempt(ATTEMPT, TASK, "leased"),
            moved(TASK, "ready", "running"),
            attempt(ATTEMPT, TASK, "running"),
            moved(OTHER, "ready", "cancelled"),
            attempt(ATTEMPT, TASK, "won"),
            moved(TASK, "running", "sealing"),
            moved(TASK, "sealing", "publishing"),
            attempt(PUBLISH, TASK, "leased"),
            attempt(PUBLISH, TASK, "won"),
            moved(TASK, "publishing", "succeeded"),
        ]
    )
    heard = [{"generation": 1, "pos": e["pos"], "id": e["event_id"]} for e in events]
    ref = {"repo": "r0", "commit": COMMIT}
    done = {"commit_id": COMMIT, "winner": ATTEMPT}
    undone = {"commit_id": None, "winner": None}
    told = {"op": "submit", "phase": "ok"}
    return Evidence(
        projects=[{"project_id": PROJECT, "running_limit": 1}],
        tasks=[
            {"task_id": TASK, "title": "k1", "state": "succeeded", **done},
            {"task_id": OTHER, "title": "k2", "state": "cancelled", **undone},
        ],
        attempts=[
            {
                "attempt_id": ATTEMPT,
                "state": "won",
                "receipts": [{"name": "bundle", "digest": DIGEST}],
            },
            {"attempt_id": PUBLISH, "state": "won", "receipts": []},
        ],
        events=events,
        refs=[
            {**ref, "name": f"refs/heads/wfhub/{TASK}"},
            {**ref, "name": f"refs/wfhub/published/{TASK}"},
        ],
        blobs={DIGEST: True},
        proofs={TASK: {"verified": True, "commit": COMMIT}},
        heard={"nats": heard, "http": copy.deepcopy(heard)},
        history=[
            {"op": "submit", "phase": "invoke", "key": "k1"},
            {**told, "key": "k1", "task_id": TASK},
            {**told, "key": "k2", "task_id": OTHER},
            {"op": "complete", "phase": "ok", "attempt_id": ATTEMPT, "outcome": "won"},
            {"op": "read", "phase": "ok", "task_id": TASK, "state": "succeeded"},
            {
                "op": "publish",
                "phase": "ok",
                "result": "Published",
                "branch_ref": f"refs/heads/wfhub/{TASK}",
                "commit": COMMIT,
            },
            {"op": "canary", "phase": "note", "fault": "x", "seconds": 3.0},
            {"op": "busy", "phase": "note", "node": "x", "cores": 0.1, "cores_max": 0.5},
        ],
    )


DECLINED = {"op": "review", "phase": "ok", "task_id": TASK, "decision": "declined"}
Plant = Callable[[Evidence], None]


def insert(found: Evidence, at: int, event: dict[str, Any]) -> None:
    found.events.insert(at, {**numbered([event])[0], "event_id": "evt_1", "pos": 1})


def say(found: Evidence, **line: Any) -> None:
    found.history.append(line)


PLANTED: list[tuple[str, str, Plant]] = [
    ("I1", "two branches", lambda f: f.refs.append({**f.refs[0], "repo": "r1"})),
    ("I1", "another commit", lambda f: f.refs[0].update(commit="d" * 40)),
    ("I1", "no marker", lambda f: f.refs.pop()),
    ("I1", "of a cancelled task", lambda f: f.refs[0].update(name=f"refs/heads/wfhub/{OTHER}")),
    ("I1", "two commits published", lambda f: say(f, **{**f.history[5], "commit": "d" * 40})),
    ("I1", "nobody approved", lambda f: say(f, op="review-wanted", phase="note", task_id=TASK)),
    ("I2", "a task without an end", lambda f: f.tasks[1].update(state="running")),
    ("I2", "a key without an answer", lambda f: say(f, op="submit", phase="invoke", key="k3")),
    ("I3", "a blob is gone", lambda f: f.blobs.update({DIGEST: False})),
    ("I3", "no proof", lambda f: f.proofs.clear()),
    ("I3", "a proof that does not verify", lambda f: f.proofs[TASK].update(verified=False)),
    ("I3", "a proof of another commit", lambda f: f.proofs[TASK].update(commit="d" * 40)),
    ("I3", "no receipt", lambda f: f.attempts[0].update(receipts=[])),
    ("I4", "a second live attempt", lambda f: insert(f, 5, attempt("att_9", TASK, "leased"))),
    ("I4", "a stale attempt moves", lambda f: insert(f, 8, attempt(ATTEMPT, TASK, "verifying"))),
    ("I4", "a final task moves", lambda f: insert(f, 12, moved(TASK, "succeeded", "ready"))),
    ("I4", "a state is left out", lambda f: f.events.pop(7)),
    ("I5", "a hole", lambda f: f.heard["nats"].pop(4)),
    ("I5", "out of order", lambda f: f.heard["nats"].reverse()),
    ("I5", "twice", lambda f: f.heard["http"].append(f.heard["http"][-1])),
    ("I5", "the last one is missing", lambda f: f.heard["http"].pop()),
    ("I5", "one that the log does not know", lambda f: f.heard["http"][-1].update(id="evt_99")),
    ("I5", "no position", lambda f: f.events[-1].update(pos=None)),
    ("I6", "over the project's limit", lambda f: insert(f, 5, attempt("att_9", OTHER, "leased"))),
    ("I7", "a slow recovery", lambda f: f.history[-2].update(seconds=61.0)),
    ("I7", "a busy loop", lambda f: f.history[-1].update(cores=0.9)),
    ("I8", "an acknowledged task is gone", lambda f: f.tasks.pop(1)),
    ("I8", "one key, two tasks", lambda f: f.tasks.append({**f.tasks[1], "task_id": "tsk_c"})),
    ("I8", "an end that was taken back", lambda f: f.history[4].update(state="failed")),
    ("I8", "a decision was forgotten", lambda f: say(f, **DECLINED)),
    ("I8", "a completion was forgotten", lambda f: f.attempts[0].update(state="lost")),
]  # fmt: skip


def test_a_clean_history_is_clean() -> None:
    assert check(clean()) == []


@pytest.mark.parametrize(("invariant", "what", "plant"), PLANTED, ids=[p[1] for p in PLANTED])
def test_a_planted_violation_is_found(invariant: str, what: str, plant: Plant) -> None:
    found = clean()
    plant(found)
    assert invariant in {each.invariant for each in check(found)}, what


def test_each_invariant_has_its_planted_violations() -> None:
    assert {invariant for invariant, _, _ in PLANTED} == set(INVARIANTS)


def test_evidence_is_kept_as_it_was(tmp_path: Path) -> None:
    clean().save(tmp_path / "evidence.json")
    assert Evidence.load(tmp_path / "evidence.json") == clean()
