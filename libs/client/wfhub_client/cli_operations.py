"""`wfhub project | pool | runner`: options and help only; the work is in operations.py."""

from collections.abc import Callable
from functools import wraps
from inspect import Signature, signature
from typing import Annotated, Any

import typer

project_app = typer.Typer(no_args_is_help=True, help="Projects: limits, shares, pauses.")
pool_app = typer.Typer(no_args_is_help=True, help="Pools of runners.")
runner_app = typer.Typer(no_args_is_help=True, help="Runners.")

Project = Annotated[str, typer.Argument(metavar="PROJECT", help="A name or an id.")]
Pool = Annotated[str, typer.Argument(metavar="POOL")]
RunnerId = Annotated[str, typer.Argument(metavar="ID", help="As `wfhub runner list` says.")]
RunningLimit = Annotated[int | None, typer.Option(min=1, help="Tasks at work at once.")]
Weight = Annotated[int | None, typer.Option(min=1, help="Its share of the runners.")]
QueueLimit = Annotated[int | None, typer.Option(min=1, help="Tasks that may wait.")]
Most = Annotated[
    list[str] | None,
    typer.Option(
        "--limit",
        metavar="NAME=MAX",
        help="The most that a task may ask for: cpu, memory, disk, processes, run_s, idle_s,"
        " verify_s, setup_s, file, output, open_files; memory=4GiB, none to take it away."
        " Repeatable.",
    ),
]
Default = Annotated[
    list[str] | None,
    typer.Option(
        "--default-limit", metavar="NAME=NUMBER", help="For what a task does not say. Repeatable."
    ),
]
Budget = Annotated[
    list[str] | None,
    typer.Option(
        metavar="WHAT=AMOUNT",
        help="Of model use, may be given again: tokens, usd, requests, wall_s, each also with"
        " _per_day; requests_per_minute, tokens_per_minute. Takes the place of the one before;"
        " `none` takes it away.",
    ),
]
CassetteOption = Annotated[
    str | None,
    typer.Option(
        "--cassette",
        metavar="MODE=NAME",
        help="record=NAME or replay=NAME, for tasks that name none; `none` takes it away.",
    ),
]
McpOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=COMMAND",
        help="An MCP server for its agents, started in their sandbox; may be given again. Takes the"
        " place of those before; `none` takes them away.",
    ),
]
CiFiles = Annotated[
    str | None,
    typer.Option(
        metavar="review|allow",
        help="Of a result that changes CI files: a person approves it first (review), or it is"
        " published like any other (allow).",
    ),
]
Debuggers = Annotated[
    str | None,
    typer.Option(
        metavar="refuse|allow",
        help="Whether programs in its sandboxes may trace each other, as gdb and strace do.",
    ),
]
Paused = Annotated[bool | None, typer.Option("--pause/--resume", help="Start nothing new.")]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


def _project_settings(
    running_limit: RunningLimit = None,
    weight: Weight = None,
    queue_limit: QueueLimit = None,
    limit: Most = None,
    default_limit: Default = None,
    budget: Budget = None,
    cassette: CassetteOption = None,
    mcp: McpOption = None,
    ci_files: CiFiles = None,
    debuggers: Debuggers = None,
) -> dict[str, Any]:
    from wfhub_client import operations

    return operations.project_settings(
        limit=limit,
        default_limit=default_limit,
        budget=budget,
        cassette=cassette,
        mcp=mcp,
        running_limit=running_limit,
        weight=weight,
        queue_limit=queue_limit,
        ci_files=ci_files,
        debuggers=debuggers,
    )


def _with_project_settings(command: Callable[..., None]) -> Callable[..., None]:
    """`command` with the options of _project_settings before its last, and called with what was
    given of them as `given`."""
    own, shared = signature(command).parameters, signature(_project_settings).parameters
    *before, last = (each for name, each in own.items() if name != "given")
    parameters = [*before, *shared.values(), last]

    @wraps(command)
    def with_options(**values: Any) -> None:
        given = _project_settings(**{name: values.pop(name) for name in shared})
        command(**values, given=given)

    with_options.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    with_options.__annotations__ = {each.name: each.annotation for each in parameters}
    return with_options


@project_app.command("create")
@_with_project_settings
def project_create(name: str, given: dict[str, Any], as_json: Json = False) -> None:
    """Make a project."""
    from wfhub_client import operations

    operations.create_project(name, given, as_json=as_json)


@project_app.command("list")
def project_list(as_json: Json = False) -> None:
    """List projects with their limits."""
    from wfhub_client import operations

    operations.list_projects(as_json=as_json)


@project_app.command("show")
def project_show(project: Project, as_json: Json = False) -> None:
    """Show a project's limits, what runs and what waits."""
    from wfhub_client import operations

    operations.show_project(project, as_json=as_json)


@project_app.command("update")
@_with_project_settings
def project_update(project: Project, given: dict[str, Any], as_json: Json = False) -> None:
    """Change what is given."""
    from wfhub_client import operations

    operations.update_project(project, given, as_json=as_json)


@project_app.command("pause")
def project_pause(project: Project, as_json: Json = False) -> None:
    """Start nothing new of it. What runs goes on, and what was won is published."""
    from wfhub_client import operations

    operations.update_project(project, {"paused": True}, as_json=as_json)


@project_app.command("resume")
def project_resume(project: Project, as_json: Json = False) -> None:
    """Go on after a pause."""
    from wfhub_client import operations

    operations.update_project(project, {"paused": False}, as_json=as_json)


@pool_app.command("list")
def pool_list(as_json: Json = False) -> None:
    """List pools with what runs in them."""
    from wfhub_client import operations

    operations.list_pools(as_json=as_json)


@pool_app.command("update")
def pool_update(
    pool: Pool,
    running_limit: RunningLimit = None,
    unlimited: Annotated[bool, typer.Option("--unlimited", help="Take the limit away.")] = False,
    paused: Paused = None,
    as_json: Json = False,
) -> None:
    """Change what is given; a pool that no task named yet is made."""
    from wfhub_client import operations

    operations.update_pool(pool, running_limit, paused, unlimited=unlimited, as_json=as_json)


@runner_app.command("list")
def runner_list(as_json: Json = False) -> None:
    """List runners: active, draining or lost, and what they hold."""
    from wfhub_client import operations

    operations.list_runners(as_json=as_json)


@runner_app.command("drain")
def runner_drain(
    runner_id: RunnerId,
    undo: Annotated[bool, typer.Option("--undo", help="Give it work again.")] = False,
    as_json: Json = False,
) -> None:
    """Give a runner nothing new; it ends what it has."""
    from wfhub_client import operations

    operations.drain_runner(runner_id, drain=not undo, as_json=as_json)
