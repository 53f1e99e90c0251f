"""OpenAI's Responses, streamed: its events to and from those that all formats have in common.

Written is the documented order: response.created, response.in_progress; of each item
output_item.added, its parts and deltas with their `done`, output_item.done; at the end
response.completed, or response.incomplete. Sequence numbers count from 0.
Decoder raises: UpstreamFailed when what comes is no such stream, or ends before its end.
"""

from typing import Any

from wfhub_llm_gateway import sse
from wfhub_llm_gateway.formats.responses import reported
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
    Text,
    TextDelta,
)
from wfhub_llm_gateway.translation.responses import (
    ended_with,
    stop_of,
    write_output,
    write_response,
)
from wfhub_llm_gateway.translation.streams import cut_off, odd, said_error


class Decoder:
    def __init__(self, request: Request) -> None:
        self._begun = False
        self._called = False
        self._summarised = False  # a second part of a summary is a paragraph of its own
        self._ended: Ended | None = None

    def feed(self, value: dict[str, Any]) -> list[Event]:
        events: list[Event] = []
        kind = value.get("type")
        response = value.get("response")
        if not self._begun and isinstance(response, dict):
            self._begun = True
            found = (str(response.get("id") or ""), str(response.get("model") or ""))
            events.append(Begun(*found))
        match kind:
            case "response.output_text.delta" | "response.refusal.delta":
                events.append(TextDelta(str(value.get("delta") or "")))
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                events.append(ReasoningDelta(str(value.get("delta") or "")))
                self._summarised = True
            case "response.reasoning_summary_part.added" if self._summarised:
                events.append(ReasoningDelta("\n\n"))
            case "response.output_item.added":
                events += self._item_begun(_item(value))
            case "response.function_call_arguments.delta" | "response.custom_tool_call_input.delta":
                if not self._called:
                    raise odd("it streams arguments before a call")
                events.append(CallDelta(str(value.get("delta") or "")))
            case "response.output_item.done":
                events += self._item_done(_item(value))
            case "response.completed" | "response.incomplete" if isinstance(response, dict):
                stop = stop_of(response, called=self._called)
                self._ended = Ended(stop, reported(response))
            case "response.failed" if isinstance(response, dict):
                raise said_error(response)
            case "error":
                raise said_error(value)
            case None if value.get("error"):
                raise said_error(value)
        return events

    def _item_begun(self, item: dict[str, Any]) -> list[Event]:
        self._summarised = False
        kind = item.get("type")
        if kind not in ("function_call", "custom_tool_call"):
            return []
        self._called = True
        call_id = item.get("call_id") or pieces.new_id("call_")
        name = f"{item.get('namespace') or ''}{item.get('name') or ''}"
        return [CallBegun(str(call_id), name, kind == "custom_tool_call")]

    def _item_done(self, item: dict[str, Any]) -> list[Event]:
        signature, origin = pieces.unsealed(item.get("encrypted_content"), "responses")
        if item.get("type") == "reasoning" and signature and origin:
            return [ReasoningSigned(signature, origin)]
        return []

    def end(self) -> list[Event]:
        if self._ended is None:
            raise cut_off()
        return [self._ended]


def _item(value: dict[str, Any]) -> dict[str, Any]:
    item = value.get("item")
    return item if isinstance(item, dict) else {}


