"""`wfhub logs --events`: what an agent says it did, from the artifact agent.events.jsonl."""

import json
import sys
from typing import Any

from wfhub_client.errors import Usage
from wfhub_client.session import connected
from wfhub_client.text import one_line, safe

ARTIFACT = "agent.events.jsonl"
SHOWN_CHARS_MAX = 300


def show(task_id: str, attempt: str | None, *, as_json: bool) -> None:
    """Of the latest attempt, or of that with the number or id `attempt`."""
    with connected() as session:
        attempts = session.client.get(task_id).raw.get("attempts") or []
        found = chosen([a for a in attempts if a["kind"] == "agent"], attempt)
        if not any(kept["name"] == ARTIFACT for kept in found.get("artifacts") or []):
            raise Usage(
                f"attempt {found['number']} has no events: it has not ended, or its agent prints"
                " none that are known; see `wfhub logs`"
            )
        content = session.client.artifact(task_id, found["attempt_id"], ARTIFACT)
    for raw in content.decode(errors="replace").splitlines():
        print(safe(raw) if as_json else line_of(json.loads(raw)))


def line_of(event: dict[str, Any]) -> str:
    kind = event.get("event", "")
    match kind:
        case "step":
            text = str(event.get("number", ""))
        case "tool-call":
            text = f"{event.get('name', '')} {event.get('arguments', '')}"
        case "tool-result":
            text = f"{'ok' if event.get('ok') else 'failed'} {event.get('text', '')}"
        case "usage":
            text = f"{event.get('input_tokens')} in, {event.get('output_tokens')} out"
        case _:
            text = event.get("text", "")
    return f"{one_line(kind, 20):<12}  {one_line(text, SHOWN_CHARS_MAX)}"


def chosen(attempts: list[dict[str, Any]], wanted: str | None) -> dict[str, Any]:
    attempt: dict[str, Any]
    for attempt in reversed(attempts):
        if wanted in (None, attempt["attempt_id"], str(attempt["number"])):
            return attempt
    raise Usage("the task has no such attempt" if wanted else "the task has no attempt yet")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
