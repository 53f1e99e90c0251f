"""What the streams of all formats share: what decoders say when one is not what it should be,
and calls of custom tools, which most formats know as functions of one text."""

from dataclasses import replace
from typing import Any

from wfhub_llm_gateway.formats.asked import UpstreamFailed
from wfhub_llm_gateway.translation import pieces
from wfhub_llm_gateway.translation.canonical import Answer, Call, CallBegun, CallDelta, Event

SHOWN_CHARS_MAX = 2000


def odd(what: str) -> UpstreamFailed:
    return UpstreamFailed("upstream-malformed", f"the model server's stream: {what}")


def cut_off() -> UpstreamFailed:
    return UpstreamFailed(
        "upstream-disconnected",
        "the model server ended its stream before the answer was complete; its own log should say "
        "why",
    )


def said_error(value: dict[str, Any]) -> UpstreamFailed:
    return UpstreamFailed(
        "upstream-error", f"the model server broke off its answer: {error_text(value)}"
    )


def error_text(value: Any) -> str:
    """What an error in any of the formats says."""
    found = value
    if isinstance(found, dict):
        found = found.get("error", found)
    if isinstance(found, dict):
        found = found.get("message", found)
    return (found if isinstance(found, str) else str(found))[:SHOWN_CHARS_MAX]


class Customised:
    """Between a decoder and an encoder: calls of the functions that stand for custom tools become
    calls of those. Their arguments are held back until they are complete."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._held: list[str] | None = None

    def passed(self, events: list[Event]) -> list[Event]:
        if not self._names:
            return events
        passed: list[Event] = []
        for event in events:
            if isinstance(event, CallDelta) and self._held is not None:
                self._held.append(event.arguments)
                continue
            if self._held is not None:
                passed.append(CallDelta(pieces.custom_input("".join(self._held))))
                self._held = None
            if isinstance(event, CallBegun) and event.name in self._names and not event.custom:
                self._held = []
                passed.append(replace(event, custom=True))
            else:
                passed.append(event)
        return passed


def customised(answer: Answer, names: frozenset[str]) -> Answer:
    """The same for a whole answer."""
    parts = tuple(
        replace(part, custom=True, arguments=pieces.custom_input(part.arguments))
        if isinstance(part, Call) and part.name in names and not part.custom
        else part
        for part in answer.parts
    )
    return replace(answer, parts=parts)
