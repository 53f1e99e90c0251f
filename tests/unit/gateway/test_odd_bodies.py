"""Whatever stands anywhere in a request, an answer or a stream: read, or refused with its reason;
never an exception that nobody expected, which the client would be told as the gateway's failure."""

import json
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from functools import cache
from typing import Any

import pytest
from wfhub_common import model_paths
from wfhub_common.errors import Rejected
from wfhub_common.model_paths import Format
from wfhub_llm_gateway import translation
from wfhub_llm_gateway.formats import BY_NAME
from wfhub_llm_gateway.formats.asked import Asked, Head, UpstreamFailed
from wfhub_llm_gateway.formats.clamping import clamped
from wfhub_llm_gateway.provider import Answer
from wfhub_llm_gateway.translation.canonical import Request, events_of
from wfhub_llm_gateway.translation.port import TRANSLATORS
from wfhub_llm_gateway.usage import Tap

PATHS = {
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
    "gemini": "/v1beta/models/m:generateContent",
}
SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}}
PNG = "data:image/png;base64,aGk="
FUNCTION = {"name": "f", "description": "d", "parameters": SCHEMA}
REQUESTS: dict[str, dict[str, Any]] = {
    "chat": {
        "model": "m",
        "max_tokens": 5,
        "stop": ["x"],
        "reasoning_effort": "low",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "n", "schema": SCHEMA},
        },
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "tools": [{"type": "function", "function": FUNCTION}],
        "messages": [
            {"role": "system", "content": "s"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "hi"},
                    {"type": "image_url", "image_url": {"url": PNG}},
                ],
            },
            {
                "role": "assistant",
                "content": "c",
                "tool_calls": [
                    {
                        "id": "1",
                        "type": "function",
                        "function": {"name": "f", "arguments": '{"a":"b"}'},
                    }
                ],
            },
            {"role": "tool", "tool_call_id": "1", "content": "r"},
        ],
    },
    "responses": {
        "model": "m",
        "instructions": "i",
        "max_output_tokens": 5,
        "reasoning": {"effort": "low"},
        "text": {"format": {"type": "json_schema", "name": "n", "schema": SCHEMA}},
        "tool_choice": {"type": "function", "name": "f"},
        "tools": [{"type": "function", **FUNCTION}, {"type": "custom", "name": "g"}],
        "input": [
            {
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "hi"},
                    {"type": "input_image", "image_url": PNG},
                ],
            },
            {
                "type": "reasoning",
                "summary": [{"type": "summary_text", "text": "t"}],
                "encrypted_content": "e",
            },
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "x"}],
            },
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "1", "output": "r"},
            {"type": "custom_tool_call", "call_id": "2", "name": "g", "input": "z"},
            {"type": "custom_tool_call_output", "call_id": "2", "output": "r"},
        ],
    },
    "messages": {
        "model": "m",
        "max_tokens": 5,
        "system": [{"type": "text", "text": "s"}],
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "tool_choice": {"type": "tool", "name": "f"},
        "stop_sequences": ["x"],
        "tools": [{"name": "f", "description": "d", "input_schema": SCHEMA}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "hi"},
                    {
                        "type": "image",
                        "source": {"type": "base64", "media_type": "image/png", "data": "aGk="},
                    },
                ],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "t", "signature": "s"},
                    {"type": "tool_use", "id": "1", "name": "f", "input": {"a": "b"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {
                        "type": "tool_result",
                        "tool_use_id": "1",
                        "content": [{"type": "text", "text": "r"}],
                        "is_error": False,
                    }
                ],
            },
        ],
    },
    "gemini": {
        "systemInstruction": {"parts": [{"text": "s"}]},
        "generationConfig": {
            "maxOutputTokens": 5,
            "stopSequences": ["x"],
            "responseMimeType": "application/json",
            "responseSchema": SCHEMA,
            "thinkingConfig": {"thinkingBudget": 10},
        },
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
        "tools": [{"functionDeclarations": [FUNCTION]}],
        "contents": [
            {
                "role": "user",
                "parts": [
                    {"text": "hi"},
                    {"inlineData": {"mimeType": "image/png", "data": "aGk="}},
                ],
            },
            {
                "role": "model",
                "parts": [
                    {"text": "t", "thought": True, "thoughtSignature": "eA=="},
                    {"functionCall": {"name": "f", "args": {"a": "b"}}},
                ],
            },
            {
                "role": "user",
                "parts": [{"functionResponse": {"name": "f", "response": {"r": "x"}}}],
            },
        ],
    },
}
ANSWERS: dict[str, dict[str, Any]] = {
    "chat": {
        "id": "i",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {
                    "role": "assistant",
                    "content": "c",
                    "reasoning_content": "r",
                    "tool_calls": [
                        {
                            "id": "1",
                            "type": "function",
                            "function": {"name": "f", "arguments": '{"a":1}'},
                        }
                    ],
                },
                "finish_reason": "tool_calls",
            }
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 2},
    },
    "responses": {
        "id": "i",
        "object": "response",
        "status": "completed",
        "model": "m",
        "output": [
            {
                "type": "reasoning",
                "summary": [{"type": "summary_text", "text": "t"}],
                "encrypted_content": "e",
            },
            {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "output_text", "text": "x", "annotations": []}],
            },
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{}"},
        ],
        "usage": {"input_tokens": 1, "output_tokens": 2},
    },
    "messages": {
        "id": "i",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [
            {"type": "thinking", "thinking": "t", "signature": "s"},
            {"type": "text", "text": "x"},
            {"type": "tool_use", "id": "1", "name": "f", "input": {"a": 1}},
        ],
        "stop_reason": "tool_use",
        "usage": {"input_tokens": 1, "output_tokens": 2},
    },
    "gemini": {
        "candidates": [
            {
                "content": {
                    "role": "model",
                    "parts": [
                        {"text": "t", "thought": True},
                        {"text": "x"},
                        {"functionCall": {"name": "f", "args": {"a": 1}}},
                    ],
                },
                "finishReason": "STOP",
            }
        ],
        "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 2},
        "modelVersion": "m",
    },
}
ODD: tuple[Any, ...] = (None, True, -1, 2**70, "", "\ud83d", "\x00", [], {}, [None], {"type": 5})
FEW: tuple[Any, ...] = (None, "\ud83d", {"type": 5})  # a stream has many parts, most of them alike


