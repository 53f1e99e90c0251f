"""Tokens of one answer: what the server reported, and our own count until it does.

The server's `usage` is what the ledger shows. The estimate is for the budget alone: it is what a
stream is cut by, and what is charged when no usage came (a client that hangs up early, a server
that reports none), so that leaving early is not free. Units: tokens.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from wfhub_common.model_paths import MODEL_CHARS_MAX

from wfhub_llm_gateway import completion, sse

CHARS_PER_TOKEN = 4
# What a model is taken to think while its stream is open and says nothing: some think for minutes
# before a word is shown, and tell only at the end what it cost. As fast as the faster ones write.
UNSEEN_TOKENS_PER_S = 100.0
UNSEEN_TICK_S = 0.5
IMAGE_TOKENS = 1000  # what an image part counts in an estimate, whatever its size
TOKENS_MAX = 2**31 - 1  # a count beyond this is a server's mistake


@dataclass(frozen=True)
class Tokens:
    prompt: int  # all of it: what came from a cache too
    completion: int  # all of it: what was thought too
    cached: int = 0  # of the prompt, read from the provider's cache
    cache_written: int = 0  # of the prompt, put into it

    @property
    def total(self) -> int:
        return self.prompt + self.completion


@dataclass(frozen=True)
class Seen:
    """What one JSON object of an answer says: the whole, or an event's data."""

    model: Any  # a name, if it is a text
    tokens: Tokens | None
    chars: int  # of text that was generated
    partial: bool = False  # `tokens` are those of a stream's start


def counted(
    prompt: Any, answer: Any, *, cached: Any = None, cache_written: Any = None
) -> Tokens | None:
    """None when neither is a count."""
    if type(prompt) is not int and type(answer) is not int:
        return None
    return Tokens(*(_count(n) for n in (prompt, answer, cached, cache_written)))


def _count(n: Any) -> int:
    return min(max(n, 0), TOKENS_MAX) if type(n) is int else 0


def estimate(
    raw: bytes, value: dict[str, Any], keys: tuple[str, ...], images: tuple[str, ...]
) -> int:
    """Of what `keys` hold, from the length of its JSON. `images` are the types of parts, or the
    keys, that hold a picture or a file."""
    if not any(image.encode() in raw for image in images):
        chars = sum(len(_text(value[key])) for key in keys if value.get(key))
        return 1 + chars // CHARS_PER_TOKEN
    count = 0

    def without(item: Any) -> Any:
        nonlocal count
        if isinstance(item, dict):
            if item.get("type") in images or not item.keys().isdisjoint(images):
                count += 1
                return None
            return {key: without(part) for key, part in item.items()}
        return [without(part) for part in item] if isinstance(item, list) else item

    chars = sum(len(_text(without(value[key]))) for key in keys if value.get(key))
    return 1 + chars // CHARS_PER_TOKEN + count * IMAGE_TOKENS


def _text(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


@dataclass
class Tap:
    """Looks at an answer as it passes. `estimated` counts completion tokens from the text; `unseen`
    what may have been thought in silence since the server last told what it counts."""

    look: Callable[[dict[str, Any]], Seen]
    keep_events: bool = True
    reported: Tokens | None = None
    begun: Tokens | None = None  # what a stream said at its start: no count of the answer yet
    estimated: int = 0
    unseen: int = 0
    model: str = ""
    events: list[str] = field(default_factory=list)  # data of the stream's events so far
    sent_count: int = 0  # events that went on to the client
    first: dict[str, Any] | None = None
    malformed: bool = False  # an event's data was neither JSON nor a stream's end

    @property
    def spent(self) -> int:
        """Completion tokens by now, as far as anybody knows."""
        reported = self.reported.completion if self.reported else 0
        return max(self.estimated, reported) + self.unseen

    def event(self, raw: bytes) -> None:
        data = sse.data_of(raw)
        if data is None:
            return
        if self.keep_events:
            self.events.append(data)
        chunk = completion.chunk_of(data)
        if chunk is None:
            self.malformed = self.malformed or data.strip() not in ("", completion.DONE)
            return
        if self.first is None:
            self.first = chunk
        chars = self._seen(chunk)
        if chars:
            self.estimated += max(1, chars // CHARS_PER_TOKEN)

    def whole(self, value: Any) -> None:
        if isinstance(value, dict):
            self.estimated += self._seen(value) // CHARS_PER_TOKEN

    def _seen(self, value: dict[str, Any]) -> int:
        seen = self.look(value)
        if seen.tokens is not None and seen.tokens.total:  # zeros are a server's "not known"
            if seen.partial:
                self.begun = merged(self.begun, seen.tokens)
            else:
                self.reported = merged(self.reported or self.begun, seen.tokens)
                self.unseen = 0
        if isinstance(seen.model, str) and not self.model and seen.model.isprintable():
            self.model = seen.model[:MODEL_CHARS_MAX]
        return seen.chars


def merged(old: Tokens | None, new: Tokens | None) -> Tokens | None:
    """The newer counts; a stream may report the prompt first and the answer last."""
    if old is None or new is None:
        return new or old
    return Tokens(
        new.prompt or old.prompt,
        new.completion or old.completion,
        new.cached or old.cached,
        new.cache_written or old.cache_written,
    )


_NO_TEXT = frozenset(("role", "id", "type", "call_id", "signature", "encrypted_content", "index"))


def text_chars(value: Any) -> int:
    """Characters of all texts in a delta or message, but its role, ids and signatures."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(text_chars(v) for k, v in value.items() if k not in _NO_TEXT)
    return sum(map(text_chars, value)) if isinstance(value, list) else 0
