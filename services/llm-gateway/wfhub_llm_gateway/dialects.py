"""What differs between model servers: the formats they speak, where a key goes, their models' list.

`speaks`: the first is what other formats are translated to; `key_name` is for messages to people.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wfhub_common.model_paths import Format

ANTHROPIC_VERSION = "2023-06-01"


@dataclass(frozen=True)
class Dialect:
    speaks: tuple[Format, ...]
    key_name: str
    headers: Callable[[str], dict[str, str]]  # of a key, which may be ""
    # Raises: KeyError, TypeError.
    models: Callable[[Any], list[dict[str, Any]]]


def checked_key(key: str) -> str:
    """Without the line's end that files have. Raises: ValueError, which does not show it."""
    key = key.strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError("a key has printable ASCII characters only; this one has others")
    return key


def _bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"} if key else {}


def _anthropic(key: str) -> dict[str, str]:
    version = {"anthropic-version": ANTHROPIC_VERSION}
    return version | ({"x-api-key": key} if key else {})


def _gemini(key: str) -> dict[str, str]:
    return {"x-goog-api-key": key} if key else {}


def _listed(value: Any) -> list[dict[str, Any]]:
    return [model for model in value["data"] if isinstance(model["id"], str)]


def _anthropic_listed(value: Any) -> list[dict[str, Any]]:
    return [_model(model["id"], "anthropic") for model in value["data"]]


def _gemini_listed(value: Any) -> list[dict[str, Any]]:
    return [_model(each["name"].removeprefix("models/"), "google") for each in value["models"]]


def _model(name: str, owner: str) -> dict[str, Any]:
    return {"id": str(name), "object": "model", "created": 0, "owned_by": owner}


def openai(speaks: tuple[Format, ...] = ("chat",)) -> Dialect:
    """Any OpenAI-compatible server. Which formats beside `chat` it has, differs."""
    return Dialect(speaks, "OPENAI_API_KEY", _bearer, _listed)


ANTHROPIC = Dialect(("messages",), "ANTHROPIC_API_KEY", _anthropic, _anthropic_listed)
GEMINI = Dialect(("gemini",), "GEMINI_API_KEY", _gemini, _gemini_listed)
