"""`wfhub dead-letter`: options and help only; the work is in dead_letters.py."""

from typing import Annotated

import typer

dead_letter_app = typer.Typer(
    no_args_is_help=True, help="What failed again and again and was put aside."
)

DeadLetterId = Annotated[str, typer.Argument(metavar="ID", help="A dead letter's id, dlt_…")]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


@dead_letter_app.command("list")
def dead_letter_list(
    state: Annotated[str | None, typer.Option(help="open, replayed or discarded.")] = "open",
    every: Annotated[bool, typer.Option("--all", help="Those decided as well.")] = False,
    source: Annotated[str | None, typer.Option(help="rpc, seal, ingest, …")] = None,
    limit: Annotated[int, typer.Option(min=1)] = 50,
    as_json: Json = False,
) -> None:
    """List dead letters, newest first."""
    from wfhub_client import dead_letters

    dead_letters.list_(None if every else state, source, limit, as_json=as_json)


@dead_letter_app.command("show")
def dead_letter_show(dead_letter_id: DeadLetterId, as_json: Json = False) -> None:
    """Show one with what it holds."""
    from wfhub_client import dead_letters

    dead_letters.show(dead_letter_id, as_json=as_json)


@dead_letter_app.command("replay")
def dead_letter_replay(dead_letter_id: DeadLetterId, as_json: Json = False) -> None:
    """Do again what failed, once."""
    from wfhub_client import dead_letters

    dead_letters.decide(dead_letter_id, "replay", as_json=as_json)


@dead_letter_app.command("discard")
def dead_letter_discard(dead_letter_id: DeadLetterId, as_json: Json = False) -> None:
    """Close it without a replay."""
    from wfhub_client import dead_letters

    dead_letters.decide(dead_letter_id, "discard", as_json=as_json)
