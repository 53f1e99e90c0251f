"""`wfhub up` and `wfhub doctor`: their options. The work is imported when it runs."""

import os
import re
from pathlib import Path
from typing import Annotated

import typer

from wfhub_local.settings import PORT, RUNNERS_MAX, SLOTS_MAX


def up_command(
    data: Annotated[
        Path | None, typer.Option(help="Where everything is kept [WFHUB_DATA].")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the API; 0: any.")] = PORT,
    nats_url: Annotated[
        str, typer.Option(envvar="NATS_URL", help="Use this NATS instead of an embedded one.")
    ] = "",
    database_url: Annotated[
        str, typer.Option(envvar="DATABASE_URL", help="Use this Postgres instead.")
    ] = "",
    runners: Annotated[int, typer.Option(min=1, max=RUNNERS_MAX, help="Runner processes.")] = 1,
    slots: Annotated[
        int, typer.Option(min=1, max=SLOTS_MAX, help="Attempts at once in each runner.")
    ] = 2,
    label: Annotated[
        list[str] | None,
        typer.Option(help="What tasks may ask of these runners, such as gpu; again for more."),
    ] = None,
    toolchain: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH", help="A folder agents may read, its bin/ in their PATH; again for more."
        ),
    ] = None,
    file_repos: Annotated[
        bool, typer.Option(help="Tasks may name repositories by path on this machine.")
    ] = True,
) -> None:
    """Run everything on this machine, until Ctrl-C."""
    from wfhub_common.messages.tasks import LABEL_PATTERN

    from wfhub_local import stack, state
    from wfhub_local.layout import Layout
    from wfhub_local.settings import Options, default_data, is_root

    for each in label or ():
        if not re.fullmatch(LABEL_PATTERN, each):
            raise typer.BadParameter(
                f"{each!r}: lower-case letters, digits and ._=-", param_hint="--label"
            )
    folders = tuple(path.expanduser().absolute() for path in toolchain or [])
    for folder in folders:
        if not folder.is_dir():
            raise typer.BadParameter(f"{folder} is not a folder", param_hint="--toolchain")
        if ":" in str(folder):
            raise typer.BadParameter(f"{folder} has a colon", param_hint="--toolchain")
    options = Options(
        data=data.expanduser().absolute() if data else default_data(os.environ, root=is_root()),
        port=port,
        nats_url=nats_url,
        database_url=database_url,
        runners=runners,
        slots=slots,
        labels=tuple(label or ()),
        toolchains=folders,
        file_repos=file_repos,
    )
    try:
        stack.run(options, user_env=os.environ, say=lambda line: print(line, flush=True))
    except state.Held as e:
        running = state.wait_ready(Layout(options.data))
        where = running.url if running else "a URL that it does not tell yet"
        print(f"already running at {where} (pid {running.pid if running else e.pid})")


def doctor_command(
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> None:
    """Say which sandboxes work on this machine, and why others do not."""
    from wfhub_local import doctor

    raise typer.Exit(doctor.run(as_json=as_json))
