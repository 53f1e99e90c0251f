"""A request as the gateway reads it, whatever its format, and what all formats check alike.

`raw` is exactly what the client sent; `value` the same as JSON. `model` is the one to ask: after
LLM_MODEL was put in, and whatever a route made of it; "" leaves it to the server.
Units: tokens. Raises: Rejected (`request-malformed`, 400; `model-not-allowed`, 403).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from wfhub_common.errors import Corrupt, LeaseLost, Rejected, RetryLater, WfhubError
from wfhub_common.model_paths import MODEL_CHARS_MAX, Format, ModelPath

DEFAULT_MODEL = "default"  # what an agent says that leaves the choice to the gateway

Operation = Literal["generate", "count", "embed"]
# How a stream is framed on its way to the client; upstream it is always server-sent events.
Framing = Literal["sse", "json-array"]


class UpstreamFailed(RetryLater):
    """The model server cannot be reached, or did not answer as it should: 502, or 504 for time."""

    def __init__(self, code: str, message: str, *, status: int = 502, **fields: Any) -> None:
        super().__init__(code, message, **fields)
        self.status = status


@dataclass(frozen=True)
class Asked:
    format: Format
    operation: Operation
    raw: bytes
    value: dict[str, Any]
    model: str
    named_model: str | None  # as the client said it
    stream: bool
    prompt_estimate: int
    completion_max: int | None  # that the client allows the answer
    framing: Framing = "sse"
    # Of the client's, what a server of the same format should see: versions and betas.
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    query: str = ""

    @property
    def model_changed(self) -> bool:
        return bool(self.model) and self.model != self.named_model


@dataclass(frozen=True)
class Head:
    """What of a request stands outside its body."""

    path: ModelPath
    alt: str = ""  # of the query
    headers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    query: str = ""


def json_object(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw)
    except (ValueError, RecursionError) as e:
        raise malformed(f"the body is not JSON: {e}") from e
    if not isinstance(value, dict):
        raise malformed("the body must be a JSON object")
    return value


def named_model(value: dict[str, Any]) -> str | None:
    model = value.get("model")
    if model is not None and not (isinstance(model, str) and len(model) <= MODEL_CHARS_MAX):
        raise malformed(f"model must be a string of at most {MODEL_CHARS_MAX} characters")
    return model


def resolved_model(named: str | None, default_model: str) -> str:
    return (default_model or named or "") if named in (None, "", DEFAULT_MODEL) else str(named)


def wants_stream(value: dict[str, Any]) -> bool:
    stream = value.get("stream")
    if not isinstance(stream, (bool, type(None))):
        raise malformed("stream must be true or false")
    return bool(stream)


def objects(value: dict[str, Any], key: str, what: str) -> list[dict[str, Any]]:
    """A list of at least one object."""
    items = value.get(key)
    if not isinstance(items, list) or not items:
        raise malformed(f"{key} must be a list with at least one {what}")
    if not all(isinstance(item, dict) for item in items):
        raise malformed(f"each {what} must be an object")
    return items


def positive(*candidates: Any) -> int | None:
    """The first that is a count."""
    return next((n for n in candidates if type(n) is int and n > 0), None)


def check_model(asked: Asked, allowed: tuple[str, ...] | None) -> None:
    names = {asked.model, asked.named_model}
    if allowed is None or names & set(allowed):
        return
    raise Rejected(
        "model-not-allowed",
        f"this attempt may not use the model {asked.model!r}; it may use: "
        + (", ".join(allowed) or "none"),
        status=403,
    )


def malformed(message: str) -> Rejected:
    return Rejected("request-malformed", message, status=400)


def unsupported(message: str) -> Rejected:
    """What this request asks for, nobody can give whom it would be sent to."""
    return Rejected("unsupported", message, status=400)


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


def error_headers(error: WfhubError) -> dict[str, str]:
    headers = {}
    if status_of(error) == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, RetryLater):
        headers["retry-after"] = str(max(1, round(error.retry_after_s)))
    elif status_of(error) == 429:
        # The official clients ask again after a 429, unless told that it is no use.
        headers["x-should-retry"] = "false"
    return headers
