"""Anthropic's Messages, streamed: its events to and from those that all formats have in common.

Written is the documented order: message_start; of each block content_block_start, its deltas,
content_block_stop; message_delta with the stop reason and the usage; message_stop.
Decoder raises: UpstreamFailed when what comes is no such stream, or ends before its end.
"""

from typing import Any

from wfhub_llm_gateway import sse
from wfhub_llm_gateway.formats.messages import reported
from wfhub_llm_gateway.translation import pieces
from wfhub_llm_gateway.translation.canonical import (
    Begun,
    CallBegun,
    CallDelta,
    Ended,
    Event,
    ReasoningDelta,
    ReasoningSigned,
    Request,
    Stop,
    TextDelta,
)
from wfhub_llm_gateway.translation.messages import REASONS, STOPS, write_head, write_usage
from wfhub_llm_gateway.translation.streams import cut_off, said_error
from wfhub_llm_gateway.usage import Tokens, merged


class Decoder:
    def __init__(self, request: Request) -> None:
        self._usage: Tokens | None = None
        self._stop: Stop | None = None
        self._stopped = False

    def feed(self, value: dict[str, Any]) -> list[Event]:
        match value:
            case {"type": "message_start", "message": dict(message)}:
                self._usage = merged(self._usage, reported(message))
                return [Begun(str(message.get("id") or ""), str(message.get("model") or ""))]
            case {"type": "content_block_start", "content_block": dict(block)}:
                return self._block(block)
            case {"type": "content_block_delta", "delta": dict(delta)}:
                return self._delta(delta)
            case {"type": "message_delta"}:
                self._usage = merged(self._usage, reported(value))
                ending = value.get("delta")
                reason = ending.get("stop_reason") if isinstance(ending, dict) else None
                if isinstance(reason, str):
                    self._stop = STOPS.get(reason, "end")
            case {"type": "message_stop"}:
                self._stopped = True
            case {"type": "error"}:
                raise said_error(value)
        return []

    def _block(self, block: dict[str, Any]) -> list[Event]:
        match block:
            case {"type": "text", "text": str(text)} if text:
                return [TextDelta(text)]
            case {"type": "tool_use"}:
                call_id = block.get("id") or pieces.new_id("toolu_")
                return [CallBegun(str(call_id), str(block.get("name") or ""))]
        return []

    def _delta(self, delta: dict[str, Any]) -> list[Event]:
        match delta:
            case {"type": "text_delta", "text": str(text)}:
                return [TextDelta(text)]
            case {"type": "thinking_delta", "thinking": str(text)}:
                return [ReasoningDelta(text)]
            case {"type": "signature_delta", "signature": str(signature)}:
                found, origin = pieces.unsealed(signature, "messages")
                return [ReasoningSigned(found, origin)] if origin else []
            case {"type": "input_json_delta", "partial_json": str(text)}:
                return [CallDelta(text)] if text else []
        return []

    def end(self) -> list[Event]:
        if self._stop is None or not self._stopped:
            raise cut_off()
        return [Ended(self._stop, self._usage)]


class Encoder:
    def __init__(self, request: Request, created: int) -> None:
        self._request = request
        self._index = -1
        self._open = ""  # the type of the block that is

    def feed(self, event: Event) -> list[bytes]:
        match event:
            case Begun():
                message = write_head(event.id, event.model or self._request.model)
                message["usage"] = write_usage(Tokens(0, 0))  # message_delta says it
                return [_event("message_start", message=message)]
            case TextDelta():
                opened = self._opened({"type": "text", "text": ""})
                return [*opened, self._delta({"type": "text_delta", "text": event.text})]
            case ReasoningDelta():
                opened = self._opened({"type": "thinking", "thinking": "", "signature": ""})
                return [*opened, self._delta({"type": "thinking_delta", "thinking": event.text})]
            case ReasoningSigned():
                opened = self._opened({"type": "thinking", "thinking": "", "signature": ""})
                sealed = pieces.sealed(event.signature, event.origin, "messages")
                delta = self._delta({"type": "signature_delta", "signature": sealed})
                return [*opened, delta, *self._closed()]
            case CallBegun():
                block = {"type": "tool_use", "id": event.id, "name": event.name, "input": {}}
                closed = self._closed()
                return [*closed, *self._opened(block)]
            case CallDelta():
                return [self._delta({"type": "input_json_delta", "partial_json": event.arguments})]
            case Ended():
                ending = {"stop_reason": REASONS[event.stop], "stop_sequence": None}
                usage = write_usage(event.usage or Tokens(0, 0))
                return [
                    *self._closed(),
                    _event("message_delta", delta=ending, usage=usage),
                    _event("message_stop"),
                ]

    def _opened(self, block: dict[str, Any]) -> list[bytes]:
        if self._open == block["type"]:
            return []
        closed = self._closed()
        self._open = block["type"]
        self._index += 1
        return [*closed, _event("content_block_start", index=self._index, content_block=block)]

    def _closed(self) -> list[bytes]:
        if not self._open:
            return []
        self._open = ""
        return [_event("content_block_stop", index=self._index)]

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)


def _event(kind: str, **fields: Any) -> bytes:
    return sse.event_of(pieces.dumped({"type": kind, **fields}), kind)
