"""`wfhub project | pool | runner …`: what each command does. With --json one object a line, as the
API says it.
"""

import shlex
from typing import Any

from wfhub_client import limit_words, model_use, session
from wfhub_client.errors import Usage
from wfhub_client.text import one_line, print_one


def project_settings(
    *,
    limit: list[str] | None,
    default_limit: list[str] | None,
    budget: list[str] | None,
    cassette: str | None,
    mcp: list[str] | None,
    **plain: int | str | None,
) -> dict[str, Any]:
    """What was given of a project's settings, as the API takes it. Raises: Usage."""
    limits = {
        "max": limit_words.parse("--limit", limit or ()),
        "default": limit_words.parse("--default-limit", default_limit or ()),
    }
    given = {
        **plain,
        "budget": model_use.budget(budget),
        "cassette": model_use.cassette(cassette),
        "mcp": model_use.servers(mcp),
        "limits": {which: numbers for which, numbers in limits.items() if numbers} or None,
    }
    return {name: value for name, value in given.items() if value is not None}


def create_project(name: str, given: dict[str, Any], *, as_json: bool) -> None:
    with session.client() as client:
        found = client.create_project(name, **given)
    print_one(found, f"{found['project_id']}  {found['name']}", as_json=as_json)


def list_projects(*, as_json: bool) -> None:
    with session.client() as client:
        for found in client.projects():
            print_one(found, _limits(found), as_json=as_json)


def show_project(ref: str, *, as_json: bool) -> None:
    with session.client() as client:
        found = client.project(ref)
    print_one(found, _project(found), as_json=as_json)


def update_project(ref: str, changes: dict[str, Any], *, as_json: bool) -> None:
    if not changes:
        raise Usage(
            "say what to change: --running-limit, --weight, --queue-limit, --limit,"
            " --default-limit, --budget, --cassette, --mcp, --ci-files or --debuggers"
        )
    with session.client() as client:
        found = client.update_project(ref, changes)
    print_one(found, _project(found), as_json=as_json)


def list_pools(*, as_json: bool) -> None:
    with session.client() as client:
        for pool in client.pools():
            print_one(pool, _pool(pool), as_json=as_json)


def update_pool(
    name: str, running_limit: int | None, paused: bool | None, *, unlimited: bool, as_json: bool
) -> None:
    if unlimited and running_limit is not None:
        raise Usage("give --running-limit or --unlimited, not both")
    changes: dict[str, Any] = {} if paused is None else {"paused": paused}
    if unlimited or running_limit is not None:
        changes["running_limit"] = running_limit
    if not changes:
        raise Usage("say what to change: --running-limit, --unlimited, --pause or --resume")
    with session.client() as client:
        found = client.update_pool(name, changes)
    print_one(found, _pool(found), as_json=as_json)


def list_runners(*, as_json: bool) -> None:
    with session.client() as client:
        for runner in client.runners():
            print_one(runner, _runner(runner), as_json=as_json)


def drain_runner(runner_id: str, *, drain: bool, as_json: bool) -> None:
    with session.client() as client:
        found = client.drain_runner(runner_id, drain=drain)
    print_one(found, _runner(found), as_json=as_json)


def _limits(found: dict[str, Any]) -> str:
    state = "paused" if found["paused"] else "active"
    return (
        f"{found['project_id']}  {found['name']:<20}  {state:<8}"
        f"  runs at most {found['running_limit']}  queues at most {found['queue_limit']}"
        f"  weight {found['weight']}"
    )


def _project(found: dict[str, Any]) -> str:
    state = "paused" if found["paused"] else "active"
    return (
        f"{found['project_id']}  {found['name']}  {state}"
        f"  running {found['running']}/{found['running_limit']}"
        f"  queued {found['queued']}/{found['queue_limit']}  weight {found['weight']}"
        + "".join(f"  {what} {amount}" for what, amount in _set(found.get("budget", {})))
        + _model_use(found)
        + "".join(f"\n  {words}" for name, words in _ALLOWS.items() if found.get(name) == "allow")
        + "".join(
            f"\n  {which} {limit_words.shown(found['limits'][which])}"
            for which in ("default", "max")
            if found["limits"][which]
        )
    )


_ALLOWS = {
    "ci_files": "changed CI files are published unseen",
    "debuggers": "debuggers in its sandboxes",
}


def _model_use(found: dict[str, Any]) -> str:
    tape, servers = found.get("cassette"), found.get("mcp") or {}
    shown = f"  {tape['mode']} {tape['name']}" if tape else ""
    return shown + "".join(f"\n  mcp {n}: {shlex.join(s['argv'])}" for n, s in servers.items())


def _set(budget: dict[str, Any]) -> list[tuple[str, Any]]:
    return [(what, amount) for what, amount in budget.items() if amount is not None]


def _pool(found: dict[str, Any]) -> str:
    state = "paused" if found["paused"] else "active"
    limit = "" if found["running_limit"] is None else f"/{found['running_limit']}"
    return f"{found['pool']:<20}  {state:<8}  running {found['running']}{limit}"


def _runner(found: dict[str, Any]) -> str:
    labels = one_line(" ".join(found["labels"]), 60)
    return (
        f"{found['runner_id']}  {one_line(found['name'], 30):<16}  {found['state']:<8}"
        f"  running {found['running']}/{found['slots']}  pool {found.get('pool') or '?'}  {labels}"
    ).rstrip()
