"""The artifact `agent.events.jsonl`: what an agent's log says, in the common words of parsers/."""

import asyncio
from pathlib import Path

from wfhub_common.log import get_logger

from wfhub_agent_runner.agents import parsers

NAME = "agent.events.jsonl"
MEDIA_TYPE = "application/x-ndjson"
EVENTS_BYTES_MAX = 16 * 1024 * 1024

log = get_logger(__name__)


async def kept(style: str, output: Path, folder: Path) -> Path | None:
    """The artifact's file in `folder`; None where the agent's style of output says nothing."""
    if style == "none":
        return None
    path = folder / NAME
    try:
        await asyncio.to_thread(write, style, output, path)
    except Exception:
        # Its output may be anything: a parser's bug must not cost a result.
        log.exception("an agent's output was not read", style=style)
        return None
    return path


def write(style: str, log: Path, into: Path) -> int:
    """How many events there were. The log is what was kept of it: redacted, head and tail."""
    left, count = EVENTS_BYTES_MAX, 0
    with into.open("wb") as file:
        for event in parsers.events_of(style, log.read_bytes()):
            line = event.line()
            if len(line) > left:
                break
            left, count = left - len(line), count + 1
            file.write(line)
    return count
