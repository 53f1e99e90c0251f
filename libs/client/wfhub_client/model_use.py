"""Options about the use of models: budgets, cassettes, MCP servers, of a task or a project. Pure.

Raises: Usage.
"""

import re
import shlex
from typing import Any

from wfhub_client.errors import Usage


def budget(given: list[str] | None) -> dict[str, Any] | None:
    """From WHAT=AMOUNT each; the API knows which there are. Raises: Usage."""
    if given is None or given == ["none"]:
        return None if given is None else {}
    amounts: dict[str, Any] = {}
    for each in given:
        what, equals, amount = each.partition("=")
        if not equals or not re.fullmatch(r"[0-9]+(\.[0-9]+)?", amount):
            raise Usage(f"{each!r} is no budget: give what is limited, =, and a number, or `none`")
        amounts[what] = amount if what.startswith("usd") or "." in amount else int(amount)
    return amounts


def cassette(given: str | None) -> dict[str, str] | str | None:
    """Raises: Usage."""
    if given is None or given == "none":
        return given
    mode, equals, name = given.partition("=")
    if mode not in ("record", "replay") or not equals:
        raise Usage(f"--cassette {given!r}: say record=NAME, replay=NAME or none")
    return {"mode": mode, "name": name}


def servers(given: list[str] | None) -> dict[str, Any] | None:
    """MCP servers from NAME=COMMAND each; `none` alone: not any. Raises: Usage."""
    if given is None or given == ["none"]:
        return None if given is None else {}
    found: dict[str, Any] = {}
    for each in given:
        name, equals, command = each.partition("=")
        try:
            argv = shlex.split(command)
        except ValueError as e:
            raise Usage(f"--mcp {each!r}: {e}") from e
        if not equals or not argv:
            raise Usage(f"--mcp {each!r}: give a name, =, and a command to start, or `none`")
        found[name] = {"argv": argv}
    return found
