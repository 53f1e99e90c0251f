"""Server-sent events: split a byte stream at event boundaries without changing a byte.

A Splitter is fed chunks and gives back whole events, blank line included; what it gives back,
joined with `rest`, is exactly what it was fed. Lines may end in LF, CRLF or CR.
Raises: ValueError when an event is longer than EVENT_BYTES_MAX.
"""

import re
from collections.abc import Iterator

EVENT_BYTES_MAX = 4 * 1024 * 1024
CONTENT_TYPE = "text/event-stream"

# A CR at the very end may be half a CRLF: wait for the next byte.
_BOUNDARY = re.compile(rb"(?:\r\n|\n|\r(?!\n))(?:\r\n|\n|\r(?!\n|\Z))")
_LINE_END = re.compile(rb"\r\n|\n|\r")


class Splitter:
    def __init__(self) -> None:
        self.rest = b""

    def feed(self, chunk: bytes) -> Iterator[bytes]:
        # A boundary is at most 4 bytes, so the search need not start over each time.
        searched = max(0, len(self.rest) - 3)
        self.rest += chunk
        while found := _BOUNDARY.search(self.rest, searched):
            event, self.rest = self.rest[: found.end()], self.rest[found.end() :]
            searched = 0
            yield event
        if len(self.rest) > EVENT_BYTES_MAX:
            raise ValueError(f"an event is longer than {EVENT_BYTES_MAX} bytes")


def data_of(event: bytes) -> str | None:
    """The event's `data` lines joined by LF; None for a comment or an event without data."""
    lines = []
    for line in _LINE_END.split(event):
        name, _, value = line.partition(b":")
        if name == b"data":
            lines.append(value.removeprefix(b" ").decode(errors="replace"))
    return "\n".join(lines) if lines else None


def event_of(data: str, kind: str = "") -> bytes:
    """`data` is JSON: half a surrogate pair, which UTF-8 cannot say, is written as its escape."""
    lines = [f"event: {kind}"] if kind else []
    lines += [f"data: {line}" for line in data.split("\n")]
    return ("\n".join(lines) + "\n\n").encode(errors="backslashreplace")
