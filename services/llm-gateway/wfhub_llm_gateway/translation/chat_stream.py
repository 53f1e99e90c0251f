"""Chat Completions, streamed: chunks to and from the events that all formats have in common.

Decoder raises: UpstreamFailed when what comes is no such stream, or ends before its end.
"""

from typing import Any

from wfhub_llm_gateway import sse
from wfhub_llm_gateway.completion import choices_of
from wfhub_llm_gateway.formats.chat import reported
from wfhub_llm_gateway.translation import pieces
from wfhub_llm_gateway.translation.canonical import (
    Begun,
    Call,
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
from wfhub_llm_gateway.translation.chat import (
    FINISHES,
    STOPS,
    stop_of,
    write_answer_call,
    write_usage,
)
from wfhub_llm_gateway.translation.streams import cut_off, odd, said_error
from wfhub_llm_gateway.usage import Tokens


class Decoder:
    def __init__(self, request: Request) -> None:
        self._begun = False
        self._call: int | None = None  # the index of the one that began last
        self._called = False
        self._stop: Stop | None = None
        self._usage: Tokens | None = None

    def feed(self, value: dict[str, Any]) -> list[Event]:
        if value.get("error"):
            raise said_error(value)
        events: list[Event] = []
        if not self._begun:
            self._begun = True
            events.append(Begun(str(value.get("id") or ""), str(value.get("model") or "")))
        self._usage = reported(value) or self._usage
        for choice in choices_of(value)[:1]:
            delta = choice.get("delta")
            if isinstance(delta, dict):
                events += self._deltas(delta)
            finish = choice.get("finish_reason")
            if isinstance(finish, str):
                self._stop = STOPS.get(finish, "end")
        return events

    def _deltas(self, delta: dict[str, Any]) -> list[Event]:
        events: list[Event] = []
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        if isinstance(thought, str) and thought:
            events.append(ReasoningDelta(thought))
        text = delta.get("content") or delta.get("refusal")
        if isinstance(text, str) and text:
            events.append(TextDelta(text))
        calls = delta.get("tool_calls")
        for call in calls if isinstance(calls, list) else []:
            if isinstance(call, dict):
                events += self._call_deltas(call)
        if events and not isinstance(events[-1], (CallBegun, CallDelta)):
            self._call = None
        return events

    def _call_deltas(self, call: dict[str, Any]) -> list[Event]:
        events: list[Event] = []
        found = call.get("function")
        function = found if isinstance(found, dict) else {}
        index, name = call.get("index"), function.get("name")
        begins = isinstance(name, str) and name != "" and (index is None or index != self._call)
        if begins:
            self._call, self._called = index if isinstance(index, int) else -1, True
            call_id = call.get("id")
            known = call_id if isinstance(call_id, str) and call_id else pieces.new_id("call_")
            events.append(CallBegun(known, str(name)))
        elif self._call is None or index not in (None, self._call):
            raise odd("it streams a piece of a tool call that is not the last one begun")
        arguments = function.get("arguments")
        if isinstance(arguments, str) and arguments:
            events.append(CallDelta(arguments))
        return events

    def end(self) -> list[Event]:
        if self._stop is None:
            raise cut_off()
        return [Ended(stop_of(self._stop, called=self._called), self._usage)]


class Encoder:
    def __init__(self, request: Request, created: int) -> None:
        self._request = request
        self._shared: dict[str, Any] = {
            "id": "",
            "object": "chat.completion.chunk",
            "created": created,
            "model": request.model,
        }
        self._calls = 0
        self._custom = False  # the call that began last

    def feed(self, event: Event) -> list[bytes]:
        match event:
            case Begun():
                self._shared["id"] = event.id or pieces.new_id("chatcmpl-")
                self._shared["model"] = event.model or self._request.model
                return [self._delta({"role": "assistant", "content": ""})]
            case TextDelta():
                return [self._delta({"content": event.text})]
            case ReasoningDelta():
                return [self._delta({"reasoning_content": event.text})]
            case ReasoningSigned():
                return []
            case CallBegun():
                self._calls += 1
                self._custom = event.custom
                return [self._call(write_answer_call(Call(event.id, event.name, "", event.custom)))]
            case CallDelta():
                kind, key = ("custom", "input") if self._custom else ("function", "arguments")
                return [self._call({kind: {key: event.arguments}})]
            case Ended():
                choice = {"index": 0, "delta": {}, "finish_reason": FINISHES[event.stop]}
                last = [self._chunk(choices=[choice])]
                if usage := write_usage(event.usage):
                    last.append(self._chunk(choices=[], usage=usage))
                return [*last, sse.event_of("[DONE]")]

    def _call(self, call: dict[str, Any]) -> bytes:
        return self._delta({"tool_calls": [{"index": self._calls - 1, **call}]})

    def _delta(self, delta: dict[str, Any]) -> bytes:
        return self._chunk(choices=[{"index": 0, "delta": delta, "finish_reason": None}])

    def _chunk(self, **fields: Any) -> bytes:
        return sse.event_of(pieces.dumped({**self._shared, **fields}))
