"""Tokens of one answer: what the server reported, and our own count until it does.

The server's `usage` is what the ledger shows. The estimate is for the budget alone: it is what a
stream is cut by, and what is charged when no usage came (a client that hangs up early, a server
that reports none), so that leaving early is not free. Units: tokens.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from wfhub_llm_gateway import completion, sse

CHARS_PER_TOKEN = 4
IMAGE_TOKENS = 1000  # what an image part counts in an estimate, whatever its size
TOKENS_MAX = 2**31 - 1  # a count beyond this is a server's mistake


@dataclass(frozen=True)
class Tokens:
    prompt: int
    completion: int

    @property
    def total(self) -> int:
        return self.prompt + self.completion


def reported(value: dict[str, Any]) -> Tokens | None:
    """The usage in a completion or chunk, if it carries one."""
    usage = value.get("usage")
    if not isinstance(usage, dict):
        return None
    counts = [usage.get(key) for key in ("prompt_tokens", "completion_tokens")]
    if not any(isinstance(n, int) for n in counts):
        return None
    prompt, answer = (min(max(n, 0), TOKENS_MAX) if isinstance(n, int) else 0 for n in counts)
    return Tokens(prompt, answer)


def prompt_estimate(value: dict[str, Any]) -> int:
    """Of a request's messages and tools, from the length of their JSON."""
    images = 0

    def without_images(item: Any) -> Any:
        nonlocal images
        if isinstance(item, dict):
            if item.get("type") in ("image_url", "input_audio", "file"):
                images += 1
                return None
            return {key: without_images(part) for key, part in item.items()}
        return [without_images(part) for part in item] if isinstance(item, list) else item

    kept = [without_images(value.get(key) or []) for key in ("messages", "tools")]
    chars = sum(len(json.dumps(part, ensure_ascii=False)) for part in kept if part)
    return 1 + chars // CHARS_PER_TOKEN + images * IMAGE_TOKENS


@dataclass
class Tap:
    """Looks at an answer as it passes. `estimated` counts completion tokens from the text."""

    reported: Tokens | None = None
    estimated: int = 0
    model: str = ""
    events: list[str] = field(default_factory=list)  # data of the stream's events so far

    def event(self, raw: bytes) -> None:
        data = sse.data_of(raw)
        if data is None:
            return
        self.events.append(data)
        chunk = completion.chunk_of(data)
        if chunk is None:
            return
        self._seen(chunk)
        for choice in completion.choices_of(chunk):
            chars = _text_chars(choice.get("delta"))
            if chars:
                self.estimated += max(1, chars // CHARS_PER_TOKEN)

    def whole(self, value: Any) -> None:
        if not isinstance(value, dict):
            return
        self._seen(value)
        chars = sum(_text_chars(choice.get("message")) for choice in completion.choices_of(value))
        self.estimated += chars // CHARS_PER_TOKEN

    def _seen(self, value: dict[str, Any]) -> None:
        self.reported = reported(value) or self.reported
        model = value.get("model")
        if isinstance(model, str) and not self.model:
            self.model = model


def _text_chars(value: Any) -> int:
    """Characters of all texts in a delta or message, but its role and ids."""
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(_text_chars(v) for k, v in value.items() if k not in ("role", "id", "type"))
    return sum(map(_text_chars, value)) if isinstance(value, list) else 0
