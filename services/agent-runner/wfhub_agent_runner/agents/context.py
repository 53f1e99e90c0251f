"""What a checkout tells agents: notes for them at its top, and MCP servers in `.mcp.json`.

Read from the base commit's tree, which is the repository's own and not to be trusted: regular
files only, no link is followed, so much of each. Files that say the same are one.
"""

import json
import os
import stat
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from wfhub_common import limits
from wfhub_common.log import get_logger
from wfhub_common.messages import McpServer

from wfhub_agent_runner.agents.planning import Surroundings

NAMES = ("AGENTS.md", "CLAUDE.md", ".goosehints")
MCP_FILE = ".mcp.json"  # as several agents have it: {"mcpServers": {name: {command, args, env}}}
CONTEXT_BYTES_MAX = 64 * 1024  # of one file
MCP_BYTES_MAX = 256 * 1024

log = get_logger(__name__)


def found_in(tree: Path) -> Surroundings:
    context: dict[str, str] = {}
    for name in NAMES:
        text = _text(tree / name, CONTEXT_BYTES_MAX)
        if text.strip() and text not in context.values() and not _refers(text, context):
            context[name] = text
    return Surroundings(context=context, servers=servers_in(_text(tree / MCP_FILE, MCP_BYTES_MAX)))


def servers_in(text: str) -> dict[str, McpServer]:
    """Servers over stdio; others, and what makes no sense, are left out and told in the log."""
    try:
        listed: Any = json.loads(text or "{}").get("mcpServers") or {}
        named = dict(listed)
    except (ValueError, TypeError, AttributeError, RecursionError) as e:
        log.info("MCP servers of a checkout not read", error=str(e)[:200])
        return {}
    servers = {}
    for name, value in named.items():
        try:
            argv = (value["command"], *(value.get("args") or ()))
            servers[str(name)] = McpServer(argv=argv, env=value.get("env") or {})
        except (KeyError, TypeError, AttributeError, ValidationError) as e:
            log.info("MCP server of a checkout left out", server=str(name)[:80], error=str(e)[:200])
    return dict(list(servers.items())[: limits.MCP_SERVERS_MAX])


def _refers(text: str, context: dict[str, str]) -> bool:
    """`@AGENTS.md` alone, as one file names another that is there."""
    return text.strip().removeprefix("@").removeprefix("./") in context


def _text(path: Path, bytes_max: int) -> str:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:  # not there, a link, or not ours to read
        return ""
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        return file.read(bytes_max).decode(errors="replace")
