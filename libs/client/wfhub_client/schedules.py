"""`wfhub schedule …`: what each command does. With --json one object a line, as the API says it."""

import json
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from wfhub_client import session
from wfhub_client.errors import Usage
from wfhub_client.text import one_line, print_one


def text_of_file(path: Path, option: str) -> str:
    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text()
    except OSError as e:
        raise Usage(f"{option}: cannot read {path}: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise Usage(f"{option}: {path} is not UTF-8 text") from e


def spec_of_file(path: Path) -> dict[str, Any]:
    text = text_of_file(path, "--file")
    try:
        spec = json.loads(text)
    except ValueError as e:
        raise Usage(f"--file: {path} is not JSON: {e}") from e
    if not isinstance(spec, dict):
        raise Usage(f"--file: {path} holds no JSON object")
    return spec


def put(name: str, spec: dict[str, Any], project: str, *, as_json: bool) -> None:
    with session.client() as client:
        found = client.put_schedule(name, spec, project=project)
    did = "made" if found["created"] else "changed" if found["changed"] else "as it was"
    print_one(found, f"{did}: {_state(found)}", as_json=as_json)


def list_(project: str | None, *, as_json: bool) -> None:
    with session.client() as client:
        for found in client.schedules(project=project):
            spec = found["spec"]
            when = f"{spec['cron']} {spec['time_zone']}"
            names = f"{one_line(found['project'], 20):<12}  {one_line(found['name'], 40):<20}"
            text = f"{found['schedule_id']}  {names}  {one_line(when, 60)}  {_state(found)}"
            print_one(found, text, as_json=as_json)


def show(name: str, project: str, *, as_json: bool) -> None:
    with session.client() as client:
        found = client.schedule(name, project=project)
    spec = found["spec"]
    lines = [
        f"schedule  {found['schedule_id']} {one_line(found['name'])}, version {found['version']}",
        f"    when  {one_line(spec['cron'])} {one_line(spec['time_zone'])}",
        f"  policy  overlap {spec['overlap']}, at most {spec['backfill_max']} made up for"
        + (f", up to {spec['jitter_s']} s later" if spec["jitter_s"] else ""),
        f"    next  {_state(found).removeprefix('next at ')}",
    ]
    for one in found["firings"]:
        named = (one["task_id"], one["task_state"], one["workflow_id"], one["workflow_state"])
        what = " ".join(filter(None, (*named, one["message"])))
        lines.append(f"  firing  {one['fire_at']} {one['outcome']} {one_line(what)}".rstrip())
    print_one(found, "\n".join(lines), as_json=as_json)


def next_(name: str, count: int, project: str, *, as_json: bool) -> None:
    with session.client() as client:
        found = client.next_instants(name, project=project, count=count)
    instants = [f"{one['local']}{_later(one)}" for one in found["firings"]]
    print_one(found, "\n".join(instants) or "none: it has ended", as_json=as_json)


def pause(name: str, project: str, *, paused: bool, as_json: bool) -> None:
    with session.client() as client:
        found = client.pause_schedule(name, paused=paused, project=project)
    print_one(found, _state(found), as_json=as_json)


def fire(name: str, key: str | None, project: str, *, as_json: bool) -> None:
    with session.client() as client:
        found = client.fire_schedule(name, project=project, idempotency_key=key)
    what = found["task_id"] or found["workflow_id"] or f"it waits ({found['reason']})"
    print_one(found, f"{found['outcome']}: {what}", as_json=as_json)


def delete(name: str, project: str, *, as_json: bool) -> None:
    with session.client() as client:
        client.delete_schedule(name, project=project)
    print_one({"deleted": name}, f"{name}: deleted", as_json=as_json)


def _state(found: dict[str, Any]) -> str:
    if found["paused"]:
        return "paused"
    return f"next at {found['next_fire_at']}" if found["next_fire_at"] else "ended"


def _later(one: dict[str, Any]) -> str:
    """How much its jitter puts it off."""
    by = datetime.fromisoformat(one["due_at"]) - datetime.fromisoformat(one["fire_at"])
    return f"  + {by.total_seconds():.0f} s" if by else ""
