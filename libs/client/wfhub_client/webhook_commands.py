"""`wfhub webhook …`: what each command does. With --json one object a line, as the API says it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from wfhub_client.session import connected
from wfhub_client.text import one_line, print_one
from wfhub_client.webhooks import WebhookCalls

SHOWN = (
    "webhook_id",
    "project",
    "url",
    "state",
    "reason",
    "position",
    "failures",
    "failing_since",
    "next_try_at",
    "last_outcome",
    "last_status",
    "last_at",
    "note",
    "secret_before_until",
    "created_by",
    "created_at",
)


def add(
    url: str,
    project: str | None,
    events: list[str] | None,
    after: str | None,
    key: str | None,
    *,
    as_json: bool,
) -> None:
    with _calls() as calls:
        made = calls.create(url, project=project, events=events, after=after, idempotency_key=key)
    print_one(made, f"{made['webhook_id']}\n{_secret(made)}", as_json=as_json)


def list_(project: str | None, *, as_json: bool) -> None:
    with _calls() as calls:
        for hook in calls.list(project=project):
            print_one(hook, _line(hook), as_json=as_json)


def show(webhook_id: str, *, as_json: bool) -> None:
    with _calls() as calls:
        hook = calls.get(webhook_id)
    lines = [
        f"{name:>19}  {one_line(hook[name], 2100)}" for name in SHOWN if hook[name] is not None
    ]
    lines.append(f"{'events':>19}  {one_line(' '.join(hook['events']), 4000)}")
    print_one(hook, "\n".join(lines), as_json=as_json)


def change(webhook_id: str, what: str, *, as_json: bool) -> None:
    """`what`: pause or resume."""
    with _calls() as calls:
        hook = (calls.pause if what == "pause" else calls.resume)(webhook_id)
    print_one(hook, _line(hook), as_json=as_json)


def rotate(webhook_id: str, overlap_s: int | None, *, as_json: bool) -> None:
    with _calls() as calls:
        made = calls.rotate(webhook_id, overlap_s=overlap_s)
    until = made["secret_before_until"]
    beside = f"\nthe old one signs too until {until}" if until else ""
    print_one(made, f"{_secret(made)}{beside}", as_json=as_json)


def send_test(webhook_id: str, *, as_json: bool) -> int:
    """1: it was not taken."""
    with _calls() as calls:
        told = calls.test(webhook_id)
    said = " ".join(str(told[name]) for name in ("outcome", "status", "why") if told[name])
    print_one(told, one_line(said, 500), as_json=as_json)
    return 0 if told["outcome"] == "delivered" else 1


def remove(webhook_id: str, *, as_json: bool) -> None:
    with _calls() as calls:
        calls.delete(webhook_id)
    print_one({"deleted": webhook_id}, f"{webhook_id}: deleted", as_json=as_json)


def _line(hook: dict[str, Any]) -> str:
    state = f"{hook['state']} ({hook['reason']})" if hook["reason"] else hook["state"]
    if hook["failures"]:
        state += f", {hook['failures']} failures ({hook['last_status'] or hook['last_outcome']})"
    project = one_line(hook["project"] or "(all)", 20)
    text = f"{hook['webhook_id']}  {project:<12}  {hook['position']:<10}  {one_line(state, 200)}"
    return f"{text}  {one_line(hook['url'], 200)}"


def _secret(made: dict[str, Any]) -> str:
    return made["secret"] or "(this key had made it before: its secret is not shown again)"


@contextmanager
def _calls() -> Iterator[WebhookCalls]:
    with connected() as session:
        yield session.client.webhooks
