"""`wfhub`: the command line. Options and help only; each command's work is imported when it runs.

Exit codes: 0 done (of `run`: the task succeeded); 1 it failed, was cancelled or was refused;
2 the call cannot be right; 3 the service cannot be reached; 130 left with Ctrl-C.
More commands come from the entry point group `wfhub.commands`.
"""

import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from wfhub_client.cli_dead_letter import dead_letter_app
from wfhub_client.cli_operations import pool_app, project_app, runner_app
from wfhub_client.cli_proof import proof_app
from wfhub_client.cli_schedule import schedule_app
from wfhub_client.cli_token import token_app
from wfhub_client.cli_webhook import webhook_app
from wfhub_client.cli_workflow import workflow_app
from wfhub_client.commands import Commands
from wfhub_client.errors import ClientError, Refused, Unreachable, Usage

app = typer.Typer(
    cls=Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Run coding agents on git repositories; get back branches with signed proofs.",
)
app.add_typer(project_app, name="project")
app.add_typer(pool_app, name="pool")
app.add_typer(runner_app, name="runner")
app.add_typer(proof_app, name="proof")
app.add_typer(dead_letter_app, name="dead-letter")
app.add_typer(schedule_app, name="schedule")
app.add_typer(workflow_app, name="workflow")
app.add_typer(webhook_app, name="webhook")
app.add_typer(token_app, name="token")

TaskId = Annotated[str, typer.Argument(metavar="ID", help="A task's id, tsk_…")]
Detach = Annotated[bool, typer.Option("--detach", help="Submit, print the id, do not wait.")]
ResultAsJson = Annotated[
    bool, typer.Option("--json", help="The result as the last line of stdout.")
]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]
_USAGE_STATUSES = (401, 413, 422)


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"wfhub {version('workflow-hub')}")
        raise typer.Exit


