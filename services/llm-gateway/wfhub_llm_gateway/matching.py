"""Matching: when is a request the same as a recorded one, and if none is, how do they differ?

A request is compared by its messages and tools, after normalisation: what changes from run to run
without changing the meaning (durations, times, temporary paths, ids, addresses) is masked, a
content given as one text part becomes that text, nulls are dropped. Normalising twice changes
nothing. Pure; no I/O.
"""

import difflib
import json
import re
from collections.abc import Iterable
from typing import Any

Mask = tuple[re.Pattern[str], str]

ANY = "<any>"
DIFF_LINES_MAX = 40
DIFF_LINE_CHARS_MAX = 240
COMPARED_CHARS_MAX = 4000  # of one message, when the nearest exchange is looked for

# Order matters: what contains other patterns comes first.
MASKS: tuple[Mask, ...] = tuple(
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\b(?:wat|wst|wht)_[A-Za-z0-9_-]{20,}", "<token>"),
        (r"/(?:tmp|var/tmp|private/tmp|var/folders|dev/shm)/[^\s'\"`,;:()\[\]{}<>\\]+", "<tmp>"),
        (r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b", "<uuid>"),
        (r"\b(?:prj|tsk|unt|att|rnr|prf|evt|clm)_[a-z2-7]{24}\b", "<id>"),
        (r"\b(?:call|chatcmpl|toolu|msg|resp)[_-][A-Za-z0-9_-]{6,}", "<id>"),
        (r"\b(?:[0-9a-f]{64}|[0-9a-f]{40})\b", "<digest>"),
        (r"\b0x[0-9a-fA-F]{4,}\b", "<address>"),
        (
            r"\b\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?(?:Z|[+-]\d\d:?\d\d)?)?\b",
            "<time>",
        ),
        (r"\b\d+(?:\.\d+)?\s?(?:ns|us|µs|ms|s|secs?|seconds?|minutes?)\b", "<duration>"),
        (r"\b(127\.0\.0\.1|localhost):\d{2,5}\b", r"\1:<port>"),
        # pytest and its like fill a line up to a width, so the fill depends on the duration.
        (r"={4,}", "===="),
        (r"-{4,}", "----"),
        (r"_{4,}", "____"),
    )
)


def normalised(request: dict[str, Any], masks: Iterable[Mask] = ()) -> dict[str, Any]:
    """{"messages", "tools"} of a request, masked; `masks` (a cassette's own) go first."""
    both = (*masks, *MASKS)
    kept: dict[str, Any] = {"messages": [_message(m, both) for m in request.get("messages", [])]}
    if "tools" in request:
        kept["tools"] = _masked(request["tools"] or [], both)
    return kept


def _message(message: Any, masks: tuple[Mask, ...]) -> Any:
    if isinstance(message, dict):
        message = {**message, "content": _content(message.get("content"))}
    return _masked(message, masks)


def _content(content: Any) -> Any:
    match content:
        case [{"type": "text", "text": str(text)}]:
            return text
        case []:
            return None
    return content


def _masked(value: Any, masks: tuple[Mask, ...]) -> Any:
    match value:
        case str():
            for pattern, replacement in masks:
                value = pattern.sub(replacement, value)
            return value
        case dict():
            return {k: _masked(v, masks) for k, v in value.items() if v is not None}
        case list():
            return [_masked(item, masks) for item in value]
    return value


def matches(recorded: dict[str, Any], asked: dict[str, Any]) -> bool:
    """Both normalised. See cassette.py for what a recorded request may leave open."""
    ours, theirs = recorded["messages"], asked["messages"]
    if len(ours) != len(theirs):
        return False
    if "tools" in recorded and not _same(recorded["tools"], asked.get("tools", [])):
        return False
    return all(_same_message(a, b) for a, b in zip(ours, theirs, strict=True))


def _same_message(recorded: Any, asked: Any) -> bool:
    if not (isinstance(recorded, dict) and isinstance(asked, dict)):
        return bool(recorded == asked)
    return all(_same(value, asked.get(key)) for key, value in recorded.items())


def _same(recorded: Any, asked: Any) -> bool:
    if recorded == ANY:
        return True
    if isinstance(recorded, dict) and isinstance(asked, dict):
        return recorded.keys() == asked.keys() and all(
            _same(value, asked[key]) for key, value in recorded.items()
        )
    if isinstance(recorded, list) and isinstance(asked, list):
        return len(recorded) == len(asked) and all(map(_same, recorded, asked))
    return bool(recorded == asked)


def nearest(recorded: list[dict[str, Any]], asked: dict[str, Any]) -> int | None:
    """The index of the recorded request that is most like `asked`: the one with most equal
    messages from the start, and of those the one whose next message is most similar."""

    def likeness(request: dict[str, Any]) -> tuple[int, float, int]:
        ours, theirs = request["messages"], asked["messages"]
        same = 0
        while same < min(len(ours), len(theirs)) and _same_message(ours[same], theirs[same]):
            same += 1
        a, b = (_pretty(m[same : same + 1])[:COMPARED_CHARS_MAX] for m in (ours, theirs))
        ratio = difflib.SequenceMatcher(None, a, b, autojunk=False).quick_ratio()
        return same, ratio, -abs(len(ours) - len(theirs))

    scores = [likeness(request) for request in recorded]
    return scores.index(max(scores)) if scores else None


def difference(recorded: dict[str, Any], asked: dict[str, Any]) -> str:
    """A short unified diff, recorded → asked."""
    if "tools" not in recorded:
        asked = {k: v for k, v in asked.items() if k != "tools"}
    asked = _but_open(recorded, asked)
    lines = list(
        difflib.unified_diff(
            _pretty(recorded).splitlines(),
            _pretty(asked).splitlines(),
            "recorded",
            "asked",
            n=1,
            lineterm="",
        )
    )
    shown = [line[:DIFF_LINE_CHARS_MAX] for line in lines[:DIFF_LINES_MAX]]
    if len(lines) > DIFF_LINES_MAX:
        shown.append(f"… {len(lines) - DIFF_LINES_MAX} more lines")
    return "\n".join(shown)


def _but_open(recorded: Any, asked: Any) -> Any:
    """`asked`, with ANY wherever `recorded` leaves the value open: no difference lies there."""
    if recorded == ANY:
        return ANY
    if isinstance(recorded, dict) and isinstance(asked, dict):
        return {k: _but_open(recorded.get(k), v) for k, v in asked.items()}
    if isinstance(recorded, list) and isinstance(asked, list):
        rest = asked[len(recorded) :]
        return [*(_but_open(a, b) for a, b in zip(recorded, asked, strict=False)), *rest]
    return asked


def _pretty(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False)
