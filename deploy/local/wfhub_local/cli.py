"""`wfhub up`, `doctor`, `backup`, `restore`, `sealing`. The work is imported when it runs."""

import json
import os
import re
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wfhub_local.settings import PORT, RUNNERS_MAX, SLOTS_MAX

if TYPE_CHECKING:
    from wfhub_admin.archive import Contents

    from wfhub_local.layout import Layout


def up_command(
    context: typer.Context,
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
    subscriber: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:PROJECT+…]",
            help="A system that hears events by NATS, of projects (ids) or all; again for more.",
        ),
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
    from wfhub_admin.subscribers import parsed
    from wfhub_common.messages.tasks import LABEL_PATTERN

    from wfhub_local import asked, stack, state
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
    try:
        subscribers = parsed(",".join(subscriber or ()))
    except ValueError as e:
        raise typer.BadParameter(str(e), param_hint="--subscriber") from e
    if subscribers and nats_url:
        raise typer.BadParameter("a NATS of yours has users of yours", param_hint="--subscriber")
    options = Options(
        data=data.expanduser().absolute() if data else default_data(os.environ, root=is_root()),
        port=port,
        nats_url=nats_url,
        database_url=database_url,
        runners=runners,
        slots=slots,
        subscribers=subscribers,
        labels=tuple(label or ()),
        toolchains=folders,
        file_repos=file_repos,
    )
    try:
        stack.run(options, user_env=os.environ, say=lambda line: print(line, flush=True))
    except state.Held as e:
        running = state.wait_ready(Layout(options.data))
        where = running.url if running else "a URL that it does not tell yet"
        pid = running.pid if running else e.pid
        print(f"already running at {where} (pid {pid})")
        differ = asked.differences(
            Layout(options.data), options, os.environ, given=_options_given(context)
        )
        if differ:
            raise SystemExit(
                f"but not as asked for now: {', '.join(differ)}; end it (Ctrl-C where it runs, or"
                f" `kill -INT {pid}`) and repeat this, or run a second stack with another --data"
            ) from e


def _options_given(context: typer.Context) -> frozenset[str]:
    """By their names, in the call or by their variables: not those that have their defaults."""
    sources = {
        each.opts[0]: context.get_parameter_source(each.name)
        for each in context.command.params
        if each.name
    }
    return frozenset(
        name
        for name, source in sources.items()
        if source is not None and source.name in {"COMMANDLINE", "ENVIRONMENT"}
    )


def doctor_command(
    as_json: Annotated[bool, typer.Option("--json", help="JSON instead of text.")] = False,
) -> None:
    """Say which sandboxes work on this machine, and why others do not."""
    from wfhub_local import doctor

    raise typer.Exit(doctor.run(as_json=as_json))


_Data = Annotated[Path | None, typer.Option(help="The stack's folder [WFHUB_DATA].")]
_Passphrase = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH", help="Has the passphrase; else WFHUB_BACKUP_PASSPHRASE, else it is asked."
    ),
]
_DatabaseUrl = Annotated[
    str, typer.Option(envvar="DATABASE_URL", help="A Postgres that is not the embedded one.")
]
_AsJson = Annotated[bool, typer.Option("--json", help="The result as JSON.")]
_Archive = Annotated[Path, typer.Argument(metavar="FILE", help="The backup.")]


def backup_command(
    file: _Archive,
    data: _Data = None,
    passphrase_file: _Passphrase = None,
    database_url: _DatabaseUrl = "",
    as_json: _AsJson = False,
) -> None:
    """Keep everything in one file, while it runs: tasks, proofs, log, keys (under a passphrase)."""
    from wfhub_local import backup

    secret = _passphrase(passphrase_file, confirm=True)
    done = backup.take(_layout(data), file, passphrase=secret, database_url=database_url, say=_say)
    _tell(done, file, as_json=as_json)


def restore_command(
    file: _Archive,
    data: _Data = None,
    passphrase_file: _Passphrase = None,
    database_url: _DatabaseUrl = "",
    check: Annotated[
        bool, typer.Option(help="Only read all of it, and say if it is sound.")
    ] = False,
    as_json: _AsJson = False,
) -> None:
    """Make a stack of a backup, in an empty folder; then `wfhub up --data` that folder."""
    from wfhub_admin import archive

    from wfhub_local import backup

    secret = _passphrase(passphrase_file, confirm=False)
    if check:
        done = archive.check(file, secret)
    else:
        done = backup.bring_back(
            _layout(data), file, passphrase=secret, database_url=database_url, say=_say
        )
    _tell(done, file, as_json=as_json)


class Sealing(StrEnum):
    """What becomes of secrets in the database."""

    on = "on"
    off = "off"
    renew = "renew"


def sealing_command(
    word: Annotated[
        Sealing,
        typer.Argument(
            help="on: all sealed, under the newest key; off: in clear, before going back to the"
            " version before; renew: new ones for those that no key opens."
        ),
    ],
    data: _Data = None,
    database_url: _DatabaseUrl = "",
) -> None:
    """Seal the secrets that the database holds (of webhooks), or open them."""
    from wfhub_local import sealing

    print(sealing.change(_layout(data), word.value, database_url=database_url, say=_say))


def _layout(data: Path | None) -> "Layout":
    from wfhub_local.layout import Layout
    from wfhub_local.settings import default_data, is_root

    return Layout(
        data.expanduser().absolute() if data else default_data(os.environ, root=is_root())
    )


def _passphrase(file: Path | None, *, confirm: bool) -> str:
    from wfhub_admin.backup import passphrase_of

    def ask() -> str:
        if not sys.stdin.isatty():
            raise SystemExit(
                "there is no terminal to ask for the passphrase at: name a file that has it with"
                " --passphrase-file, or set WFHUB_BACKUP_PASSPHRASE"
            )
        return str(typer.prompt("passphrase", hide_input=True, confirmation_prompt=confirm))

    return passphrase_of(file, os.environ.get("WFHUB_BACKUP_PASSPHRASE", ""), ask)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _tell(contents: "Contents", file: Path, *, as_json: bool) -> None:
    from wfhub_admin import archive

    told = {"file": str(file), **archive.said(contents)}
    if as_json:
        print(json.dumps(told))
    else:
        print(
            f"{file}: made {told['made_at']} by {told['version']}, {told['blobs']} blobs of"
            f" {told['blob_bytes']} bytes, keys of {told['runners']} runners"
        )