def placed(value: Any, odds: tuple[Any, ...] = ODD) -> Iterator[Any]:
    """`value` with something odd in the place of each of its parts, one at a time."""
    yield from odds
    if isinstance(value, dict):
        for key in value:
            yield {each: part for each, part in value.items() if each != key}
            yield from ({**value, key: odd} for odd in placed(value[key], odds))
    elif isinstance(value, list):
        for n, part in enumerate(value):
            yield from ([*value[:n], odd, *value[n + 1 :]] for odd in placed(part, odds))


def parsed(name: str, value: Any) -> Asked:
    head = Head(model_paths.recognised(PATHS[name]))
    return BY_NAME[name].parse(json.dumps(value).encode(), head, default_model="d")


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_is_read_or_refused(name: str) -> None:
    read = 0
    for value in placed(REQUESTS[name]):
        with suppress(Rejected):
            asked = parsed(name, value)
            json.loads(BY_NAME[name].outgoing(asked))
            json.loads(clamped(asked, 3).raw)
            for spoken in REQUESTS.keys() - {name}:
                with suppress(Rejected):
                    translation.translation(asked, spoken)
                    read += 1
    assert read


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_is_read_or_the_server_is_blamed(name: str) -> None:
    for value in placed(ANSWERS[name]):
        raw = json.dumps(value).encode()
        Tap(BY_NAME[name].look).whole(json.loads(raw))
        for wanted, request in requests_but(name):
            answer = Answer(200, False, once(raw))
            with suppress(UpstreamFailed):
                json.loads(await translation._whole(answer, request, name, wanted))


@pytest.mark.parametrize("name", ANSWERS)
async def test_a_stream_is_read_or_the_server_is_blamed(name: str) -> None:
    events = streamed(name)
    for n, event in enumerate(events):
        for value in placed(event, FEW):
            if not isinstance(value, dict):  # no event of any format
                continue
            parts = [*events[:n], value, *events[n + 1 :]]
            raws = [b"data: " + json.dumps(part).encode() + b"\n\n" for part in parts]
            tap = Tap(BY_NAME[name].look)
            for raw in raws:
                tap.event(raw)
            assert BY_NAME[name].error_event(Rejected("a", "b"), tap)
            for wanted, request in requests_but(name):
                chunks = translation._streamed(once(b"".join(raws)), request, name, wanted)
                with suppress(UpstreamFailed):
                    async for _ in chunks:
                        pass


@cache
def requests_but(name: str) -> list[tuple[Format, Request]]:
    others = REQUESTS.keys() - {name}
    return [(each, TRANSLATORS[each].read_request(parsed(each, REQUESTS[each]))) for each in others]


def streamed(name: str) -> list[dict[str, Any]]:
    """The answer as that format's events."""
    translator = TRANSLATORS[name]
    encoder = translator.encoder(translator.read_request(parsed(name, REQUESTS[name])), 0)
    answer = translator.read_answer(ANSWERS[name])
    raw = b"".join(out for event in events_of(answer) for out in encoder.feed(event))
    data = [part.rpartition(b"data: ")[2] for part in raw.split(b"\n\n")]
    return [json.loads(each) for each in data if each.startswith(b"{")]


async def once(body: bytes) -> AsyncIterator[bytes]:
    yield body
