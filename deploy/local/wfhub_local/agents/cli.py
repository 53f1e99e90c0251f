"""`wfhub agent list | install | test`: their options. The work is imported when it runs."""

import json
import os
from pathlib import Path
from typing import Annotated

import typer

agent_app = typer.Typer(
    add_completion=False,  # an app of its own, whose shell knows no program `agent`
    no_args_is_help=True,
    help="The programs of agents on this machine.",
)

Folder = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="The toolchain folder; else agents/ of the data directory."),
]


@agent_app.command("list")
def list_(
    toolchain: Folder = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> None:
    """Say which agents there are, what they speak, and whether their programs are found."""
    from wfhub_local.agents import listing

    found = listing.rows((_folder(toolchain),))
    print(json.dumps(found) if as_json else listing.text(found))


@agent_app.command()
def install(
    names: Annotated[list[str], typer.Argument(metavar="NAME…", help="See `wfhub agent list`.")],
    into: Folder = None,
) -> None:
    """Fetch an agent's program, at the version that was tested, with pip or npm."""
    from wfhub_local.agents import installing

    folder = _folder(into)
    for name in names:
        installing.install(name, folder, say=lambda line: print(line, flush=True))
    print(f"in {folder}: {', '.join(installing.programs(folder))}")
    if into is not None:
        print(f"start the stack with `wfhub up --toolchain {folder}`")


@agent_app.command("test")
def self_test(
    name: Annotated[str, typer.Argument(metavar="NAME", help="See `wfhub agent list`.")],
    toolchain: Folder = None,
) -> None:
    """Have an agent do a small task in a sandbox here, with a model that is replayed."""
    from wfhub_local.agents import selftest
    from wfhub_local.demo.commands import CommandFailed

    try:
        code = selftest.run(name, _folder(toolchain), os.environ)
    except CommandFailed as e:
        raise SystemExit(f"{name}: {e}") from e
    raise typer.Exit(code)


def _folder(asked: Path | None) -> Path:
    from wfhub_local.layout import Layout
    from wfhub_local.settings import default_data, is_root

    if asked is not None:
        return asked.expanduser().absolute()
    return Layout(default_data(os.environ, root=is_root())).agents
