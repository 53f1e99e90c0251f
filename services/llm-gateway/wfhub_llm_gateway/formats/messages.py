"""Anthropic's Messages, and its count_tokens.

Errors: {"type": "error", "error": {"type", "message", "code"}}, `code` being our stable code; in a
stream the same is the data of one last event named `error`.
`input_tokens` leaves out what was read from or written to a cache; our prompt count has it all.
"""

import json
from typing import Any

from wfhub_common.errors import WfhubError
from wfhub_common.model_paths import Format

from wfhub_llm_gateway import sse
from wfhub_llm_gateway.formats import asked as read
from wfhub_llm_gateway.formats.asked import Asked, Head
from wfhub_llm_gateway.usage import Seen, Tap, Tokens, counted, estimate, text_chars

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_IMAGES = ("image", "document")


class _Messages:
    name: Format = "messages"

    def parse(self, raw: bytes, head: Head, *, default_model: str) -> Asked:
        value = read.json_object(raw)
        read.objects(value, "messages", "message")
        named = read.named_model(value)
        count = head.path.operation == "count"
        return Asked(
            format=self.name,
            operation="count" if count else "generate",
            raw=raw,
            value=value,
            model=read.resolved_model(named, default_model),
            named_model=named,
            stream=not count and read.wants_stream(value),
            prompt_estimate=estimate(raw, value, ("system", "messages", "tools"), _IMAGES),
            completion_max=read.positive(value.get("max_tokens")),
            headers=head.headers,
            query=head.query,
        )

    def target(self, asked: Asked) -> str:
        path = "/messages/count_tokens" if asked.operation == "count" else "/messages"
        return f"{path}?{asked.query}" if asked.query else path

    def outgoing(self, asked: Asked) -> bytes:
        if not asked.model_changed:
            return asked.raw
        return read.json_bytes({**asked.value, "model": asked.model})

    def look(self, value: dict[str, Any]) -> Seen:
        match value.get("type"):
            case "content_block_delta":
                return Seen(None, None, text_chars(value.get("delta")))
            case "message_start":
                message = value.get("message")
                if isinstance(message, dict):
                    return Seen(message.get("model"), reported(message), 0, partial=True)
            case "message_delta":
                return Seen(None, reported(value), 0)
            case "message":
                chars = text_chars(value.get("content"))
                return Seen(value.get("model"), reported(value), chars)
        return Seen(None, None, 0)

    def count_value(self, tokens: int) -> dict[str, Any]:
        return {"input_tokens": tokens}

    def models_value(self, models: list[dict[str, Any]]) -> dict[str, Any]:
        data = [
            {
                "type": "model",
                "id": model["id"],
                "display_name": model["id"],
                "created_at": "1970-01-01T00:00:00Z",
            }
            for model in models
        ]
        ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {}
        return {"data": data, "has_more": False, "first_id": None, "last_id": None, **ends}

    def error_value(self, error: WfhubError) -> dict[str, Any]:
        status = read.status_of(error)
        kind = _TYPES.get(status, "api_error" if status >= 500 else "invalid_request_error")
        fields = {"type": kind, "message": error.message, "code": error.code}
        return {"type": "error", "error": fields}

    def error_event(self, error: WfhubError, tap: Tap) -> bytes:
        return sse.event_of(json.dumps(self.error_value(error), ensure_ascii=False), "error")


def reported(value: dict[str, Any]) -> Tokens | None:
    usage = value.get("usage")
    if not isinstance(usage, dict):
        return None
    read_, written = usage.get("cache_read_input_tokens"), usage.get("cache_creation_input_tokens")
    parts = [n for n in (usage.get("input_tokens"), read_, written) if type(n) is int and n > 0]
    prompt = sum(parts) if parts else usage.get("input_tokens")
    return counted(prompt, usage.get("output_tokens"), cached=read_, cache_written=written)


MESSAGES = _Messages()
