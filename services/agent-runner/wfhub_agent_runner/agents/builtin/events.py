"""Events: what the agent does, as one JSON object a line, each and all of them bounded."""

from __future__ import annotations

import json
from typing import IO, Any

TEXT_CHARS_MAX = 8_000  # of one text in an event
EVENTS_CHARS_MAX = 16 * 1024 * 1024  # of all events; the finish event always comes


class Events:
    def __init__(self, stream: IO[str]) -> None:
        self.stream, self.left = stream, EVENTS_CHARS_MAX

    def __call__(self, kind: str, **fields: Any) -> None:
        for key, value in fields.items():
            fields[key] = clipped(value, TEXT_CHARS_MAX) if isinstance(value, str) else value
        line = json.dumps({"type": kind, **fields}) + "\n"
        if kind == "finish" or len(line) <= self.left:
            self.left -= len(line)
            self.stream.write(line)
            self.stream.flush()
        elif self.left > 0:
            self.left = 0
            self.stream.write('{"type": "error", "code": "events-cut", "message": "too many"}\n')


def clipped(text: str, chars_max: int) -> str:
    """Head and tail of a text, and how much is missing between them."""
    if len(text) <= chars_max:
        return text
    half = chars_max // 2
    return f"{text[:half]}\n[... {len(text) - 2 * half} characters left out ...]\n{text[-half:]}"
