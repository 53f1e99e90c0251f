"""Asking a provider in a format that it speaks, and answering in the client's own.

The same format passes byte for byte. Another is translated by way of what all have in common
(canonical.py). `asking` is what everything that has a provider to ask uses in place of
`provider.ask`. An error of the provider's becomes one of the client's format, of the same status.
Raises: Rejected (`unsupported`, `request-malformed`, 400), before anything was sent; what
Provider.ask raises; UpstreamFailed for an answer that cannot be read.
"""

import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from wfhub_common.errors import Rejected, WfhubError
from wfhub_common.model_paths import Format

from wfhub_llm_gateway import sse
from wfhub_llm_gateway.completion import DONE, chunk_of
from wfhub_llm_gateway.formats import BY_NAME
from wfhub_llm_gateway.formats.asked import (
    Asked,
    UpstreamFailed,
    json_bytes,
    malformed,
    too_deep,
    unsupported,
)
from wfhub_llm_gateway.provider import Answer, Provider
from wfhub_llm_gateway.translation import streams
from wfhub_llm_gateway.translation.canonical import Request
from wfhub_llm_gateway.translation.port import TRANSLATORS

ANSWER_BYTES_MAX = 64 * 1024 * 1024  # of a whole answer, which is held to be translated
# What reading and writing meet in an answer that no server should give. Rejected is theirs for a
# request; here nobody asked wrongly.
_NOT_AS_IT_SHOULD_BE = (
    *(ValueError, LookupError, TypeError, AttributeError, RecursionError, AssertionError),
    Rejected,
)


@asynccontextmanager
async def asking(provider: Provider, asked: Asked, *, attempt_id: str) -> AsyncIterator[Answer]:
    if asked.format in provider.speaks:
        async with provider.ask(asked, attempt_id=attempt_id) as answer:
            # An error page of some proxy's before the server is in no format at all.
            page = answer.status >= 400 and "json" not in answer.headers.get("content-type", "")
            yield await _refused(answer, asked.format) if page else answer
        return
    if asked.operation == "count":
        yield _estimated(asked)
        return
    if asked.operation == "embed":
        raise unsupported(f"the provider {provider.name!r} has no embeddings")
    spoken = provider.speaks[0]
    request, translated = translation(asked, spoken)
    async with provider.ask(translated, attempt_id=attempt_id) as answer:
        if answer.status >= 400:
            yield await _refused(answer, asked.format)
        elif answer.stream:
            headers = {"content-type": sse.CONTENT_TYPE}
            chunks = _streamed(answer.chunks, request, spoken, asked.format)
            yield Answer(answer.status, True, chunks, headers)
        else:
            body = await _whole(answer, request, spoken, asked.format)
            yield Answer(answer.status, False, _once(body), {"content-type": "application/json"})


def translation(asked: Asked, spoken: Format) -> tuple[Request, Asked]:
    """What is asked, and the same in the format `spoken`."""
    try:
        request = TRANSLATORS[asked.format].read_request(asked)
        value = TRANSLATORS[spoken].write_request(request)
    except (LookupError, TypeError, AttributeError, ValueError) as e:
        raise malformed(f"the request is not as its format has it ({_said(e)})") from e
    except RecursionError as e:
        raise too_deep() from e
    return request, Asked(
        format=spoken,
        operation=asked.operation,
        raw=json_bytes(value),
        value=value,
        model=asked.model,
        named_model=asked.model,
        stream=asked.stream,
        prompt_estimate=asked.prompt_estimate,
        completion_max=asked.completion_max,
    )


async def _whole(answer: Answer, request: Request, spoken: Format, wanted: Format) -> bytes:
    body = await _read(answer)
    try:
        found = TRANSLATORS[spoken].read_answer(json.loads(body))
        found = streams.customised(found, request.custom_tools)
        value = TRANSLATORS[wanted].write_answer(found, request, int(time.time()))
        return json_bytes(value)
    except _NOT_AS_IT_SHOULD_BE as e:
        raise UpstreamFailed(
            "upstream-malformed",
            f"the model server's answer is not as its format has it ({_said(e)})",
        ) from e


async def _read(answer: Answer) -> bytes:
    body = bytearray()
    async for chunk in answer.chunks:
        body += chunk
        if len(body) > ANSWER_BYTES_MAX:
            raise UpstreamFailed(
                "response-too-large", f"the model's answer is over {ANSWER_BYTES_MAX} bytes"
            )
    return bytes(body)


async def _streamed(
    chunks: AsyncIterator[bytes], request: Request, spoken: Format, wanted: Format
) -> AsyncIterator[bytes]:
    """Whole events; several in one piece, if they came so."""
    decoder = TRANSLATORS[spoken].decoder(request)
    encoder = TRANSLATORS[wanted].encoder(request, int(time.time()))
    custom = streams.Customised(request.custom_tools)
    splitter = sse.Splitter()

    def written(raw: bytes | None) -> bytes:
        """None: there is no more."""
        try:
            if raw is None:
                found = decoder.end()
            else:
                value = _value(raw)
                found = decoder.feed(value) if value else []
            return b"".join(out for event in custom.passed(found) for out in encoder.feed(event))
        except _NOT_AS_IT_SHOULD_BE as e:
            raise streams.odd(f"it is not as its format has it ({_said(e)})") from e

    async for chunk in chunks:
        try:
            events = list(splitter.feed(chunk))
        except ValueError as e:
            raise streams.odd(str(e)) from e
        for event in events:
            if out := written(event):
                yield out
    if splitter.rest and (out := written(splitter.rest)):
        yield out
    yield written(None)


def _value(event: bytes) -> dict[str, object] | None:
    data = sse.data_of(event)
    if data is None or data.strip() in ("", DONE):
        return None
    value = chunk_of(data)
    if value is None:
        raise streams.odd("an event's data is no JSON object")
    return value


async def _refused(answer: Answer, wanted: Format) -> Answer:
    """In the client's format; the status and when to ask again stay as they are."""
    body = await _read(answer)
    try:
        text = streams.error_text(json.loads(body))
    except (ValueError, RecursionError):
        text = body[: streams.SHOWN_CHARS_MAX].decode(errors="replace")
    error = Rejected("upstream-refused", f"the model server: {text}", status=answer.status)
    headers = {"content-type": "application/json"}
    if "retry-after" in answer.headers:
        headers["retry-after"] = answer.headers["retry-after"]
    return Answer(answer.status, False, _once(_error_body(error, wanted)), headers)


def _error_body(error: WfhubError, wanted: Format) -> bytes:
    return json_bytes(BY_NAME[wanted].error_value(error))


def _estimated(asked: Asked) -> Answer:
    """Nobody is asked: a provider of another format counts in no way that the client knows."""
    value = BY_NAME[asked.format].count_value(asked.prompt_estimate)
    return Answer(200, False, _once(json_bytes(value)))


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


async def _once(body: bytes) -> AsyncIterator[bytes]:
    yield body
