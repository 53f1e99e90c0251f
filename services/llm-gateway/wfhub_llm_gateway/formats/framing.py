"""How a stream is put into a response's body: as server-sent events, or as one JSON array.

Events come in whole, and go out as they are; in an array only their data does, an item each.
`frame` gives the bytes to send for an event, `end` what closes the body.
"""

from typing import Protocol

from wfhub_llm_gateway import sse
from wfhub_llm_gateway.formats.asked import Asked


class Frames(Protocol):
    content_type: str

    def frame(self, event: bytes) -> bytes: ...

    def end(self) -> bytes: ...


class Events:
    content_type = sse.CONTENT_TYPE

    def frame(self, event: bytes) -> bytes:
        return event

    def end(self) -> bytes:
        return b""


class JsonArray:
    content_type = "application/json"

    def __init__(self) -> None:
        self._begun = False

    def frame(self, event: bytes) -> bytes:
        data = sse.data_of(event)
        if not data:
            return b""
        before, self._begun = (b",\r\n" if self._begun else b"["), True
        return before + data.encode()

    def end(self) -> bytes:
        return b"]" if self._begun else b"[]"


def frames_of(asked: Asked) -> Frames:
    return JsonArray() if asked.framing == "json-array" else Events()
