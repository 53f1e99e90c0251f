"""Configuration files of agents, written from data: JSON (which is YAML too) and TOML. Pure.

Shapes: a Config's value and a Filling in, bytes out. TOML holds what the table needs: strings,
booleans, whole numbers, lists of them, and tables in tables.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, assert_never

from wfhub_common.messages import McpServer

from wfhub_agent_runner.agents.entry import Config, ContextNames, Mcp, Servers

MCP_START_S_MAX = 60
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+\Z")


@dataclass(frozen=True)
class Filling:
    """What templates and places of a Config become."""

    values: Mapping[str, str]
    servers: Mapping[str, McpServer]
    context: tuple[str, ...]  # names of files at the checkout's top


def written(config: Config, filling: Filling) -> bytes:
    value = filled(config.value, filling)
    if config.form == "json":
        return json.dumps(value, indent=1, ensure_ascii=False).encode() + b"\n"
    return ("\n".join(_toml(value, ())) + "\n").encode()


def filled(value: Any, filling: Filling) -> Any:
    match value:
        case str():
            return value.format_map(filling.values)
        case Servers(form):
            return {name: server_in(form, name, s) for name, s in filling.servers.items()}
        case ContextNames():
            return list(filling.context)
        case Mapping():
            return {filled(k, filling): filled(v, filling) for k, v in value.items()}
        case list() | tuple():
            return [filled(item, filling) for item in value]
    return value


def server_in(form: Mcp, name: str, server: McpServer) -> dict[str, Any]:
    program, *arguments = server.argv
    match form:
        case Mcp.COMMAND_ARGS:
            return {"command": program, "args": arguments, "env": dict(server.env)}
        case Mcp.CODEX:
            waited = {"required": True, "startup_timeout_sec": MCP_START_S_MAX}
            return {**server_in(Mcp.COMMAND_ARGS, name, server), **waited}
        case Mcp.OPENCODE:
            return {
                "type": "local",
                "command": list(server.argv),
                "environment": dict(server.env),
                "enabled": True,
            }
        case Mcp.GOOSE:
            return {
                "type": "stdio",
                "name": name,
                "enabled": True,
                "cmd": program,
                "args": arguments,
                "envs": dict(server.env),
                "timeout": MCP_START_S_MAX,
            }
        case _:
            assert_never(form)


def _toml(table: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[str]:
    plain = {k: v for k, v in table.items() if not isinstance(v, dict)}
    if path and (plain or not table):
        yield f"[{'.'.join(map(_key, path))}]"
    for key, value in plain.items():
        yield f"{_key(key)} = {_value(value)}"
    for key, value in table.items():
        if isinstance(value, dict):
            yield from _toml(value, (*path, key))


def _key(key: str) -> str:
    return key if _BARE_KEY.match(key) else _string(key)


def _value(value: Any) -> str:
    match value:
        case str():
            return _string(value)
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case list():
            return f"[{', '.join(map(_value, value))}]"
    raise TypeError(f"no TOML for {value!r}")


def _string(text: str) -> str:
    """A JSON string is a TOML basic string, but for U+007F."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
