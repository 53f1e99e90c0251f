"""Commands of other packages: entry points of the group `wfhub.commands`, loaded when needed.

An entry point is a function as typer takes it, or a typer.Typer of its own. One that cannot be
loaded is listed with the reason, and says it when it is called.
"""

from typing import Any

import typer
from typer.core import TyperGroup

from wfhub_client.errors import Usage

GROUP = "wfhub.commands"


class Commands(TyperGroup):
    def list_commands(self, ctx: Any) -> list[str]:
        own = super().list_commands(ctx)
        return [*own, *(name for name in sorted(_entry_points()) if name not in own)]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        entry_point = _entry_points().get(cmd_name)
        return None if entry_point is None else _command(cmd_name, entry_point)


def _entry_points() -> dict[str, Any]:
    from importlib.metadata import entry_points

    return {entry_point.name: entry_point for entry_point in entry_points(group=GROUP)}


def _command(name: str, entry_point: Any) -> Any:
    try:
        loaded = entry_point.load()
    except (ImportError, AttributeError) as e:
        loaded = _unavailable(name, str(e))
    if isinstance(loaded, typer.Typer):
        group = loaded
    else:
        group = typer.Typer(add_completion=False)
        group.command(name)(loaded)
    command = typer.main.get_command(group)
    command.name = name
    return command


def _unavailable(name: str, why: str) -> Any:
    def command() -> None:
        raise Usage(f"`wfhub {name}` is not installed here: {why}")

    command.__doc__ = f"(not installed here: {why})"
    return command
