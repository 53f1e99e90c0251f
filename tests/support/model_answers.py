"""One answer, as servers of each format say it: thought, a text, and a call of the tool `look` with
{"path": "a.txt"}. Written after the documentation of each format; streams in their event order.

`WHOLE[format]` is the JSON, `STREAM[format]` the bytes of the stream. Usage: 21 tokens of prompt,
of which 5 came from a cache, and 9 of answer.
"""

import json
from typing import Any

TEXT = "let me look"
THOUGHT = "a file"
ARGUMENTS = '{"path": "a.txt"}'


def _sse(*events: dict[str, Any], named: bool = False, done: bool = False) -> bytes:
    raw = b""
    for event in events:
        name = f"event: {event['type']}\n".encode() if named else b""
        raw += name + b"data: " + json.dumps(event).encode() + b"\n\n"
    return raw + (b"data: [DONE]\n\n" if done else b"")


def _chunk(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    return {**_CHAT, "object": "chat.completion.chunk", "choices": [choice]}


_CHAT = {"id": "chatcmpl-1", "created": 1, "model": "m-1"}
_CHAT_USAGE = {
    "prompt_tokens": 21,
    "completion_tokens": 9,
    "total_tokens": 30,
    "prompt_tokens_details": {"cached_tokens": 5},
}
_CALL = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": ARGUMENTS}}
_BEGUN = {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": ""}}


def _pieces(*texts: str) -> list[dict[str, Any]]:
    calls = [{"index": 0, "function": {"arguments": text}} for text in texts]
    return [_chunk({"tool_calls": [call]}) for call in calls]


_RESPONSE: dict[str, Any] = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "model": "m-1",
    "status": "completed",
    "error": None,
    "incomplete_details": None,
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
    "usage": {
        "input_tokens": 21,
        "input_tokens_details": {"cached_tokens": 5},
        "output_tokens": 9,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 30,
    },
    "output": [
        {
            "type": "reasoning",
            "id": "rs_1",
            "summary": [{"type": "summary_text", "text": THOUGHT}],
            "encrypted_content": "c2VjcmV0",
        },
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": TEXT, "annotations": []}],
        },
        {
            "type": "function_call",
            "id": "fc_1",
            "call_id": "call_1",
            "name": "look",
            "arguments": ARGUMENTS,
            "status": "completed",
        },
    ],
}


def _responses_events() -> list[dict[str, Any]]:
    begun = {**_RESPONSE, "status": "in_progress", "output": [], "usage": None}
    reasoning, message, call = _RESPONSE["output"]
    part = {"type": "output_text", "text": "", "annotations": []}
    at_0 = {"item_id": "rs_1", "output_index": 0, "summary_index": 0}
    at_1 = {"item_id": "msg_1", "output_index": 1, "content_index": 0}
    at_2 = {"item_id": "fc_1", "output_index": 2}
    summary = {"type": "summary_text", "text": ""}
    added, done = "response.output_item.added", "response.output_item.done"
    thinks = "response.reasoning_summary"
    events = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
        {"type": added, "output_index": 0, "item": {**reasoning, "summary": []}},
        {"type": f"{thinks}_part.added", **at_0, "part": summary},
        {"type": f"{thinks}_text.delta", **at_0, "delta": THOUGHT},
        {"type": f"{thinks}_text.done", **at_0, "text": THOUGHT},
        {"type": f"{thinks}_part.done", **at_0, "part": {**summary, "text": THOUGHT}},
        {"type": done, "output_index": 0, "item": reasoning},
        {"type": added, "output_index": 1, "item": {**message, "content": []}},
        {"type": "response.content_part.added", **at_1, "part": part},
        {"type": "response.output_text.delta", **at_1, "delta": "let me "},
        {"type": "response.output_text.delta", **at_1, "delta": "look"},
        {"type": "response.output_text.done", **at_1, "text": TEXT},
        {"type": "response.content_part.done", **at_1, "part": {**part, "text": TEXT}},
        {"type": done, "output_index": 1, "item": message},
        {"type": added, "output_index": 2, "item": {**call, "arguments": ""}},
        {"type": "response.function_call_arguments.delta", **at_2, "delta": '{"path": '},
        {"type": "response.function_call_arguments.delta", **at_2, "delta": '"a.txt"}'},
        {"type": "response.function_call_arguments.done", **at_2, "arguments": ARGUMENTS},
        {"type": done, "output_index": 2, "item": call},
        {"type": "response.completed", "response": _RESPONSE},
    ]
    return [{**event, "sequence_number": n} for n, event in enumerate(events)]


