"""Small readings and writings that several formats share.

A signature of another format's provider is `sealed` into the field that a format has for its own:
`wfhub:<format>:<signature>`, for Gemini in base64, which its clients insist on. `unsealed` finds
whose it is.
Raises: Rejected (`unsupported`, `request-malformed`, 400).
"""

import base64
import json
import secrets
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from wfhub_common.model_paths import Format

from wfhub_llm_gateway.formats.asked import malformed, unsupported
from wfhub_llm_gateway.translation.canonical import (
    Call,
    Image,
    Message,
    Part,
    Request,
    Result,
    Role,
    Text,
)

_SEAL = "wfhub:"
_STANDARD = str.maketrans("-_", "+/")
_FORMATS: Mapping[str, Format] = {name: name for name in get_args(Format)}
# How many tokens of thinking an effort stands for, where a format counts them.
THINKING_TOKENS = {"none": 0, "minimal": 1024, "low": 2048, "medium": 8192, "high": 16384}
THINKING_TOKENS_MAX = 32768  # of any effort above `high`
CUSTOM_INPUT = "input"  # the argument that stands for a custom tool's text
CUSTOM_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {CUSTOM_INPUT: {"type": "string", "description": "the tool's input, as text"}},
    "required": [CUSTOM_INPUT],
}


def sealed(signature: str, origin: Format | None, into: Format) -> str:
    if origin in (into, None):
        return signature
    whole = f"{_SEAL}{origin}:{signature}"
    return base64.b64encode(whole.encode()).decode() if into == "gemini" else whole


def unsealed(text: Any, found_in: Format) -> tuple[str, Format | None]:
    """(signature, origin)."""
    if not isinstance(text, str) or not text:
        return "", None
    opened = _of_base64(text) if found_in == "gemini" else text
    if opened.startswith(_SEAL):
        name, _, signature = opened.removeprefix(_SEAL).partition(":")
        if name in _FORMATS and signature:
            return signature, _FORMATS[name]
    return text, found_in


def _of_base64(text: str) -> str:
    """ "" for what is none; clients write either alphabet."""
    try:
        return base64.b64decode(text.translate(_STANDARD) + "==").decode()
    except ValueError:
        return ""


def image_of_url(url: Any) -> Image:
    if not isinstance(url, str) or not url:
        raise malformed("an image needs a URL")
    if not url.startswith("data:"):
        return Image(url=url)
    head, comma, data = url.removeprefix("data:").partition(",")
    if not comma or not head.endswith(";base64"):
        raise unsupported("an image given as a data: URL must be in base64")
    return Image(media_type=head.removesuffix(";base64"), data=data)


def url_of_image(image: Image) -> str:
    return image.url or f"data:{image.media_type};base64,{image.data}"


def texts(value: Any, what: str) -> str:
    """A text, or a list of parts that are all text."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        found = [part.get("text") if isinstance(part, dict) else part for part in value]
        if all(isinstance(text, str) for text in found):
            return "\n".join(str(text) for text in found)
    raise malformed(f"{what} must be a text or a list of texts")


def joined(messages: Iterable[Message]) -> tuple[Message, ...]:
    """Messages of one role in a row as one; empty ones left out."""
    whole: list[Message] = []
    for message in messages:
        if not message.parts:
            continue
        if whole and whole[-1].role == message.role:
            whole[-1] = Message(message.role, whole[-1].parts + message.parts)
        else:
            whole.append(message)
    return tuple(whole)


def named_results(messages: tuple[Message, ...]) -> tuple[Message, ...]:
    """Results with the names of their tools, and whether those are custom."""
    calls: dict[str, Call] = {}

    def named(part: Part) -> Part:
        if isinstance(part, Call):
            calls[part.id] = part
        if isinstance(part, Result) and part.call_id in calls:
            call = calls[part.call_id]
            return Result(
                part.call_id, part.content, part.name or call.name, part.failed, call.custom
            )
        return part

    return tuple(Message(m.role, tuple(map(named, m.parts))) for m in messages)


def split_system(request: Request) -> tuple[list[str], list[Message]]:
    """The system's texts, and the rest, for formats that have them apart. One that stands after
    the conversation began cannot go up there without changing what it is about: it stays where
    it is, as the user's."""
    system: list[str] = []
    rest: list[Message] = []
    for message in request.messages:
        if message.role != "system":
            rest.append(message)
            continue
        found = [part.text for part in message.parts if isinstance(part, Text)]
        if rest:
            rest.append(Message("user", tuple(Text(text) for text in found)))
        else:
            system += found
    return system, list(joined(rest))


def arguments_value(arguments: str) -> dict[str, Any]:
    """For formats whose arguments are JSON, not text."""
    try:
        value = json.loads(arguments or "{}")
    except (ValueError, RecursionError) as e:
        raise malformed(f"the arguments of a tool call are not JSON: {e}") from e
    return value if isinstance(value, dict) else {"value": value}


def custom_input(arguments: str) -> str:
    """The text that a custom tool is given, from a call of the function that stands for it."""
    try:
        value = json.loads(arguments)
    except (ValueError, RecursionError):
        return arguments
    found = value.get(CUSTOM_INPUT) if isinstance(value, dict) else None
    return found if isinstance(found, str) else arguments


def custom_arguments(text: str) -> str:
    return dumped({CUSTOM_INPUT: text})


def as_function(call: Call) -> str:
    """The arguments of a call, for formats that know functions only."""
    return custom_arguments(call.arguments) if call.custom else call.arguments


def content_text(content: Iterable[Text | Image]) -> str:
    return "\n".join(part.text for part in content if isinstance(part, Text))


def thinking_tokens(request: Request) -> int | None:
    if request.thinking_tokens is not None:
        return request.thinking_tokens
    if request.effort is None:
        return None
    return THINKING_TOKENS.get(request.effort, THINKING_TOKENS_MAX)


def number(value: Any, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise malformed(f"{name} must be a number")
    return value


def integer(value: Any, name: str) -> int | None:
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if type(value) is not int:
        raise malformed(f"{name} must be a whole number")
    return value


def strings(value: Any, name: str) -> tuple[str, ...]:
    if value is None:
        return ()
    if isinstance(value, str):
        return (value,)
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise malformed(f"{name} must be a text or a list of texts")


def refuse(value: Mapping[str, Any], reasons: Mapping[str, str]) -> None:
    """Raises for the first key that is there, and is neither null nor empty nor false."""
    for key, reason in reasons.items():
        if value.get(key) not in (None, False, 0, "", [], {}):
            raise unsupported(f"{key}: {reason}")


def role_of(value: Any, roles: Mapping[str, Role]) -> Role:
    if not isinstance(value, str) or value not in roles:
        raise malformed(f"role must be one of {', '.join(roles)}, not {value!r}")
    return roles[value]


def new_id(prefix: str) -> str:
    return prefix + secrets.token_hex(12)


def dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def without_none(value: dict[str, Any]) -> dict[str, Any]:
    return {key: each for key, each in value.items() if each is not None}
