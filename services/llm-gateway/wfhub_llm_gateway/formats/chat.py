"""Chat Completions, and embeddings, which share its errors.

Errors: {"error": {"message", "type", "param", "code"}}, `code` being our stable code; in a stream
the same object is the data of one last event, and no [DONE] follows.
A stream is always asked to report its usage: the budget and the proof need the count.
"""

import json
from typing import Any

from wfhub_common.errors import Rejected, WfhubError
from wfhub_common.model_paths import Format

from wfhub_llm_gateway import completion, sse
from wfhub_llm_gateway.formats import asked as read
from wfhub_llm_gateway.formats.asked import Asked, Head, malformed
from wfhub_llm_gateway.usage import Seen, Tap, Tokens, counted, estimate, text_chars

_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}
_IMAGES = ("image_url", "input_audio", "file")


class _Chat:
    name: Format = "chat"

    def parse(self, raw: bytes, head: Head, *, default_model: str) -> Asked:
        value = read.json_object(raw)
        embed = head.path.operation == "embed"
        if embed:
            if not isinstance(value.get("input"), (str, list)) or not value["input"]:
                raise malformed("input must be a text or a list of texts")
            prompt = estimate(raw, value, ("input",), ())
        else:
            read.objects(value, "messages", "message")
            prompt = estimate(raw, value, ("messages", "tools"), _IMAGES)
        named = read.named_model(value)
        return Asked(
            format=self.name,
            operation="embed" if embed else "generate",
            raw=raw,
            value=value,
            model=read.resolved_model(named, default_model),
            named_model=named,
            stream=not embed and read.wants_stream(value),
            prompt_estimate=prompt,
            completion_max=read.positive(
                value.get("max_completion_tokens"), value.get("max_tokens")
            ),
            headers=head.headers,
        )

    def target(self, asked: Asked) -> str:
        return "/embeddings" if asked.operation == "embed" else "/chat/completions"

    def outgoing(self, asked: Asked) -> bytes:
        changed: dict[str, Any] = {"model": asked.model} if asked.model_changed else {}
        if asked.stream and not wants_usage(asked.value):
            options = asked.value.get("stream_options")
            changed["stream_options"] = {
                **(options if isinstance(options, dict) else {}),
                "include_usage": True,
            }
        if not changed:
            return asked.raw
        return read.json_bytes({**asked.value, **changed})

    def look(self, value: dict[str, Any]) -> Seen:
        chars = 0
        for choice in completion.choices_of(value):
            chars += text_chars(choice.get("delta") or choice.get("message"))
        return Seen(value.get("model"), reported(value), chars)

    def count_value(self, tokens: int) -> dict[str, Any]:
        raise Rejected("unsupported", "Chat Completions has no way to count tokens", status=400)

    def models_value(self, models: list[dict[str, Any]]) -> dict[str, Any]:
        return {"object": "list", "data": models}

    def error_value(self, error: WfhubError) -> dict[str, Any]:
        status = read.status_of(error)
        kind = "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")
        fields = {"message": error.message, "type": kind, "param": None, "code": error.code}
        return {"error": fields}

    def error_event(self, error: WfhubError, tap: Tap) -> bytes:
        return sse.event_of(json.dumps(self.error_value(error), ensure_ascii=False))


def wants_usage(value: dict[str, Any]) -> bool:
    options = value.get("stream_options")
    return isinstance(options, dict) and options.get("include_usage") is True


def reported(value: dict[str, Any]) -> Tokens | None:
    """The usage in a completion or chunk, if it carries one."""
    usage = value.get("usage")
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return counted(usage.get("prompt_tokens"), usage.get("completion_tokens"), cached=cached)


CHAT = _Chat()
