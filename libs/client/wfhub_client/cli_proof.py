"""`wfhub proof`: options and help only; the work is in proofs.py, imported when it runs."""

from pathlib import Path
from typing import Annotated

import typer

proof_app = typer.Typer(no_args_is_help=True, help="Signed proofs of how a result came to be.")

ProofId = Annotated[str, typer.Argument(metavar="ID", help="A proof's id, prf_…")]
Json = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]


@proof_app.command("show")
def proof_show(id_: ProofId) -> None:
    """Show what a proof says (without verifying it)."""
    from wfhub_client import proofs

    proofs.show(id_)


@proof_app.command("export")
def proof_export(
    id_: ProofId, output: Annotated[Path, typer.Option("--output", "-o", dir_okay=False)]
) -> None:
    """Write a proof to a file that can be verified without any service."""
    from wfhub_client import proofs

    proofs.export(id_, output)


@proof_app.command("verify")
def proof_verify(
    source: Annotated[str, typer.Argument(metavar="FILE|ID")],
    key: Annotated[
        str | None, typer.Option(metavar="PEM", help="The only key to believe, a file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a proof: signature, place in the log, receipts. A FILE needs no network."""
    from wfhub_client import proofs

    raise typer.Exit(proofs.verify(source, key, as_json=as_json))


@proof_app.command("trust")
def proof_trust(
    replace: Annotated[
        bool, typer.Option("--replace", help="Even though another was trusted.")
    ] = False,
) -> None:
    """Remember the service's proof key (trust on first use)."""
    from wfhub_client import proofs

    proofs.accept(replace=replace)
