"""`wfhub workflow`: options and help only; the work is in workflows.py, imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

workflow_app = typer.Typer(no_args_is_help=True, help="Graphs of tasks, submitted as one document.")

WorkflowId = Annotated[str, typer.Argument(metavar="ID", help="A workflow's id, wfl_…")]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


@workflow_app.command()
def submit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON or YAML; `-` is stdin.")],
    project: Annotated[str, typer.Option(help="A name or an id.")] = "default",
    key: Annotated[
        str | None, typer.Option(help="The same key and document again is the same workflow.")
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until it ended; exit code 0 only if it succeeded.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Submit a workflow."""
    from wfhub_client import workflows

    raise typer.Exit(workflows.submit(file, project, key, wait=wait, as_json=as_json))


@workflow_app.command()
def show(workflow_id: WorkflowId, as_json: Json = False) -> None:
    """Show a workflow and its tasks."""
    from wfhub_client import workflows

    workflows.show(workflow_id, as_json=as_json)


@workflow_app.command()
def document(workflow_id: WorkflowId) -> None:
    """Print the document as it was submitted, as JSON: to submit it again."""
    from wfhub_client import workflows

    workflows.document(workflow_id)


@workflow_app.command("list")
def list_(
    project: Annotated[str | None, typer.Option(help="A name or an id.")] = None,
    state: Annotated[list[str] | None, typer.Option(help="May be given again.")] = None,
    limit: Annotated[int, typer.Option(min=1)] = 50,
    as_json: Json = False,
) -> None:
    """List workflows, newest first."""
    from wfhub_client import workflows

    workflows.list_(project, state or [], limit, as_json=as_json)


@workflow_app.command()
def cancel(workflow_id: WorkflowId, as_json: Json = False) -> None:
    """Cancel all its tasks that have not ended."""
    from wfhub_client import workflows

    workflows.cancel(workflow_id, as_json=as_json)
