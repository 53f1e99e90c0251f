"""`wfhub status | list | logs | events | cancel | approve | …`: look at tasks, act on them."""

import json
from collections.abc import Iterable

from wfhub_client import describe
from wfhub_client.session import connected
from wfhub_client.shapes import FINAL_STATES, Task
from wfhub_client.text import elapsed, one_line, safe

_LIVE_STATES = ("blocked", "ready", "running", "sealing", "review", "publishing")


def status(task_id: str | None, *, as_json: bool) -> None:
    """One task, or every task that has not ended."""
    with connected() as session:
        if task_id is None:
            _table(session.client.list(states=_LIVE_STATES), as_json=as_json)
            return
        task = session.client.get(task_id)
    if as_json:
        print(json.dumps(task.raw))
        return
    print("\n".join([*describe.summary(task), *_attempt_lines(task)]))


def list_(
    project: str | None, states: list[str], workflow: str | None, limit: int, *, as_json: bool
) -> None:
    with connected() as session:
        found = session.client.list(
            project=project, states=tuple(states), workflow=workflow, limit=limit
        )
        if not _table(found, as_json=as_json) and project:
            session.client.project(project)  # one that is not there has no tasks either: refused


def logs(task_id: str, attempt: str | None, *, follow: bool) -> None:
    with connected() as session:
        for line in session.client.logs(task_id, attempt=attempt, follow=follow):
            print(safe(line), flush=follow)


def events(task_id: str, after: str | None, *, follow: bool, as_json: bool) -> None:
    with connected() as session:
        for event in session.client.events(task_id, after=after, follow=follow):
            if as_json:
                print(json.dumps(event.raw), flush=True)
            else:
                at = event.time.astimezone().strftime("%H:%M:%S")
                print(f"{event.position:>8}  {at}  {describe.event_line(event)}", flush=True)


def cancel(task_id: str) -> None:
    with connected() as session:
        state = session.client.cancel(task_id)
    ended = state in FINAL_STATES
    print(f"{task_id}: {state}" if ended else f"{task_id}: asked to cancel; it is {state}")


def review(task_id: str, decision: str, comment: str) -> None:
    with connected() as session:
        state = session.client.review(task_id, decision, comment)
    print(f"{task_id}: {decision}; it is {state}")


def tell(task_id: str, text: str) -> None:
    with connected() as session:
        session.client.steer(task_id, text)
    print(f"{task_id}: told; its agent reads it before its next step")


def hand_in(task_id: str) -> None:
    with connected() as session:
        session.client.steer(task_id, None)
    print(f"{task_id}: asked to hand in what it has")


def _table(tasks: Iterable[Task], *, as_json: bool) -> int:
    """How many there were."""
    number = 0
    for task in tasks:
        number += 1
        if as_json:
            print(json.dumps(task.raw))
            continue
        at = task.created_at.astimezone().strftime("%m-%d %H:%M")
        what = one_line(_name(task), 60)
        state = task.state if task.state in FINAL_STATES or not task.reason else f"{task.state}*"
        print(f"{task.task_id}  {at}  {state:<10}  {one_line(task.project, 20):<12}  {what}")
    return number


def _name(task: Task) -> str:
    spec = task.raw.get("spec") or {}
    program = (spec.get("agent") or {}).get("argv") or ()
    return task.title or spec.get("prompt") or " ".join(program)


def _attempt_lines(task: Task) -> list[str]:
    lines = []
    for attempt in task.raw.get("attempts") or []:
        why = one_line(": ".join(filter(None, (attempt.get("reason"), attempt.get("message")))))
        head = f"{attempt['kind']} {attempt['number']} {attempt['state']}"
        lines.append(f"{'attempt':>9}  {head} {attempt['attempt_id']} {why}".rstrip())
        for command in (attempt.get("verdict") or {}).get("commands", []):
            took = elapsed(command["duration_ms"] / 1000)
            end = command["exit_code"] if command["exit_code"] is not None else command["outcome"]
            lines.append(f"{'verify':>9}  {one_line(command['command'], 80)} → {end} ({took})")
    return lines
