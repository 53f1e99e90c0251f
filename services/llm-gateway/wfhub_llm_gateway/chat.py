"""The inbound format "Chat Completions": requests as agents send them, errors as they expect them.

Errors: {"error": {"message", "type", "param", "code"}}, `code` being our stable code; in a stream
the same object is the data of one last event, and no [DONE] follows.
Raises: Rejected (`request-malformed`, 400).
"""

import json
from dataclasses import dataclass
from typing import Any

from starlette.responses import JSONResponse
from wfhub_common.errors import Corrupt, LeaseLost, Rejected, RetryLater, WfhubError

from wfhub_llm_gateway import sse
from wfhub_llm_gateway.usage import prompt_estimate

MODEL_CHARS_MAX = 200
DEFAULT_MODEL = "default"  # what an agent says that leaves the choice to the gateway


class UpstreamFailed(RetryLater):
    """The model server cannot be reached, or did not answer as it should: 502, or 504 for time."""

    def __init__(self, code: str, message: str, *, status: int = 502, **fields: Any) -> None:
        super().__init__(code, message, **fields)
        self.status = status


# What is decided here must be what the server reads: some take the first of two fields of one name,
# and Go's JSON takes "Model" for "model".
_DECIDED = frozenset(
    {"messages", "model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n"}
)


@dataclass(frozen=True)
class ChatRequest:
    raw: bytes  # exactly as received
    value: dict[str, Any]
    model: str  # after LLM_MODEL was put in; "" leaves it to the server
    stream: bool
    prompt_estimate: int  # tokens
    completion_max: int | None  # tokens that the client allows the answer

    @property
    def wants_usage(self) -> bool:
        options = self.value.get("stream_options")
        return isinstance(options, dict) and options.get("include_usage") is True


def parse(raw: bytes, *, default_model: str) -> ChatRequest:
    try:
        value = json.loads(raw, object_pairs_hook=_object)
    except (ValueError, RecursionError) as e:
        raise _malformed(f"the body is not JSON: {e}") from e
    if not isinstance(value, dict):
        raise _malformed("the body must be a JSON object")
    for name in value:
        if name not in _DECIDED and name.casefold() in _DECIDED:
            raise _malformed(f"write {name!r} as {name.casefold()!r}")
    messages, model, stream = value.get("messages"), value.get("model"), value.get("stream")
    if not isinstance(messages, list) or not messages:
        raise _malformed("messages must be a list with at least one message")
    if not all(isinstance(message, dict) for message in messages):
        raise _malformed("each message must be an object with role and content")
    if model is not None and not (isinstance(model, str) and len(model) <= MODEL_CHARS_MAX):
        raise _malformed(f"model must be a string of at most {MODEL_CHARS_MAX} characters")
    if not isinstance(stream, (bool, type(None))):
        raise _malformed("stream must be true or false")
    limits = (value.get("max_completion_tokens"), value.get("max_tokens"))
    allowed = next((n for n in limits if isinstance(n, int) and n > 0), None)
    resolved = (default_model or model or "") if model in (None, "", DEFAULT_MODEL) else model
    return ChatRequest(
        raw=raw,
        value=value,
        model=resolved,
        stream=bool(stream),
        prompt_estimate=prompt_estimate(value),
        completion_max=allowed,
    )


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _malformed(f"the field {twice[:MODEL_CHARS_MAX]!r} is there more than once")
    return value


def check_model(request: ChatRequest, allowed: tuple[str, ...] | None) -> None:
    """Raises: Rejected (`model-not-allowed`, 403)."""
    names = {request.model, request.value.get("model")}
    if allowed is None or names & set(allowed):
        return
    raise Rejected(
        "model-not-allowed",
        f"this attempt may not use the model {request.model!r}; it may use: "
        + (", ".join(allowed) or "none"),
        status=403,
    )


def _malformed(message: str) -> Rejected:
    return Rejected("request-malformed", message, status=400)


_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
}


def status_of(error: WfhubError) -> int:
    match error:
        case Rejected() | UpstreamFailed():
            return error.status
        case RetryLater():
            return 503
        case LeaseLost():
            return 409
        case Corrupt():
            return 500
    return 500


def error_value(error: WfhubError) -> dict[str, Any]:
    status = status_of(error)
    kind = "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")
    fields = {"message": error.message, "type": kind, "param": None, "code": error.code}
    return {"error": fields}


def error_body(error: WfhubError) -> bytes:
    return json.dumps(error_value(error), ensure_ascii=False).encode()


def error_headers(error: WfhubError) -> dict[str, str]:
    if status_of(error) == 401:
        return {"www-authenticate": "Bearer"}
    if isinstance(error, RetryLater):
        return {"retry-after": str(max(1, round(error.retry_after_s)))}
    return {}


def error_event(error: WfhubError) -> bytes:
    return sse.event_of(json.dumps(error_value(error), ensure_ascii=False))


def error_response(error: WfhubError) -> JSONResponse:
    return JSONResponse(
        error_value(error), status_code=status_of(error), headers=error_headers(error)
    )