_MESSAGE: dict[str, Any] = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "m-1",
    "content": [
        {"type": "thinking", "thinking": THOUGHT, "signature": "c2ln"},
        {"type": "text", "text": TEXT},
        {"type": "tool_use", "id": "toolu_1", "name": "look", "input": json.loads(ARGUMENTS)},
    ],
    "stop_reason": "tool_use",
    "stop_sequence": None,
    "usage": {"input_tokens": 16, "cache_read_input_tokens": 5, "output_tokens": 9},
}


def _messages_events() -> list[dict[str, Any]]:
    begun = {**_MESSAGE, "content": [], "stop_reason": None}
    begun["usage"] = {"input_tokens": 16, "cache_read_input_tokens": 5, "output_tokens": 1}
    thinking = {"type": "thinking", "thinking": "", "signature": ""}
    tool = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": begun}]
    blocks: list[tuple[dict[str, Any], list[dict[str, Any]]]] = [
        (
            thinking,
            [
                {"type": "thinking_delta", "thinking": THOUGHT},
                {"type": "signature_delta", "signature": "c2ln"},
            ],
        ),
        (
            {"type": "text", "text": ""},
            [{"type": "text_delta", "text": "let me "}, {"type": "text_delta", "text": "look"}],
        ),
        (
            tool,
            [
                {"type": "input_json_delta", "partial_json": ""},
                {"type": "input_json_delta", "partial_json": '{"path": '},
                {"type": "input_json_delta", "partial_json": '"a.txt"}'},
            ],
        ),
    ]
    for index, (block, deltas) in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": block})
        events += [{"type": "content_block_delta", "index": index, "delta": d} for d in deltas]
        events.append({"type": "content_block_stop", "index": index})
        events.append({"type": "ping"})
    delta = {"stop_reason": "tool_use", "stop_sequence": None}
    events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 9}})
    return [*events, {"type": "message_stop"}]


def _gemini(parts: list[dict[str, Any]], finish: str | None = None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if finish:
        candidate["finishReason"] = finish
    usage = {
        "promptTokenCount": 21,
        "candidatesTokenCount": 7,
        "thoughtsTokenCount": 2,
        "totalTokenCount": 30,
        "cachedContentTokenCount": 5,
    }
    return {
        "candidates": [candidate],
        "usageMetadata": usage,
        "modelVersion": "m-1",
        "responseId": "r1",
    }


_THOUGHT_PART = {"text": THOUGHT, "thought": True}
_CALL_PART = {
    "functionCall": {"name": "look", "args": json.loads(ARGUMENTS)},
    "thoughtSignature": "c2ln",
}

WHOLE: dict[str, dict[str, Any]] = {
    "chat": {
        **_CHAT,
        "object": "chat.completion",
        "usage": _CHAT_USAGE,
        "choices": [
            {
                "index": 0,
                "finish_reason": "tool_calls",
                "message": {
                    "role": "assistant",
                    "content": TEXT,
                    "reasoning_content": THOUGHT,
                    "tool_calls": [_CALL],
                },
            }
        ],
    },
    "responses": _RESPONSE,
    "messages": _MESSAGE,
    "gemini": _gemini([_THOUGHT_PART, {"text": TEXT}, _CALL_PART], "STOP"),
}
STREAM: dict[str, bytes] = {
    "chat": _sse(
        _chunk({"role": "assistant", "content": None, "reasoning_content": THOUGHT}),
        _chunk({"content": "let me "}),
        _chunk({"content": "look"}),
        _chunk({"tool_calls": [{"index": 0, **_BEGUN}]}),
        *_pieces('{"path": ', '"a.txt"}'),
        _chunk({}, "tool_calls"),
        {**_CHAT, "object": "chat.completion.chunk", "choices": [], "usage": _CHAT_USAGE},
        done=True,
    ),
    "responses": _sse(*_responses_events(), named=True),
    "messages": _sse(*_messages_events(), named=True),
    "gemini": _sse(
        _gemini([_THOUGHT_PART]),
        _gemini([{"text": "let me "}]),
        _gemini([{"text": "look"}]),
        _gemini([_CALL_PART], "STOP"),
    ),
}