@app.callback()
def root(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_show_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


@app.command()
def run(
    repo: Annotated[
        str,
        typer.Option(help="A folder, a URL, or mount:PATH or directory:PATH of the runner's."),
    ],
    prompt: Annotated[str, typer.Option(help="What to do: a text, or @FILE.")] = "",
    agent: Annotated[str | None, typer.Option(help="An agent that the runner knows.")] = None,
    agent_cmd: Annotated[
        str | None, typer.Option(metavar="ARGV", help="A command to run as the agent.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="The model to ask for.")] = None,
    verify: Annotated[
        list[str] | None,
        typer.Option(metavar="CMD", help="A check on a clean checkout; may be given again."),
    ] = None,
    verify_base: Annotated[
        bool, typer.Option("--verify-base", help="Run the checks before the work too.")
    ] = False,
    base: Annotated[str | None, typer.Option(metavar="REF", help="Start here, not HEAD.")] = None,
    project: Annotated[str, typer.Option()] = "default",
    title: Annotated[str, typer.Option(help="A name for lists.")] = "",
    attempts: Annotated[int, typer.Option(min=1, max=20, help="Tries before giving up.")] = 1,
    timeout_s: Annotated[
        int | None, typer.Option("--timeout-s", min=1, help="Seconds for the agent's work.")
    ] = None,
    priority: Annotated[
        int | None, typer.Option(min=-100, max=100, help="Before others of its project.")
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option(help="Its runner has it; may be given again.")
    ] = None,
    egress: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST:PORT",
            help="The agent may connect there, if the runner lets it; may be given again.",
        ),
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="What sandboxes are made of, if the runner has it.")
    ] = None,
    setup: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CMD",
            help="Run before the agent, kept for later attempts; may be given again.",
        ),
    ] = None,
    setup_egress: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="--setup may connect there; may be given again."),
    ] = None,
    budget: Annotated[
        list[str] | None,
        typer.Option(
            metavar="WHAT=AMOUNT",
            help="Of model use, all attempts together: tokens, usd, requests or wall_s.",
        ),
    ] = None,
    cassette: Annotated[
        str | None,
        typer.Option(metavar="MODE=NAME", help="record=NAME or replay=NAME of the project."),
    ] = None,
    mcp: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=COMMAND", help="An MCP server for the agent; may be given again."
        ),
    ] = None,
    pool: Annotated[str | None, typer.Option(help="Whose runners work on it.")] = None,
    run_at: Annotated[str | None, typer.Option(help="Not before: RFC 3339, or local time.")] = None,
    deadline: Annotated[str | None, typer.Option(help="Not published if won later.")] = None,
    queue_timeout_s: Annotated[
        int | None, typer.Option("--queue-timeout-s", min=1, help="Longest wait for a runner.")
    ] = None,
    review_s: Annotated[
        int | None,
        typer.Option(
            "--review-s", min=1, help="Publish only what is approved so soon (wfhub approve)."
        ),
    ] = None,
    idle_timeout_s: Annotated[
        int | None, typer.Option("--idle-timeout-s", min=1, help="Longest silence of the agent.")
    ] = None,
    limit: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=NUMBER", help="cpu=1.5, memory=2GiB, …; may be given again."),
    ] = None,
    retry_on: Annotated[
        list[str] | None, typer.Option(help="A reason to try again; may be given again.")
    ] = None,
    backoff_s: Annotated[
        float | None, typer.Option("--backoff-s", min=0, help="Before the second try; doubles.")
    ] = None,
    pull_request: Annotated[
        bool, typer.Option("--pull-request", help="Open one from the published branch.")
    ] = False,
    target: Annotated[
        str | None, typer.Option(help="Where it is to be merged; the default branch if not given.")
    ] = None,
    draft: Annotated[bool, typer.Option("--draft", help="As a draft.")] = False,
    apply: Annotated[
        bool, typer.Option("--apply", help="Write the result into the runner's folder too.")
    ] = False,
    detach: Detach = False,
    as_json: ResultAsJson = False,
) -> None:
    """Have an agent do a task, check it, and publish a branch with a proof."""
    from wfhub_client import limit_words, run_spec
    from wfhub_client.run import run as run_task

    spec = run_spec.task_spec(
        repo=run_spec.repo_of(repo),
        prompt=run_spec.prompt_of(prompt),
        agent=run_spec.agent_of(agent, agent_cmd, model),
        verify=verify or [],
        verify_base=verify_base,
        base=base,
        attempts=attempts,
        timeout_s=timeout_s,
        title=title,
    )
    run_spec.add_conditions(
        spec,
        priority=priority,
        labels=label,
        egress=egress,
        image=image,
        setup=setup,
        setup_egress=setup_egress,
        pool=pool,
        run_at=run_spec.instant_of("--run-at", run_at),
        deadline_at=run_spec.instant_of("--deadline", deadline),
        queue_s=queue_timeout_s,
        review_s=review_s,
        idle_s=idle_timeout_s,
        retry_on=retry_on,
        backoff_s=backoff_s,
    )
    if limit:
        spec.setdefault("limits", {}).update(limit_words.parse("--limit", limit))
    run_spec.add_model_use(spec, budget=budget, cassette=cassette, mcp=mcp)
    run_spec.add_pull_request(spec, pull_request, target=target, draft=draft)
    if apply:
        spec["apply"] = True
    if not spec["prompt"] and "argv" not in spec["agent"]:
        raise Usage("--prompt: say what is to be done")
    work = run_task(lambda c: c.submit(spec, project=project), detach=detach, as_json=as_json)
    raise typer.Exit(work)


@app.command()
def retry(
    task_id: TaskId,
    detach: Detach = False,
    as_json: ResultAsJson = False,
) -> None:
    """Submit a task that has ended again, as a new one, and follow it as `run` does."""
    from wfhub_client.run import run as run_task

    raise typer.Exit(run_task(lambda c: c.retry(task_id), detach=detach, as_json=as_json))


@app.command()
def status(
    task_id: Annotated[str | None, typer.Argument(metavar="[ID]")] = None, as_json: Json = False
) -> None:
    """Show a task with its attempts, or every task that has not ended."""
    from wfhub_client import look

    look.status(task_id, as_json=as_json)


