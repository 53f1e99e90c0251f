"""The paths that lead to a model, as clients of four wire formats spell them.

chat       | POST …/chat/completions
responses  | POST …/responses
messages   | POST …/messages, …/messages/count_tokens
gemini     | POST …/models/{model}:generateContent, :streamGenerateContent, :countTokens
embeddings | POST …/embeddings
models     | GET  …/models, …/models/{model}

Before each stand any versions (/v1, /v1beta, none, or twice the same: some clients add one to the
base URL that they were given, some do not). What else there is leads nowhere.
`recognised` gives None for it. Pure; no I/O.
"""

import re
from dataclasses import dataclass
from typing import Literal
from urllib.parse import parse_qsl, quote, urlencode

Format = Literal["chat", "responses", "messages", "gemini"]
Operation = Literal["generate", "count", "embed", "models"]

MODEL_CHARS_MAX = 200
# Query parameters that mean something to a model server; any other is dropped, `key` above all.
QUERY_PASSED = ("alt", "beta")
# Set by the relay only: the agent was told to hand in, and hears it as the next answer (ADR 38).
HAND_IN_HEADER = "x-wfhub-hand-in"

_VERSIONS = re.compile(r"\A((?:/v\d+(?:alpha|beta)?\d*)*)(/.*)\Z", re.DOTALL)
_MODEL = re.compile(r"[A-Za-z0-9_.:@+-]+(?:/[A-Za-z0-9_.:@+-]+)*\Z")
_POSTS: dict[str, tuple[Format, Operation]] = {
    "/chat/completions": ("chat", "generate"),
    "/responses": ("responses", "generate"),
    "/messages": ("messages", "generate"),
    "/messages/count_tokens": ("messages", "count"),
    "/embeddings": ("chat", "embed"),
}
_ACTIONS: dict[str, tuple[Operation, bool]] = {
    "generateContent": ("generate", False),
    "streamGenerateContent": ("generate", True),
    "countTokens": ("count", False),
}
SHOWN = (
    "/v1/chat/completions, /v1/responses, /v1/messages, /v1/messages/count_tokens, "
    "/v1beta/models/{model}:generateContent, :streamGenerateContent, :countTokens, "
    "/v1/embeddings, /v1/models, /v1beta/models"
)


@dataclass(frozen=True)
class ModelPath:
    format: Format
    operation: Operation
    method: str  # the only one that the path has
    model: str = ""  # where the path names it
    stream: bool = False  # where the path says it


def recognised(path: str) -> ModelPath | None:
    """`path` is decoded and without its query."""
    parts = _VERSIONS.match(path)
    if parts is None:
        return None
    versions, rest = parts.groups()
    if rest in _POSTS:
        return ModelPath(*_POSTS[rest], "POST")
    gemini = "beta" in versions or "alpha" in versions
    if rest == "/models":
        return ModelPath("gemini" if gemini else "chat", "models", "GET")
    if not rest.startswith("/models/"):
        return None
    named, _, action = rest.removeprefix("/models/").rpartition(":")
    if action in _ACTIONS:
        return ModelPath("gemini", *_action(action, named)) if _is_model(named) else None
    named = rest.removeprefix("/models/")
    if _is_model(named):
        return ModelPath("gemini" if gemini else "chat", "models", "GET", named)
    return None


def _action(action: str, model: str) -> tuple[Operation, str, str, bool]:
    operation, stream = _ACTIONS[action]
    return operation, "POST", model, stream


def _is_model(name: str) -> bool:
    dots = any(set(segment) == {"."} for segment in name.split("/"))
    return len(name) <= MODEL_CHARS_MAX and not dots and _MODEL.match(name) is not None


def format_of(path: str) -> Format:
    """In which an error about this path is said, whatever the path is."""
    found = recognised(path)
    if found is not None:
        return found.format
    if "/messages" in path:
        return "messages"
    return "gemini" if "/v1beta/" in path or "/v1alpha/" in path else "chat"


def forwarded(path: str, query: bytes) -> str:
    """The target of a request that is passed on: the path, and of its query what may pass."""
    pairs = parse_qsl(query.decode("latin-1"), max_num_fields=50)
    kept = [(name, value) for name, value in pairs if name in QUERY_PASSED]
    target = quote(path, safe="/:@+-._~")
    return f"{target}?{urlencode(kept)}" if kept else target
