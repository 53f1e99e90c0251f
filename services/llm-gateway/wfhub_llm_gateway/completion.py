"""Chat completions: a whole one and its stream of chunks, and the way between them.

A whole is {"choices": [{"index", "message", "finish_reason"}], "usage"?, …}; chunks are the same
with `delta` in place of `message`; a stream ends with "[DONE]". Texts and tool-call arguments are
concatenated, other fields of a delta are taken as they come last. Pure; no I/O.
"""

import json
from collections.abc import Iterable, Iterator
from typing import Any

DONE = "[DONE]"
_SHARED = ("id", "created", "model", "system_fingerprint")


def is_whole(value: Any) -> bool:
    choices = value.get("choices") if isinstance(value, dict) else None
    return isinstance(choices, list) and all(
        isinstance(c, dict) and isinstance(c.get("message"), dict) for c in choices
    )


def is_event(data: str) -> bool:
    return data.strip() == DONE or chunk_of(data) is not None


def chunk_of(data: str) -> dict[str, Any] | None:
    """The JSON object in an event's data; None for [DONE] and whatever is not one."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def choices_of(value: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices of a whole or a chunk; [] for whatever a server sent in their place."""
    choices = value.get("choices")
    return [c for c in choices if isinstance(c, dict)] if isinstance(choices, list) else []


def to_events(whole: dict[str, Any], *, include_usage: bool) -> Iterator[str]:
    """The data of the events that a server would have streamed."""
    shared = {key: whole[key] for key in _SHARED if key in whole}
    shared["object"] = "chat.completion.chunk"

    def event(**fields: Any) -> str:
        return json.dumps({**shared, **fields}, ensure_ascii=False, separators=(",", ":"))

    for choice in whole.get("choices", []):
        index = choice.get("index", 0)
        delta = {key: value for key, value in choice["message"].items() if value is not None}
        calls = delta.get("tool_calls")
        if isinstance(calls, list):
            delta["tool_calls"] = [{"index": n, **call} for n, call in enumerate(calls)]
        yield event(choices=[{"index": index, "delta": delta, "finish_reason": None}])
        finish = choice.get("finish_reason", "stop")
        yield event(choices=[{"index": index, "delta": {}, "finish_reason": finish}])
    if include_usage and isinstance(whole.get("usage"), dict):
        yield event(choices=[], usage=whole["usage"])
    yield DONE


def to_whole(events: Iterable[str]) -> dict[str, Any]:
    whole: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in filter(None, map(chunk_of, events)):
        for key in _SHARED:
            if key in chunk:
                whole.setdefault(key, chunk[key])
        if isinstance(chunk.get("usage"), dict):
            whole["usage"] = chunk["usage"]
        for part in choices_of(chunk):
            index = part.get("index", 0)
            choice = choices.setdefault(
                index, {"index": index, "message": {"role": "assistant"}, "finish_reason": None}
            )
            _add(choice["message"], part.get("delta") or {})
            choice["finish_reason"] = part.get("finish_reason") or choice["finish_reason"]
    for choice in choices.values():
        choice["message"].setdefault("content", None)
    return {**whole, "object": "chat.completion", "choices": [choices[i] for i in sorted(choices)]}


def _add(message: dict[str, Any], delta: dict[str, Any]) -> None:
    for key, value in delta.items():
        if value is None:
            continue
        if key == "tool_calls":
            _add_calls(message.setdefault("tool_calls", []), value)
        elif isinstance(value, str) and key != "role":
            message[key] = (message.get(key) or "") + value
        else:
            message[key] = value


def _add_calls(calls: list[dict[str, Any]], parts: list[dict[str, Any]]) -> None:
    for part in parts:
        index = part.get("index", len(calls))
        if not 0 <= index < len(calls):  # servers count from 0 without gaps; never trust it
            calls.append({"type": "function", "function": {"name": "", "arguments": ""}})
            index = len(calls) - 1
        call = calls[index]
        call.update({k: v for k, v in part.items() if k in ("id", "type") and v is not None})
        for key in ("name", "arguments"):
            call["function"][key] += (part.get("function") or {}).get(key) or ""
