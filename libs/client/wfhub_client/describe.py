"""Events and results as lines for people, and the result as one JSON object. Pure."""

import shlex
from typing import Any

from wfhub_client.run_spec import is_remote
from wfhub_client.shapes import Event, Task
from wfhub_client.text import elapsed, one_line

_COMMIT_CHARS = 12
_OF_A_RUNNER = ("mount:", "directory:")  # folders whose path it alone knows


def event_line(event: Event) -> str:
    data = event.data
    match event.type:
        case "task.submitted":
            return "submitted"
        case "task.state_changed":
            return one_line(f"task {_change(data)}")
        case "task.reviewed":
            return one_line(_reviewed(data))
        case "attempt.state_changed":
            kind = data.get("kind") or "agent"
            what = "attempt" if kind == "agent" else kind
            return one_line(f"{what} {data.get('number', '')} {_change(data)}")
        case "attempt.step":
            fields = {k: v for k, v in data.items() if k not in ("task_id", "step", "attempt_id")}
            return one_line(f"{data.get('step', 'step')} {_fields(fields)}".rstrip())
        case "proof.sealed":
            return one_line(f"proof sealed {data.get('proof_id', '')}")
        case other:
            return one_line(f"{other} {_fields({k: v for k, v in data.items() if k != 'task_id'})}")


def result(task: Task) -> dict[str, Any]:
    """What `--json` prints last."""
    return {
        "task_id": task.task_id,
        "state": task.state,
        "reason": task.reason,
        "message": task.message,
        "branch": task.branch,
        "commit": task.commit,
        "verdict": task.verdict,
        "proof_id": task.proof_id,
        "attempts": task.attempts,
        "duration_s": task.duration_s,
        "tokens": task.tokens,
    }


def summary(task: Task) -> list[str]:
    facts = {
        "task": task.task_id,
        "state": task.state,
        "waits": "; ".join(task.raw.get("waits_because") or ()),
        "reason": task.reason,
        "message": task.message,
        "decide by": task.raw.get("review_until") or "",
        "branch": task.branch,
        "commit": task.commit,
        "verdict": task.verdict,
        "proof": task.proof_id,
        "attempts": task.attempts or "",
        "duration": elapsed(task.duration_s) if task.duration_s is not None else "",
        "tokens": task.tokens if task.tokens is not None else "",
    }
    lines = [f"{name:>9}  {one_line(value, 2000)}" for name, value in facts.items() if value != ""]
    return [*lines, *(f"{'look':>9}  {how}" for how in how_to_look(task))]


def how_to_look(task: Task) -> list[str]:
    """Commands to type next."""
    if task.state == "review":
        return [how_to_review(task.task_id)]
    ways = []
    if task.state == "succeeded" and task.repo.startswith(_OF_A_RUNNER):
        ways.append(f"wfhub artifacts {task.task_id} result.patch")
    elif task.state == "succeeded" and task.branch:
        ways.append(_diff(task))
    if task.proof_id:
        ways.append(f"wfhub proof verify {task.proof_id}")
    return [*ways, f"wfhub logs {task.task_id}"]


def how_to_review(task_id: str) -> str:
    return f"wfhub artifacts {task_id} result.patch; then wfhub approve {task_id}, or decline"


def _diff(task: Task) -> str:
    repo, branch = shlex.quote(one_line(task.repo, 2000)), shlex.quote(one_line(task.branch))
    base = shlex.quote(one_line(task.base)[:_COMMIT_CHARS] if _is_commit(task.base) else task.base)
    if is_remote(task.repo):
        return f"git fetch {repo} {branch} && git diff {base if task.base else 'HEAD'}..FETCH_HEAD"
    return f"git -C {repo} diff {base if task.base else 'HEAD'}..{branch}"


def _is_commit(value: str) -> bool:
    return len(value) == 40 and all(c in "0123456789abcdef" for c in value)


def _change(data: dict[str, Any]) -> str:
    why = ": ".join(str(data[name]) for name in ("reason", "message") if data.get(name))
    moved = " → ".join(str(state) for state in (data.get("from"), data.get("to")) if state)
    return moved + (f" ({why})" if why else "")


def _reviewed(data: dict[str, Any]) -> str:
    comment = f": {data['comment']}" if data.get("comment") else ""
    return f"{data.get('decision', 'reviewed')} by {data.get('reviewer') or 'somebody'}{comment}"


def _fields(fields: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in fields.items() if value not in (None, ""))
