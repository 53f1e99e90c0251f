"""The provider that ends an agent's conversation, for one that was told to hand in what it has and
does not listen: no model is asked, and the answer is a last message in the agent's own format.

The relay asks for it by HAND_IN_HEADER: JSON, {} or {"tool", "arguments"}, which is the call by
which that agent says that it is done, where words alone do not end it. It is made only if the
request offers that tool. Costs nothing. Raises: nothing of its own.
"""

import json
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, get_args

from wfhub_common import ids
from wfhub_common.model_paths import Format

from wfhub_llm_gateway import sse
from wfhub_llm_gateway.formats.asked import Asked, json_bytes
from wfhub_llm_gateway.provider import Answer
from wfhub_llm_gateway.translation import canonical
from wfhub_llm_gateway.translation.canonical import Call, Request, Text
from wfhub_llm_gateway.translation.port import TRANSLATORS
from wfhub_llm_gateway.usage import Tokens

SAID = "I was asked to stop here and to hand in what I have. That is what the workspace holds."
HEADER_CHARS_MAX = 2000


@dataclass(frozen=True)
class LastWord:
    """`tool` "": words are enough."""

    tool: str = ""
    arguments: Mapping[str, Any] = field(default_factory=dict)


def read(header: str | None) -> LastWord | None:
    """Of HAND_IN_HEADER; whatever cannot be read means words."""
    if header is None:
        return None
    try:
        value = json.loads(header[:HEADER_CHARS_MAX])
        return LastWord(str(value.get("tool", "")), dict(value.get("arguments", {})))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return LastWord()


class LastWordProvider:
    name = "hand-in"
    replayed = False
    note = "told to hand in; no model was asked"
    speaks: tuple[Format, ...] = get_args(Format)

    def __init__(self, word: LastWord) -> None:
        self._word = word

    @asynccontextmanager
    async def ask(self, asked: Asked, *, attempt_id: str) -> AsyncIterator[Answer]:
        spoken = TRANSLATORS[asked.format]
        request = _request(asked)
        answer = self._answer(asked, request)
        if not asked.stream:
            value = spoken.write_answer(answer, request, int(time.time()))
            body = json_bytes(value)
            yield Answer(200, False, _once(body), {"content-type": "application/json"})
            return
        encoder = spoken.encoder(request, int(time.time()))
        events = canonical.events_of(answer)
        body = b"".join(out for event in events for out in encoder.feed(event))
        yield Answer(200, True, _once(body), {"content-type": sse.CONTENT_TYPE})

    def _answer(self, asked: Asked, request: Request) -> canonical.Answer:
        unique = ids.new_attempt_id().partition("_")[2]
        word, parts = self._word, [Text(SAID)]
        calls: list[Call] = []
        if word.tool and any(tool.name == word.tool for tool in request.tools):
            calls = [Call(f"call_{unique}", word.tool, json.dumps(dict(word.arguments)))]
        return canonical.Answer(
            f"handin-{unique}",
            asked.model or "hand-in",
            (*parts, *calls),
            "tools" if calls else "end",
            Tokens(0, 0),
        )

    async def models(self) -> list[dict[str, Any]]:
        return []

    def candidates(self, model: str) -> list[tuple[str, str]]:
        return []

    def forget(self, attempt_id: str) -> None:
        pass

    async def close(self) -> None:
        pass


def _request(asked: Asked) -> Request:
    """As much of it as can be read: what nobody will be asked need not be right."""
    try:
        return TRANSLATORS[asked.format].read_request(asked)
    except Exception:  # noqa: BLE001 - it is only looked at for its tools
        return Request(asked.model, (), stream=asked.stream)


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
