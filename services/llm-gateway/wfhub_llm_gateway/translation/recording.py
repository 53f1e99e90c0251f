"""Exchanges as a cassette has them: Chat Completions, whatever was spoken.

So that a cassette that one agent's format recorded can be read by people, checked, and replayed in
any format. Chat Completions itself is kept as it was.
Raises: Rejected, ValueError, LookupError, TypeError, UpstreamFailed for what cannot be said in it.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from wfhub_llm_gateway.cassette import Response
from wfhub_llm_gateway.completion import DONE
from wfhub_llm_gateway.formats.asked import Asked
from wfhub_llm_gateway.translation import pieces, translation
from wfhub_llm_gateway.translation.canonical import Answer, Call, answer_of
from wfhub_llm_gateway.translation.port import TRANSLATORS


def recorded(
    asked: Asked, status: int, headers: dict[str, str], body: bytes, events: Sequence[str] | None
) -> tuple[dict[str, Any], Response]:
    """`events`: the data of a streamed answer, else None. (Request, response.)"""
    if asked.format == "chat":
        if events is not None:
            return asked.value, Response(status, True, None, tuple(events), headers)
        return asked.value, Response(status, False, json.loads(body), (), headers)
    if status != 200:
        raise ValueError(f"an answer {status} in another format than Chat Completions")
    request, in_chat = translation(asked, "chat")
    spoken = TRANSLATORS[asked.format]
    if events is None:
        answer = spoken.read_answer(json.loads(body))
    else:
        decoder = spoken.decoder(request)
        found = [e for data in events if data != DONE for e in decoder.feed(json.loads(data))]
        answer = answer_of(found + decoder.end())
    whole = TRANSLATORS["chat"].write_answer(_functions_only(answer), request, 0)
    kept = {"content-type": "application/json"}
    return in_chat.value, Response(200, False, whole, (), kept)


def _functions_only(answer: Answer) -> Answer:
    """As a model that knows no custom tools would have called them; a replay turns them back."""
    parts = tuple(
        replace(part, arguments=pieces.as_function(part), custom=False)
        if isinstance(part, Call)
        else part
        for part in answer.parts
    )
    return replace(answer, parts=parts)