@app.command("list")
def list_(
    project: Annotated[str | None, typer.Option(help="A name or an id.")] = None,
    state: Annotated[list[str] | None, typer.Option(help="May be given again.")] = None,
    workflow: Annotated[
        str | None, typer.Option(metavar="ID", help="Only those of a workflow, wfl_…")
    ] = None,
    limit: Annotated[int, typer.Option(min=1)] = 50,
    as_json: Json = False,
) -> None:
    """List tasks, newest first. Of a state with a * `wfhub status ID` says why."""
    from wfhub_client import look

    look.list_(project, state or [], workflow, limit, as_json=as_json)


@app.command()
def logs(
    task_id: TaskId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Until the task ended.")] = False,
    attempt: Annotated[str | None, typer.Option(help="Its number or id.")] = None,
    as_events: Annotated[
        bool, typer.Option("--events", help="What the agent says it did, once it has ended.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Of --events: as JSON.")] = False,
) -> None:
    """Show what the agent and the checks printed."""
    from wfhub_client import agent_events, look

    if as_events:
        agent_events.show(task_id, attempt, as_json=as_json)
        return
    if as_json:
        raise Usage("--json: a log is text; --events --json has what the agent says it did")
    look.logs(task_id, attempt, follow=follow)


@app.command()
def artifacts(
    task_id: TaskId,
    name: Annotated[str | None, typer.Argument(help="Print this one.")] = None,
    attempt: Annotated[str | None, typer.Option(help="Its number or id.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", dir_okay=False)] = None,
    as_json: Json = False,
) -> None:
    """List what an attempt left, its exchanges with models too; or fetch one of it."""
    from wfhub_client import artifacts as work

    work.show(task_id, name, attempt, output, as_json=as_json)


@app.command()
def events(
    task_id: TaskId,
    follow: Annotated[bool, typer.Option(help="Until the task ended.")] = True,
    after: Annotated[str | None, typer.Option(metavar="GEN-POS")] = None,
    as_json: Json = False,
) -> None:
    """Show what happened to a task, step by step."""
    from wfhub_client import look

    look.events(task_id, after, follow=follow, as_json=as_json)


@app.command()
def cancel(task_id: TaskId) -> None:
    """Ask for a task's end."""
    from wfhub_client import look

    look.cancel(task_id)


@app.command()
def approve(
    task_id: TaskId, comment: Annotated[str, typer.Option(help="Kept with the decision.")] = ""
) -> None:
    """Have the result of a task in review published."""
    from wfhub_client import look

    look.review(task_id, "approved", comment)


@app.command()
def decline(
    task_id: TaskId, comment: Annotated[str, typer.Option(help="Why; kept with the task.")] = ""
) -> None:
    """End a task in review without publishing its result."""
    from wfhub_client import look

    look.review(task_id, "declined", comment)


@app.command()
def tell(
    task_id: TaskId,
    text: Annotated[str, typer.Argument(metavar="TEXT", help="What its agent is to know.")],
) -> None:
    """Say something to the agent that works on a task."""
    from wfhub_client import look

    look.tell(task_id, text)


@app.command("hand-in")
def hand_in(task_id: TaskId) -> None:
    """Have the agent stop; what it has is verified and published."""
    from wfhub_client import look

    look.hand_in(task_id)


def main() -> NoReturn:
    try:
        app(prog_name="wfhub")
    except Usage as e:
        _leave(2, str(e))
    except Unreachable as e:
        _leave(3, str(e))
    except Refused as e:
        hint = "; set WFHUB_TOKEN or WFHUB_TOKEN_FILE" if e.status == 401 else ""
        _leave(2 if e.status in _USAGE_STATUSES else 1, f"{e}{hint}")
    except ClientError as e:
        _leave(1, str(e))
    raise AssertionError("typer exits by itself")


def _leave(code: int, message: str) -> NoReturn:
    from wfhub_client.text import one_line

    print(f"wfhub: {one_line(message, 2000)}", file=sys.stderr)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