class Encoder:
    def __init__(self, request: Request, created: int) -> None:
        self._request = request
        self._response = write_response(request, created)
        self._output: list[dict[str, Any]] = []
        self._sequence = 0
        self._item: dict[str, Any] | None = None  # the one that is open, as it will be when done
        self._text: list[str] = []

    def feed(self, event: Event) -> list[bytes]:
        match event:
            case Begun():
                self._response["model"] = event.model or self._response["model"]
                both = ("response.created", "response.in_progress")
                return [self._event(kind, response=self._response) for kind in both]
            case TextDelta():
                opened = self._opened("message", Text(""))
                return [*opened, self._delta("response.output_text", event.text)]
            case ReasoningDelta():
                opened = self._opened("reasoning", Reasoning(""))
                return [*opened, self._delta("response.reasoning_summary_text", event.text)]
            case ReasoningSigned():
                opened = self._opened("reasoning", Reasoning(""))
                assert self._item is not None
                sealed = pieces.sealed(event.signature, event.origin, "responses")
                self._item["encrypted_content"] = sealed
                return [*opened, *self._closed()]
            case CallBegun():
                call = Call(event.id, event.name, "", event.custom)
                return [*self._closed(), *self._open(write_output(call, self._request))]
            case CallDelta():
                assert self._item is not None
                return [self._delta(_CALLS[self._item["type"]], event.arguments)]
            case Ended():
                closed = self._closed()
                last = {**self._response, "output": self._output}
                last |= ended_with(event.stop, event.usage)
                kind = f"response.{last['status']}"
                return [*closed, self._event(kind, response=last)]

    def _opened(self, kind: str, empty: Text | Reasoning) -> list[bytes]:
        if self._item is not None and self._item["type"] == kind:
            return []
        return [*self._closed(), *self._open(write_output(empty, self._request))]

    def _open(self, item: dict[str, Any]) -> list[bytes]:
        self._item, self._text = item, []
        shown = {**item, "status": "in_progress"}
        match item["type"]:
            case "message":
                self._part = ("response.content_part", item["content"][0])
                shown["content"] = []
            case "reasoning":
                self._part = ("response.reasoning_summary_part", _summary(""))
                shown = {**item, "summary": []}
            case _:
                self._part = ("", {})
        added = [self._event("response.output_item.added", item=shown, **self._place(item=True))]
        name, part = self._part
        if name:
            added.append(self._event(f"{name}.added", part=part, **self._place()))
        return added

    def _closed(self) -> list[bytes]:
        """Of the open item: `done` of its text, its part and itself."""
        item, text = self._item, "".join(self._text)
        if item is None:
            return []
        done: list[bytes] = []
        name, part = self._part
        match item["type"]:
            case "message":
                part = {**part, "text": text}
                item["content"] = [part]
                done.append(self._done("response.output_text", text=text, logprobs=[]))
            case "reasoning":
                part = _summary(text)
                item["summary"] = [part] if text else []
                done.append(self._done("response.reasoning_summary_text", text=text))
            case "function_call":
                item["arguments"] = text
                kind = "response.function_call_arguments"
                done.append(self._done(kind, arguments=text))
            case "custom_tool_call":
                item["input"] = text
                done.append(self._done("response.custom_tool_call_input", input=text))
        if name:
            done.append(self._event(f"{name}.done", part=part, **self._place()))
        done.append(self._event("response.output_item.done", item=item, **self._place(item=True)))
        self._output.append(item)
        self._item = None
        return done

    def _delta(self, name: str, text: str) -> bytes:
        self._text.append(text)
        more: dict[str, Any] = {"logprobs": []} if name == "response.output_text" else {}
        return self._event(f"{name}.delta", **self._place(), delta=text, **more)

    def _done(self, name: str, **fields: Any) -> bytes:
        return self._event(f"{name}.done", **self._place(), **fields)

    def _place(self, *, item: bool = False) -> dict[str, Any]:
        """Where in the response something stands."""
        assert self._item is not None
        place: dict[str, Any] = {"output_index": len(self._output)}
        if item:
            return place
        place["item_id"] = self._item["id"]
        if self._item["type"] == "message":
            place["content_index"] = 0
        elif self._item["type"] == "reasoning":
            place["summary_index"] = 0
        return place

    def _event(self, kind: str, **fields: Any) -> bytes:
        data = {"type": kind, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return sse.event_of(pieces.dumped(data), kind)


_CALLS = {
    "function_call": "response.function_call_arguments",
    "custom_tool_call": "response.custom_tool_call_input",
}


def _summary(text: str) -> dict[str, Any]:
    return {"type": "summary_text", "text": text}
