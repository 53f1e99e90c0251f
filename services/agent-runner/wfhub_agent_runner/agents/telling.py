"""The artifact `agent.events.jsonl`: what an agent's log says, in the common words of parsers/."""

from pathlib import Path

from wfhub_agent_runner.agents import parsers

NAME = "agent.events.jsonl"
MEDIA_TYPE = "application/x-ndjson"
EVENTS_BYTES_MAX = 16 * 1024 * 1024


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
