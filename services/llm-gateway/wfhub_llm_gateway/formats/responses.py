"""OpenAI's Responses.

Errors as in Chat Completions; in a stream the last event is `response.failed`, which carries the
response with its `error`, and the sequence number that follows what was sent.
"""

import json
from typing import Any

from wfhub_common.errors import Rejected, WfhubError
from wfhub_common.model_paths import Format

from wfhub_llm_gateway import sse
from wfhub_llm_gateway.formats import asked as read
from wfhub_llm_gateway.formats.asked import Asked, Head, malformed
from wfhub_llm_gateway.formats.chat import CHAT
from wfhub_llm_gateway.usage import Seen, Tap, Tokens, counted, estimate, text_chars

_IMAGES = ("input_image", "input_file", "input_audio")


class _Responses:
    name: Format = "responses"

    def parse(self, raw: bytes, head: Head, *, default_model: str) -> Asked:
        value = read.json_object(raw)
        given = value.get("input")
        if isinstance(given, list):
            if not all(isinstance(item, dict) for item in given):
                raise malformed("each item of input must be an object")
        elif not isinstance(given, str):
            raise malformed("input must be a text or a list of items")
        if not given and not value.get("instructions"):
            raise malformed("input must not be empty")
        named = read.named_model(value)
        return Asked(
            format=self.name,
            operation="generate",
            raw=raw,
            value=value,
            model=read.resolved_model(named, default_model),
            named_model=named,
            stream=read.wants_stream(value),
            prompt_estimate=estimate(raw, value, ("instructions", "input", "tools"), _IMAGES),
            completion_max=read.positive(value.get("max_output_tokens")),
            headers=head.headers,
        )

    def target(self, asked: Asked) -> str:
        return "/responses"

    def outgoing(self, asked: Asked) -> bytes:
        if not asked.model_changed:
            return asked.raw
        return read.json_bytes({**asked.value, "model": asked.model})

    def look(self, value: dict[str, Any]) -> Seen:
        kind = value.get("type")
        if isinstance(kind, str) and kind.endswith(".delta"):
            return Seen(None, None, text_chars(value.get("delta")))
        whole = value.get("response") if isinstance(kind, str) else value
        if not isinstance(whole, dict):
            return Seen(None, None, 0)
        # In a stream the deltas were counted already.
        chars = 0 if isinstance(kind, str) else text_chars(whole.get("output"))
        return Seen(whole.get("model"), reported(whole), chars)

    def count_value(self, tokens: int) -> dict[str, Any]:
        raise Rejected("unsupported", "Responses has no way to count tokens here", status=400)

    def models_value(self, models: list[dict[str, Any]]) -> dict[str, Any]:
        return CHAT.models_value(models)

    def error_value(self, error: WfhubError) -> dict[str, Any]:
        return CHAT.error_value(error)

    def error_event(self, error: WfhubError, tap: Tap) -> bytes:
        begun = (tap.first or {}).get("response")
        response = {
            **(begun if isinstance(begun, dict) else {"id": "resp_none", "object": "response"}),
            "status": "failed",
            "error": {"code": error.code, "message": error.message},
        }
        data = {
            "type": "response.failed",
            "sequence_number": tap.sent_count,
            "response": response,
        }
        return sse.event_of(json.dumps(data, ensure_ascii=False), "response.failed")


def reported(whole: dict[str, Any]) -> Tokens | None:
    usage = whole.get("usage")
    if not isinstance(usage, dict):
        return None
    details = usage.get("input_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, dict) else None
    return counted(usage.get("input_tokens"), usage.get("output_tokens"), cached=cached)


RESPONSES = _Responses()
