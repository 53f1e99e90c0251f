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

from wfhub_llm_gateway.usage import TOKENS_MAX

DEFAULT_MODEL = "default"  # what an agent says that leaves the choice to the gateway

Operation = Literal["generate", "count", "embed"]
# What is decided here must be what the server reads: some take the first of two fields of one name,
# and Go's JSON takes "Model" for "model".
_DECIDED = {
    name.casefold(): name
    for name in (
        *("messages", "input", "contents", "model", "stream", "stream_options", "n"),
        *("max_tokens", "max_completion_tokens", "max_output_tokens", "generationConfig"),
    )
}
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
        # UTF-8 alone: of bytes, Python would guess, and the server might not.
        text = raw.decode()
        value = json.loads(text, object_pairs_hook=_object, parse_constant=_no_constant)
    except RecursionError as e:
        raise too_deep() from e
    except ValueError as e:
        raise malformed(f"the body is not JSON: {e}") from e
    if not isinstance(value, dict):
        raise malformed("the body must be a JSON object")
    for name in value:
        if _DECIDED.get(name.casefold(), name) != name:
            raise malformed(f"write {name!r} as {_DECIDED[name.casefold()]!r}")
    return value


def json_bytes(value: Any) -> bytes:
    """Of what `json_object` read. Half a surrogate pair (an agent cut a text in the middle of a
    smiley) can be said in JSON and not in UTF-8: it stays the escape that it was."""
    try:
        return json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace")
    except RecursionError as e:
        raise too_deep() from e


def _no_constant(name: str) -> Any:
    raise malformed(f"the body is not JSON: it has no number {name}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise malformed(f"the field {twice[:MODEL_CHARS_MAX]!r} is there more than once")
    return value


def named_model(value: dict[str, Any]) -> str | None:
    model = value.get("model")
    if model is None or (isinstance(model, str) and is_name(model)):
        return model
    raise malformed(f"model must be a string of at most {MODEL_CHARS_MAX} printable characters")


def is_name(text: str) -> bool:
    """What may stand in the ledger, in a log and in a span."""
    return len(text) <= MODEL_CHARS_MAX and text.isprintable()


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
    """The first that is a count. More than any model can is as good as that."""
    found = next((n for n in candidates if type(n) is int and n > 0), None)
    return None if found is None else min(found, TOKENS_MAX)


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


def too_deep() -> Rejected:
    return malformed("the body is nested too deeply to be read")


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
