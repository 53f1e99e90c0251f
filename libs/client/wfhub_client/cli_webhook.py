"""`wfhub webhook`: options and help only; the work is in webhook_commands.py."""

from typing import Annotated

import typer

webhook_app = typer.Typer(no_args_is_help=True, help="Events for other systems, by HTTP.")

WebhookId = Annotated[str, typer.Argument(metavar="ID", help="A webhook's id, whk_…")]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


@webhook_app.command()
def add(
    url: Annotated[str, typer.Argument(metavar="URL", help="Events are POSTed there.")],
    project: Annotated[str | None, typer.Option(help="A name or an id; all if not given.")] = None,
    event: Annotated[
        list[str] | None, typer.Option(help="A type, or `task.*`; may be given again.")
    ] = None,
    after: Annotated[
        str | None, typer.Option(metavar="GEN-POS", help="Begin behind this event, not now.")
    ] = None,
    key: Annotated[str | None, typer.Option(help="The same key again is the same one.")] = None,
    as_json: Json = False,
) -> None:
    """Have events sent; prints its id and, this once, the secret that signs them."""
    from wfhub_client import webhook_commands

    webhook_commands.add(url, project, event, after, key, as_json=as_json)


@webhook_app.command("list")
def list_(
    project: Annotated[str | None, typer.Option(help="A name or an id.")] = None,
    as_json: Json = False,
) -> None:
    """List webhooks, newest first."""
    from wfhub_client import webhook_commands

    webhook_commands.list_(project, as_json=as_json)


@webhook_app.command()
def show(webhook_id: WebhookId, as_json: Json = False) -> None:
    """Show one: how far it has come, and what keeps it."""
    from wfhub_client import webhook_commands

    webhook_commands.show(webhook_id, as_json=as_json)


@webhook_app.command()
def pause(webhook_id: WebhookId, as_json: Json = False) -> None:
    """Send nothing until it is resumed."""
    from wfhub_client import webhook_commands

    webhook_commands.change(webhook_id, "pause", as_json=as_json)


@webhook_app.command()
def resume(webhook_id: WebhookId, as_json: Json = False) -> None:
    """Go on where it was, paused or disabled."""
    from wfhub_client import webhook_commands

    webhook_commands.change(webhook_id, "resume", as_json=as_json)


@webhook_app.command()
def rotate(
    webhook_id: WebhookId,
    overlap_s: Annotated[
        int | None,
        typer.Option("--overlap-s", min=0, help="For so long the old one signs too; a day."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a new secret and print it, this once."""
    from wfhub_client import webhook_commands

    webhook_commands.rotate(webhook_id, overlap_s, as_json=as_json)


@webhook_app.command("test")
def send_test(webhook_id: WebhookId, as_json: Json = False) -> None:
    """Send a test event now; exit code 1 if it was not taken."""
    from wfhub_client import webhook_commands

    raise typer.Exit(webhook_commands.send_test(webhook_id, as_json=as_json))


@webhook_app.command()
def remove(webhook_id: WebhookId, as_json: Json = False) -> None:
    """Delete one."""
    from wfhub_client import webhook_commands

    webhook_commands.remove(webhook_id, as_json=as_json)
