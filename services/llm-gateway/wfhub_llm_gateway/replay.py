"""Provider `replay`: answers from a cassette, so that a run is the same each time, and free.

Which exchange answers is decided by matching.py, and by how often this attempt has asked the same
before; that count lives in this process (a restarted gateway starts over with the first).
Raises: Rejected (`no-recorded-exchange`, 409) with the nearest exchange and a diff.
"""

import json
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from wfhub_common import digests
from wfhub_common.errors import Rejected
from wfhub_common.model_paths import Format

from wfhub_llm_gateway import completion, matching, sse
from wfhub_llm_gateway.cassette import Cassette, Recorded, Response
from wfhub_llm_gateway.formats.asked import Asked, json_bytes, unsupported
from wfhub_llm_gateway.formats.chat import wants_usage
from wfhub_llm_gateway.provider import Answer

ATTEMPTS_REMEMBERED_MAX = 10_000


class ReplayProvider:
    name = "replay"
    replayed = True
    speaks: tuple[Format, ...] = ("chat",)

    def __init__(self, cassette: Cassette) -> None:
        self._cassette = cassette
        self._masks = cassette.header.masks()
        self._asked: OrderedDict[str, Counter[str]] = OrderedDict()  # by attempt, by digest
        by_hand = " written by hand" if cassette.header.handwritten else ""
        self.note = f"replayed cassette{by_hand}"

    @asynccontextmanager
    async def ask(self, request: Asked, *, attempt_id: str) -> AsyncIterator[Answer]:
        if request.operation != "generate":
            raise unsupported("a cassette holds answers to generations only")
        asked = matching.normalised(request.value, self._masks)
        found = [r for r in self._cassette.exchanges if matching.matches(r.request, asked)]
        if not found:
            raise self._no_match(asked)
        turn = self._turn(attempt_id, asked)
        response = found[min(turn, len(found) - 1)].response
        stream = request.stream and response.status == 200
        chunks = _stream(response, wants_usage(request.value)) if stream else [_whole(response)]
        content_type = sse.CONTENT_TYPE if stream else "application/json"
        yield Answer(
            status=response.status,
            stream=stream,
            chunks=_each(chunks),
            headers={"content-type": content_type},
        )

    async def models(self) -> list[dict[str, Any]]:
        names = {_model(recorded.response) for recorded in self._cassette.exchanges} - {""}
        return [
            {"id": name, "object": "model", "created": 0, "owned_by": "replay"}
            for name in sorted(names) or ["replay"]
        ]

    def candidates(self, model: str) -> list[tuple[str, str]]:
        return [(self.name, model)]

    def forget(self, attempt_id: str) -> None:
        self._asked.pop(attempt_id, None)

    async def close(self) -> None:
        pass

    def _turn(self, attempt_id: str, asked: dict[str, Any]) -> int:
        """How often this attempt asked the same before; counts this time."""
        counts = self._asked.setdefault(attempt_id, Counter())
        self._asked.move_to_end(attempt_id)
        if len(self._asked) > ATTEMPTS_REMEMBERED_MAX:
            self._asked.popitem(last=False)
        key = digests.of_bytes(json.dumps(asked, sort_keys=True).encode())
        counts[key] += 1
        return counts[key] - 1

    def _no_match(self, asked: dict[str, Any]) -> Rejected:
        exchanges: Sequence[Recorded] = self._cassette.exchanges
        index = matching.nearest([recorded.request for recorded in exchanges], asked)
        if index is None:
            message = "the cassette holds no exchange; record one with LLM_RECORD"
            return Rejected("no-recorded-exchange", message, status=409)
        recorded = exchanges[index]
        return Rejected(
            "no-recorded-exchange",
            f"no exchange of the cassette matches this request ({len(asked['messages'])} "
            f"messages); the nearest is on line {recorded.line}. Record anew with LLM_RECORD, or "
            "mask what changes from run to run in the header's `volatile`. How they differ:\n"
            + matching.difference(recorded.request, asked),
            status=409,
        )


def _stream(response: Response, include_usage: bool) -> list[bytes]:
    events = (
        response.events
        if response.stream
        else completion.to_events(response.body, include_usage=include_usage)
    )
    return [sse.event_of(data) for data in events]


def _whole(response: Response) -> bytes:
    body = completion.to_whole(response.events) if response.stream else response.body
    return json_bytes(body)


def _model(response: Response) -> str:
    body = completion.to_whole(response.events) if response.stream else response.body
    return str(body.get("model") or "") if isinstance(body, dict) else ""


async def _each(chunks: list[bytes]) -> AsyncIterator[bytes]:
    for chunk in chunks:
        yield chunk
