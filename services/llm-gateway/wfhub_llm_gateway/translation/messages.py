"""Anthropic's Messages, to and from what all formats have in common.

Marks for caching are left out: they change the price, not the answer. A web search that is
offered, not demanded, is left out. Thinking goes back to a server only with a signature of its
own; foreign signatures travel to clients and back in `signature`.
"""

from collections.abc import Mapping
from typing import Any

from wfhub_llm_gateway.formats.asked import Asked, malformed, unsupported
from wfhub_llm_gateway.formats.messages import reported
from wfhub_llm_gateway.translation import pieces
from wfhub_llm_gateway.translation.canonical import (
    Answer,
    Call,
    Choice,
    Image,
    Message,
    Part,
    Reasoning,
    Request,
    Result,
    Role,
    Shape,
    Stop,
    Text,
    Tool,
)
from wfhub_llm_gateway.usage import Tokens

COMPLETION_TOKENS_DEFAULT = 8192  # this format must name a limit; others need not
THINKING_TOKENS_MIN = 1024  # the format's own
_ROLES: Mapping[str, Role] = {"system": "system", "user": "user", "assistant": "assistant"}
_CHOICES: Mapping[str, Choice] = {"auto": "auto", "any": "required", "none": "none"}
_REFUSED = {
    "mcp_servers": "the provider of this model does not call MCP servers",
    "container": "the provider of this model has no containers",
}
STOPS: Mapping[str, Stop] = {
    "end_turn": "end",
    "stop_sequence": "sequence",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tools",
    "pause_turn": "end",
    "refusal": "filter",
}
REASONS: Mapping[Stop, str] = {
    "end": "end_turn",
    "sequence": "stop_sequence",
    "length": "max_tokens",
    "tools": "tool_use",
    "filter": "refusal",
}


def read_request(asked: Asked) -> Request:
    value = asked.value
    pieces.refuse(value, _REFUSED)
    system = pieces.texts(value.get("system"), "system")
    messages = [Message("system", (Text(system),))] if system else []
    for each in value["messages"]:
        role = pieces.role_of(each.get("role"), _ROLES)
        messages.append(Message(role, tuple(_blocks(each.get("content")))))
    choice, name, parallel = _read_choice(value.get("tool_choice"))
    effort, thinking = _thinking(value)
    return Request(
        model=asked.model,
        messages=pieces.named_results(pieces.joined(messages)),
        stream=asked.stream,
        tools=tuple(tool for given in value.get("tools") or [] for tool in _tools(given)),
        choice=choice,
        choice_name=name,
        parallel=parallel,
        completion_max=asked.completion_max,
        temperature=pieces.number(value.get("temperature"), "temperature"),
        top_p=pieces.number(value.get("top_p"), "top_p"),
        top_k=pieces.integer(value.get("top_k"), "top_k"),
        stop=pieces.strings(value.get("stop_sequences"), "stop_sequences"),
        shape=_shape(value),
        effort=effort,
        thinking_tokens=thinking,
    )


def _blocks(value: Any) -> list[Part]:
    if value is None or isinstance(value, str):
        return [Text(value)] if value else []
    if not isinstance(value, list):
        raise malformed("content must be a text or a list of blocks")
    return [part for block in value for part in _block(block)]


def _block(block: Any) -> list[Part]:
    match block:
        case {"type": "text", "text": str(text)}:
            return [Text(text)] if text else []
        case {"type": "image", "source": {"type": "base64", "media_type": str(kind), "data": data}}:
            return [Image(media_type=kind, data=str(data))]
        case {"type": "image", "source": {"type": "url", "url": str(url)}}:
            return [Image(url=url)]
        case {"type": "thinking", "thinking": str(text)}:
            signature, origin = pieces.unsealed(block.get("signature"), "messages")
            return [Reasoning(text, signature, origin)]
        case {"type": "redacted_thinking", "data": str()}:
            return []  # its own server alone can read it
        case {"type": "tool_use", "id": str(call_id), "name": str(name)}:
            return [Call(call_id, name, pieces.dumped(block.get("input") or {}))]
        case {"type": "tool_result", "tool_use_id": str(call_id)}:
            parts = _blocks(block.get("content"))
            content = tuple(part for part in parts if isinstance(part, (Text, Image)))
            return [Result(call_id, content, failed=block.get("is_error") is True)]
    unknown = block.get("type") if isinstance(block, dict) else None
    raise unsupported(f"content of the type {unknown!r} cannot be sent to this model")


