"""`wfhub workflow …`: what each command does. With --json one object a line, as the API says it."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from wfhub_client.client import Client
from wfhub_client.errors import Refused, Usage
from wfhub_client.run import EXIT_FAILED, FOLLOW_PATIENCE_S
from wfhub_client.session import connected
from wfhub_client.text import one_line, print_one, safe

POLL_S = 1.0


def submit(file: Path, project: str, key: str | None, *, wait: bool, as_json: bool) -> int:
    """The exit code: of what it came to with `wait`, else 0."""
    document = _document(file)
    with connected() as session:
        if not wait and not session.outlives:
            raise Usage(
                "the service must outlive this command; start one with `wfhub up`, or --wait"
            )
        client = session.client
        try:
            made = client.submit_workflow(
                document, _content_type(document), project=project, idempotency_key=key
            )
        except Refused as e:
            for fault in e.fields.get("faults", [])[1:]:  # the first one is the message
                print(safe(f"{fault['path']}: {fault['message']}"), file=sys.stderr)
            raise
        if not wait:
            print_one(made, str(made["workflow_id"]), as_json=as_json)
            return 0
        print(made["workflow_id"], file=sys.stderr, flush=True)
        found = _waited_for(client, made["workflow_id"])
    print_one(found, _described(found), as_json=as_json)
    return 0 if found["state"] == "succeeded" else EXIT_FAILED


def show(workflow_id: str, *, as_json: bool) -> None:
    with connected() as session:
        found = session.client.workflow(workflow_id)
    print_one(found, _described(found), as_json=as_json)


def document(workflow_id: str) -> None:
    with connected() as session:
        print(json.dumps(session.client.workflow_document(workflow_id), indent=2))


def list_(project: str | None, states: list[str], limit: int, *, as_json: bool) -> None:
    with connected() as session:
        for found in session.client.workflows(project=project, states=tuple(states), limit=limit):
            names = f"{one_line(found['project'], 20):<12}  {one_line(found['name'], 60)}"
            text = f"{found['workflow_id']}  {found['state']:<10}  {_counts(found):<20}  {names}"
            print_one(found, text, as_json=as_json)


def cancel(workflow_id: str, *, as_json: bool) -> None:
    with connected() as session:
        reply = session.client.cancel_workflow(workflow_id)
    running = "; what runs is told to stop" if reply["state"] == "running" else ""
    print_one(reply, f"{workflow_id}: cancelled{running}", as_json=as_json)


def _waited_for(client: Client, workflow_id: str) -> dict[str, Any]:
    client.patience_s = FOLLOW_PATIENCE_S
    said = ""
    while (found := client.workflow(workflow_id, tasks=False))["state"] == "running":
        if said != (said := _counts(found)):
            print(said, file=sys.stderr, flush=True)
        time.sleep(POLL_S)
    return client.workflow(workflow_id)


def _described(found: dict[str, Any]) -> str:
    lines = [
        f"workflow  {found['workflow_id']} {one_line(found['name'])}",
        f"   state  {found['state']}, {_counts(found)}",
    ]
    for task in found["tasks"]:
        why = one_line(": ".join(filter(None, (task["reason"], task["message"]))))
        head = f"{task['state']:<10} {task['task_id']} {one_line(task['name'], 63)}"
        lines.append(f"    task  {head} {task['branch'] or why}".rstrip())
    return "\n".join(lines)


def _counts(found: dict[str, Any]) -> str:
    ended = found["task_count"] - found["open_count"]
    unsuccessful = found["unsuccessful_count"]
    return f"{ended}/{found['task_count']} ended" + (
        f", {unsuccessful} not well" if unsuccessful else ""
    )


def _document(file: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as e:
        raise Usage(f"cannot read {file}: {e.strerror}") from e


def _content_type(document: bytes) -> str:
    return "application/json" if document.lstrip()[:1] == b"{" else "application/yaml"
