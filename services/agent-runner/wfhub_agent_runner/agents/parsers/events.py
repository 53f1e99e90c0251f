"""The common stream: what an agent did, in the same words whichever agent it was.

    {"event": "step", "number": 3}
    {"event": "message", "text": "…"}                      what the model said
    {"event": "told", "text": "…"}                         what somebody said to the agent meanwhile
    {"event": "tool-call", "id": "…", "name": "…", "arguments": "…"}   arguments: JSON, or a text
    {"event": "tool-result", "id": "…", "ok": true, "text": "…"}
    {"event": "usage", "input_tokens": 1, "output_tokens": 2}
    {"event": "error", "text": "…"}

It is what the agent says of itself, so it is shown to people, and never decides anything.
"""

import json
from dataclasses import dataclass
from typing import Any

TEXT_CHARS_MAX = 8_000  # of one text: head and tail are kept


@dataclass(frozen=True)
class Event:
    kind: str
    fields: dict[str, Any]

    def line(self) -> bytes:
        kept = {k: clipped(v) if isinstance(v, str) else v for k, v in self.fields.items()}
        # A lone surrogate, which JSON may name, has no UTF-8.
        text = json.dumps({"event": self.kind, **kept}, ensure_ascii=False)
        return text.encode(errors="replace") + b"\n"


def step(number: int) -> Event:
    return Event("step", {"number": number})


def message(text: Any) -> Event:
    return Event("message", {"text": plain(text)})


def told(text: Any) -> Event:
    return Event("told", {"text": plain(text)})


def tool_call(call_id: Any, name: Any, arguments: Any) -> Event:
    named = {"id": plain(call_id), "name": plain(name)}
    return Event("tool-call", {**named, "arguments": plain(arguments)})


def tool_result(call_id: Any, text: Any, *, ok: bool) -> Event:
    return Event("tool-result", {"id": plain(call_id), "ok": ok, "text": plain(text)})


def usage(input_tokens: Any, output_tokens: Any) -> Event:
    counts = {"input_tokens": whole(input_tokens), "output_tokens": whole(output_tokens)}
    return Event("usage", counts)


def error(text: Any) -> Event:
    return Event("error", {"text": plain(text)})


def plain(value: Any) -> str:
    """A text as it is, nothing as nothing, anything else as JSON."""
    if isinstance(value, str):
        return value
    return "" if value is None else json.dumps(value, ensure_ascii=False)


def whole(value: Any) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**53 else 0


def texts(parts: Any) -> str:
    """The text of a content: a string, or a list of parts of which some have one."""
    if isinstance(parts, list):
        return "".join(plain(p.get("text")) for p in parts if isinstance(p, dict))
    return plain(parts)


def clipped(text: str) -> str:
    if len(text) <= TEXT_CHARS_MAX:
        return text
    half = TEXT_CHARS_MAX // 2
    return f"{text[:half]}\n[… {len(text) - 2 * half} characters left out …]\n{text[-half:]}"