def _tools(value: Any) -> list[Tool]:
    kind = value.get("type", "custom") if isinstance(value, dict) else None
    if kind not in ("custom", None):
        if str(kind).startswith("web_search"):
            return []
        raise unsupported(f"tools of the type {kind!r} cannot be given to this model")
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise malformed("a tool needs a name")
    schema = value.get("input_schema") or {"type": "object", "properties": {}}
    return [Tool(value["name"], value.get("description") or "", schema, value.get("strict"))]


def _read_choice(value: Any) -> tuple[Choice | None, str, bool | None]:
    if value is None:
        return None, "", None
    kind = value.get("type") if isinstance(value, dict) else None
    parallel = False if kind and value.get("disable_parallel_tool_use") is True else None
    if kind == "tool" and isinstance(value.get("name"), str):
        return "required", value["name"], parallel
    if kind not in _CHOICES:
        raise malformed("tool_choice: its type must be auto, any, tool or none")
    return _CHOICES[str(kind)], "", parallel


def _thinking(value: dict[str, Any]) -> tuple[str | None, int | None]:
    config = value.get("output_config")
    effort = config.get("effort") if isinstance(config, dict) else None
    match value.get("thinking"):
        case {"type": "enabled", "budget_tokens": int(budget)}:
            return effort, budget
        case {"type": "disabled"}:
            return None, 0
    return effort, None


def _shape(value: dict[str, Any]) -> Shape | None:
    config = value.get("output_config")
    given = config.get("format") if isinstance(config, dict) else value.get("output_format")
    match given:
        case {"type": "json_schema", "schema": dict(schema)}:
            return Shape(schema)
    return None


def write_request(request: Request) -> dict[str, Any]:
    system, messages = pieces.split_system(request)
    if request.shape is not None and request.shape.schema is None:
        raise unsupported("a JSON object without a schema: the provider of this model needs one")
    refused = {
        "seed": request.seed,
        "presence_penalty": request.presence_penalty,
        "frequency_penalty": request.frequency_penalty,
    }
    pieces.refuse(refused, dict.fromkeys(refused, "the provider of this model does not have it"))
    limit = request.completion_max or COMPLETION_TOKENS_DEFAULT
    thinking = _write_thinking(request, messages, limit)
    return pieces.without_none(
        {
            "model": request.model,
            "max_tokens": limit,
            "system": "\n\n".join(system) or None,
            "messages": [_write_message(message) for message in messages],
            "tools": [_write_tool(tool) for tool in request.tools] or None,
            "tool_choice": _write_choice(request),
            "stream": request.stream or None,
            # With thinking, a server takes no other sampling than its own.
            "temperature": None if thinking else _temperature(request.temperature),
            "top_p": None if thinking else request.top_p,
            "top_k": None if thinking else request.top_k,
            "stop_sequences": list(request.stop) or None,
            "thinking": thinking,
            "output_config": _write_shape(request.shape),
        }
    )


def _temperature(value: float | None) -> float | None:
    return None if value is None else min(value, 1.0)  # others go up to 2


def _write_thinking(request: Request, messages: list[Message], limit: int) -> dict[str, Any] | None:
    tokens = pieces.thinking_tokens(request)
    if not tokens or limit <= THINKING_TOKENS_MIN or not _may_think(messages):
        return None
    budget = max(THINKING_TOKENS_MIN, min(tokens, limit - 1))
    return {"type": "enabled", "budget_tokens": budget}


