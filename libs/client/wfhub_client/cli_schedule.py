"""`wfhub schedule`: options and help only; the work is in schedules.py, imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

from wfhub_client.errors import Usage

schedule_app = typer.Typer(no_args_is_help=True, help="Tasks and workflows at given times.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="Its name, or its id: sch_…")]
Project = Annotated[str, typer.Option(help="A name or an id.")]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


@schedule_app.command()
def put(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    file: Annotated[
        Path | None,
        typer.Option(help="The whole schedule as JSON; `-` reads it from stdin."),
    ] = None,
    cron: Annotated[
        str | None, typer.Option(help="Five fields as in cron, @daily …, or @every 15m.")
    ] = None,
    time_zone: Annotated[
        str | None, typer.Option(help="An IANA name such as Europe/Berlin; UTC if not given.")
    ] = None,
    jitter_s: Annotated[
        int | None, typer.Option("--jitter-s", min=0, help="At most so many seconds later.")
    ] = None,
    overlap: Annotated[
        str | None, typer.Option(help="While one is at work: skip, queue or replace.")
    ] = None,
    backfill_max: Annotated[
        int | None, typer.Option(min=0, help="Instants missed in an outage to make up for.")
    ] = None,
    starts_at: Annotated[str | None, typer.Option(help="RFC 3339, with its offset.")] = None,
    ends_at: Annotated[str | None, typer.Option(help="RFC 3339, with its offset.")] = None,
    workflow: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Starts this workflow, JSON or YAML; `-` is stdin."),
    ] = None,
    repo: Annotated[str | None, typer.Option(help="As of `wfhub run`.")] = None,
    prompt: Annotated[str, typer.Option(help="As of `wfhub run`: a text, or @FILE.")] = "",
    agent: Annotated[str | None, typer.Option(help="As of `wfhub run`.")] = None,
    agent_cmd: Annotated[
        str | None, typer.Option(metavar="ARGV", help="As of `wfhub run`.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="As of `wfhub run`.")] = None,
    verify: Annotated[
        list[str] | None, typer.Option(metavar="CMD", help="As of `wfhub run`.")
    ] = None,
    base: Annotated[str | None, typer.Option(metavar="REF", help="As of `wfhub run`.")] = None,
    title: Annotated[str, typer.Option(help="A name for lists.")] = "",
    attempts: Annotated[int, typer.Option(min=1, max=20)] = 1,
    timeout_s: Annotated[int | None, typer.Option("--timeout-s", min=1)] = None,
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Make a schedule, or make it so. What is not given has its default again."""
    from wfhub_client import run_spec, schedules

    if file is not None:
        if cron is not None or repo is not None or workflow is not None:
            raise Usage("--file has the whole schedule: give it alone")
        schedules.put(name, schedules.spec_of_file(file), project, as_json=as_json)
        return
    if cron is None or (repo is None) == (workflow is None):
        raise Usage("give --cron and --repo, or --cron and --workflow, or --file")
    what: dict[str, object]
    if workflow is not None:
        what = {"workflow": schedules.text_of_file(workflow, "--workflow")}
    else:
        assert repo is not None
        what = {
            "task": run_spec.task_spec(
                repo=run_spec.repo_of(repo),
                prompt=run_spec.prompt_of(prompt),
                agent=run_spec.agent_of(agent, agent_cmd, model),
                verify=verify or [],
                verify_base=False,
                base=base,
                attempts=attempts,
                timeout_s=timeout_s,
                title=title,
            )
        }
    given = {
        "time_zone": time_zone,
        "jitter_s": jitter_s,
        "overlap": overlap,
        "backfill_max": backfill_max,
        "starts_at": starts_at,
        "ends_at": ends_at,
    }
    spec = {"cron": cron, **what, **{k: v for k, v in given.items() if v is not None}}
    schedules.put(name, spec, project, as_json=as_json)


@schedule_app.command("list")
def list_(
    project: Annotated[str | None, typer.Option(help="A name or an id.")] = None,
    as_json: Json = False,
) -> None:
    """List schedules by name."""
    from wfhub_client import schedules

    schedules.list_(project, as_json=as_json)


@schedule_app.command()
def show(name: Name, project: Project = "default", as_json: Json = False) -> None:
    """Show a schedule and what became of its latest instants."""
    from wfhub_client import schedules

    schedules.show(name, project, as_json=as_json)


@schedule_app.command("next")
def next_(
    name: Name,
    count: Annotated[int, typer.Option("--count", "-n", min=1, max=100)] = 10,
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Show the next instants, in the schedule's time zone."""
    from wfhub_client import schedules

    schedules.next_(name, count, project, as_json=as_json)


@schedule_app.command()
def pause(name: Name, project: Project = "default", as_json: Json = False) -> None:
    """Fire nothing until it is resumed."""
    from wfhub_client import schedules

    schedules.pause(name, project, paused=True, as_json=as_json)


@schedule_app.command()
def resume(name: Name, project: Project = "default", as_json: Json = False) -> None:
    """Fire again, from the next instant on."""
    from wfhub_client import schedules

    schedules.pause(name, project, paused=False, as_json=as_json)


@schedule_app.command()
def fire(
    name: Name,
    key: Annotated[str | None, typer.Option(help="The same key again is the same firing.")] = None,
    project: Project = "default",
    as_json: Json = False,
) -> None:
    """Start its task or workflow now."""
    from wfhub_client import schedules

    schedules.fire(name, key, project, as_json=as_json)


@schedule_app.command()
def delete(name: Name, project: Project = "default", as_json: Json = False) -> None:
    """Delete it with its history; its tasks stay and go on."""
    from wfhub_client import schedules

    schedules.delete(name, project, as_json=as_json)
