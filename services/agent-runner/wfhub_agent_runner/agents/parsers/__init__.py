"""How an agent's output is read, by the name of its style: bytes in, events.py out. Pure.

A style is a generator over the output's lines: JSON objects where a line is one, texts else. What
it does not know it passes over. The output is the agent's own and may be anything: no line is too
strange to read, and what cannot be read gives no event.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import islice

from wfhub_agent_runner.agents.parsers import (
    aider,
    builtin,
    claude,
    codex,
    gemini,
    goose,
    mini,
    opencode,
)
from wfhub_agent_runner.agents.parsers.events import Event
from wfhub_agent_runner.agents.parsers.reading import Line

EVENTS_MAX = 20_000
LINE_BYTES_MAX = 4 * 1024 * 1024


Style = Callable[[Iterable[Line]], Iterator[Event]]

STYLES: dict[str, Style] = {
    "aider-text": aider.events,
    "claude-jsonl": claude.events,
    "codex-jsonl": codex.events,
    "gemini-jsonl": gemini.events,
    "goose-jsonl": goose.events,
    "mini-messages": mini.events,
    "none": lambda _: iter(()),
    "opencode-jsonl": opencode.events,
    "wfhub-jsonl": builtin.events,
}


def events_of(style: str, output: bytes) -> Iterator[Event]:
    return islice(STYLES[style](lines_of(output)), EVENTS_MAX)


def lines_of(output: bytes) -> Iterator[Line]:
    for raw in output.split(b"\n"):
        text = raw[:LINE_BYTES_MAX].decode(errors="replace").rstrip("\r")
        if not text.startswith("{"):
            yield text
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            yield text
        else:
            yield value
