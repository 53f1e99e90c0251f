"""Gemini's generateContent, streamGenerateContent and countTokens. The model is in the path.

Errors: {"error": {"code": <HTTP status>, "message", "status", "details": [{"reason": <our stable
code>, …}]}}; in a stream the same object is the last event, or the last item of the array: without
`alt=sse` a stream is a JSON array.
"""

import json
from typing import Any
from urllib.parse import quote

from wfhub_common.errors import WfhubError
from wfhub_common.model_paths import Format

from wfhub_llm_gateway import sse
from wfhub_llm_gateway.formats import asked as read
from wfhub_llm_gateway.formats.asked import Asked, Head
from wfhub_llm_gateway.usage import Seen, Tap, Tokens, counted, estimate, text_chars

_STATUSES = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    499: "CANCELLED",
    500: "INTERNAL",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
_IMAGES = ("inlineData", "inline_data", "fileData", "file_data")


class _Gemini:
    name: Format = "gemini"

    def parse(self, raw: bytes, head: Head, *, default_model: str) -> Asked:
        value = read.json_object(raw)
        count = head.path.operation == "count"
        inner = value.get("generateContentRequest") if count else None
        content = inner if isinstance(inner, dict) else value
        read.objects(content, "contents", "content")
        config = content.get("generationConfig") or content.get("generation_config")
        limits = config if isinstance(config, dict) else {}
        keys = ("systemInstruction", "system_instruction", "contents", "tools")
        return Asked(
            format=self.name,
            operation="count" if count else "generate",
            raw=raw,
            value=value,
            model=read.resolved_model(head.path.model, default_model),
            named_model=head.path.model,
            stream=head.path.stream,
            prompt_estimate=estimate(raw, content, keys, _IMAGES),
            completion_max=read.positive(
                limits.get("maxOutputTokens"), limits.get("max_output_tokens")
            ),
            framing="sse" if head.alt == "sse" or not head.path.stream else "json-array",
            headers=head.headers,
        )

    def target(self, asked: Asked) -> str:
        model = quote(asked.model, safe="/:@+-._~")
        if asked.operation == "count":
            return f"/models/{model}:countTokens"
        if asked.stream:
            return f"/models/{model}:streamGenerateContent?alt=sse"
        return f"/models/{model}:generateContent"

    def outgoing(self, asked: Asked) -> bytes:
        return asked.raw

    def look(self, value: dict[str, Any]) -> Seen:
        chars = 0
        candidates = value.get("candidates")
        if isinstance(candidates, list):
            for candidate in candidates:
                if isinstance(candidate, dict):
                    chars += text_chars(_without_signatures(candidate.get("content")))
        return Seen(value.get("modelVersion"), reported(value), chars)

    def count_value(self, tokens: int) -> dict[str, Any]:
        return {"totalTokens": tokens}

    def models_value(self, models: list[dict[str, Any]]) -> dict[str, Any]:
        methods = ["generateContent", "countTokens"]
        return {
            "models": [
                {
                    "name": f"models/{model['id']}",
                    "displayName": model["id"],
                    "supportedGenerationMethods": methods,
                }
                for model in models
            ]
        }

    def error_value(self, error: WfhubError) -> dict[str, Any]:
        status = read.status_of(error)
        info = {
            "@type": "type.googleapis.com/google.rpc.ErrorInfo",
            "reason": error.code,
            "domain": "wfhub",
        }
        fields = {
            "code": status,
            "message": error.message,
            "status": _STATUSES.get(status, "UNKNOWN"),
            "details": [info],
        }
        return {"error": fields}

    def error_event(self, error: WfhubError, tap: Tap) -> bytes:
        return sse.event_of(json.dumps(self.error_value(error), ensure_ascii=False))


def _without_signatures(content: Any) -> Any:
    parts = content.get("parts") if isinstance(content, dict) else None
    if not isinstance(parts, list):
        return None
    return [
        {key: part for key, part in each.items() if key != "thoughtSignature"}
        for each in parts
        if isinstance(each, dict)
    ]


def reported(value: dict[str, Any]) -> Tokens | None:
    usage = value.get("usageMetadata")
    if not isinstance(usage, dict):
        return None
    answers = (usage.get("candidatesTokenCount"), usage.get("thoughtsTokenCount"))
    counts = [n for n in answers if type(n) is int]
    cached = usage.get("cachedContentTokenCount")
    return counted(usage.get("promptTokenCount"), sum(counts) if counts else None, cached=cached)


GEMINI = _Gemini()
