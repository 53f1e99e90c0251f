"""Gemini's generateContent, streamed: its chunks to and from the events all formats have in common.

A call is never in pieces: it is written when its arguments are complete.
Decoder raises: UpstreamFailed when what comes is no such stream, or ends before its end.
"""

from typing import Any

from wfhub_common.errors import Rejected

from wfhub_llm_gateway import sse
from wfhub_llm_gateway.completion import chunk_of
from wfhub_llm_gateway.formats.gemini import reported
from wfhub_llm_gateway.translation import pieces
from wfhub_llm_gateway.translation.canonical import (
    Begun,
    Call,
    CallBegun,
    CallDelta,
    Ended,
    Event,
    Reasoning,
    ReasoningDelta,
    ReasoningSigned,
    Request,
    Stop,
    Text,
    TextDelta,
)
from wfhub_llm_gateway.translation.gemini import (
    answer_parts,
    stop_of,
    write_chunk,
    write_parts,
)
from wfhub_llm_gateway.translation.gemini_json import camel
from wfhub_llm_gateway.translation.streams import cut_off, odd, said_error
from wfhub_llm_gateway.usage import Tokens


class Decoder:
    def __init__(self, request: Request) -> None:
        self._begun = False
        self._called = False
        self._reason: Any = None
        self._usage: Tokens | None = None

    def feed(self, value: dict[str, Any]) -> list[Event]:
        if value.get("error"):
            raise said_error(value)
        events: list[Event] = []
        if not self._begun:
            self._begun = True
            identity = (str(value.get("responseId") or ""), str(value.get("modelVersion") or ""))
            events.append(Begun(*identity))
        self._usage = reported(value) or self._usage
        candidates = value.get("candidates")
        if not candidates and value.get("promptFeedback"):
            self._reason = "SAFETY"
        for candidate in candidates[:1] if isinstance(candidates, list) else []:
            events += self._parts(camel(candidate))
        return events

    def _parts(self, candidate: dict[str, Any]) -> list[Event]:
        events: list[Event] = []
        parts = camel(candidate.get("content")).get("parts")
        try:
            found = answer_parts(parts if isinstance(parts, list) else [])
        except (Rejected, TypeError) as e:
            raise odd(str(e)) from e
        for part in found:
            match part:
                case Text():
                    events.append(TextDelta(part.text))
                case Reasoning():
                    if part.text:
                        events.append(ReasoningDelta(part.text))
                    if part.origin:
                        events.append(ReasoningSigned(part.signature, part.origin))
                case Call():
                    self._called = True
                    events.append(CallBegun(part.id, part.name, False, part.signature, part.origin))
                    events.append(CallDelta(part.arguments))
        self._reason = candidate.get("finishReason") or self._reason
        return events

    def end(self) -> list[Event]:
        if self._reason is None:
            raise cut_off()
        return [Ended(stop_of(self._reason, called=self._called), self._usage)]


class Encoder:
    def __init__(self, request: Request, created: int) -> None:
        self._model = request.model
        self._id = ""
        self._call: CallBegun | None = None
        self._arguments: list[str] = []

    def feed(self, event: Event) -> list[bytes]:
        match event:
            case Begun():
                self._id = event.id or pieces.new_id("")
                self._model = event.model or self._model
                return []
            case TextDelta():
                return [*self._called(), self._chunk([{"text": event.text}])]
            case ReasoningDelta():
                thought = {"text": event.text, "thought": True}
                return [*self._called(), self._chunk([thought])]
            case ReasoningSigned():
                part = Reasoning("", event.signature, event.origin)
                return [*self._called(), self._chunk(write_parts(part, into_answer=True))]
            case CallBegun():
                called, self._call, self._arguments = self._called(), event, []
                return called
            case CallDelta():
                self._arguments.append(event.arguments)
                return []
            case Ended():
                return [*self._called(), self._chunk([], event.stop, event.usage)]

    def _called(self) -> list[bytes]:
        call, self._call = self._call, None
        if call is None:
            return []
        arguments = "".join(self._arguments)
        if arguments and chunk_of(arguments) is None:
            raise odd("the arguments of a tool call are no JSON object")
        whole = Call(call.id, call.name, arguments, False, call.signature, call.origin)
        return [self._chunk(write_parts(whole, into_answer=True))]

    def _chunk(
        self, parts: list[dict[str, Any]], stop: Stop | None = None, usage: Tokens | None = None
    ) -> bytes:
        return sse.event_of(pieces.dumped(write_chunk(self._id, self._model, parts, stop, usage)))
