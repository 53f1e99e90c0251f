"""`wfhub token`: tokens for others. Options, help and work: each is one call."""

import json
from typing import Annotated

import typer

token_app = typer.Typer(
    no_args_is_help=True,
    help="API tokens: made, listed and revoked with the admin's own. Each opens every project.",
)

Json = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


@token_app.command()
def new(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="What reviews and the log call who has it.")
    ],
    as_json: Json = False,
) -> None:
    """Make one; prints its id and, this once, the token."""
    from wfhub_client.session import connected

    with connected() as session:
        made = session.client.create_token(name)
    print(json.dumps(made) if as_json else f"{made['token_id']}\n{made['token']}")


@token_app.command("list")
def list_(as_json: Json = False) -> None:
    """List those that are live."""
    from wfhub_client.session import connected
    from wfhub_client.text import one_line

    with connected() as session:
        for one in session.client.tokens():
            text = f"{one['token_id']}  {one['created_at']}  {one_line(one['name'])}"
            print(json.dumps(one) if as_json else text)


@token_app.command()
def revoke(
    token_id: Annotated[str, typer.Argument(metavar="ID", help="A token's id, tok_…")],
) -> None:
    """End one: it opens nothing any more."""
    from wfhub_client.session import connected

    with connected() as session:
        session.client.revoke_token(token_id)
    print(f"{token_id}: revoked")