def _may_think(messages: list[Message]) -> bool:
    """A turn with calls must go on as it began: thinking, and signed, or not at all."""
    last = next((m for m in reversed(messages) if m.role == "assistant"), None)
    if last is None or not any(isinstance(part, Call) for part in last.parts):
        return True
    return any(isinstance(part, Reasoning) and part.origin == "messages" for part in last.parts)


def _write_message(message: Message) -> dict[str, Any]:
    # Results come first: the format wants them so.
    results = [part for part in message.parts if isinstance(part, Result)]
    others = [part for part in message.parts if not isinstance(part, Result)]
    blocks = [block for part in (*results, *others) for block in _write_block(part)]
    return {"role": message.role, "content": blocks}


def _write_block(part: Part) -> list[dict[str, Any]]:
    match part:
        case Text():
            return [{"type": "text", "text": part.text}] if part.text else []
        case Image():
            return [{"type": "image", "source": _source(part)}]
        case Reasoning():
            if part.origin != "messages":
                return []
            return [{"type": "thinking", "thinking": part.text, "signature": part.signature}]
        case Call():
            value = pieces.arguments_value(pieces.as_function(part))
            return [{"type": "tool_use", "id": part.id, "name": part.name, "input": value}]
        case Result():
            content = [block for each in part.content for block in _write_block(each)]
            result = {"type": "tool_result", "tool_use_id": part.call_id, "content": content}
            return [{**result, "is_error": True} if part.failed else result]


def _source(image: Image) -> dict[str, Any]:
    if image.url:
        return {"type": "url", "url": image.url}
    return {"type": "base64", "media_type": image.media_type, "data": image.data}


def _write_tool(tool: Tool) -> dict[str, Any]:
    schema = pieces.CUSTOM_SCHEMA if tool.custom else tool.schema
    return {"name": tool.name, "description": tool.description, "input_schema": dict(schema)}


def _write_choice(request: Request) -> dict[str, Any] | None:
    if not request.tools:
        return None
    off = {"disable_parallel_tool_use": True} if request.parallel is False else {}
    if request.choice_name:
        return {"type": "tool", "name": request.choice_name, **off}
    match request.choice:
        case "required":
            return {"type": "any", **off}
        case "none":
            return {"type": "none"}
    return {"type": "auto", **off} if off or request.choice else None


def _write_shape(shape: Shape | None) -> dict[str, Any] | None:
    if shape is None or shape.schema is None:
        return None
    return {"format": {"type": "json_schema", "schema": dict(shape.schema)}}


def read_answer(value: dict[str, Any]) -> Answer:
    """Raises: KeyError, TypeError, AttributeError for what is none."""
    parts = [part for block in value["content"] for part in _block(block)]
    found = tuple(part for part in parts if isinstance(part, (Text, Reasoning, Call)))
    stop = STOPS.get(value.get("stop_reason") or "end_turn", "end")
    identity = (str(value.get("id") or ""), str(value.get("model") or ""))
    return Answer(*identity, found, stop, reported(value))


def write_answer(answer: Answer, request: Request, created: int) -> dict[str, Any]:
    return {
        **write_head(answer.id, answer.model or request.model),
        "content": [block for part in answer.parts for block in _answer_block(part)],
        "stop_reason": REASONS[answer.stop],
        "usage": write_usage(answer.usage or Tokens(0, 0)),
    }


def _answer_block(part: Part) -> list[dict[str, Any]]:
    if isinstance(part, Reasoning):
        signature = pieces.sealed(part.signature, part.origin, "messages")
        return [{"type": "thinking", "thinking": part.text, "signature": signature}]
    return _write_block(part)


def write_head(message_id: str, model: str) -> dict[str, Any]:
    known = message_id if message_id.startswith("msg_") else pieces.new_id("msg_")
    return {
        "id": known,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def write_usage(usage: Tokens) -> dict[str, Any]:
    return {
        "input_tokens": max(0, usage.prompt - usage.cached - usage.cache_written),
        "cache_creation_input_tokens": usage.cache_written,
        "cache_read_input_tokens": usage.cached,
        "output_tokens": usage.completion,
    }
