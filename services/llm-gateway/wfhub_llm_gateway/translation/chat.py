"""Chat Completions, to and from what all formats have in common.

Reasoning stands in `reasoning_content`, as llama.cpp, vLLM and DeepSeek have it; some say
`reasoning`. A custom tool is written as a function of one text, which any server understands.
What changes the answer and has no counterpart is refused; hints (user, metadata, caching keys)
and parameters that nobody else knows are left out.
"""

from collections.abc import Mapping
from typing import Any, get_args

from wfhub_llm_gateway.formats.asked import Asked, malformed, unsupported
from wfhub_llm_gateway.formats.chat import reported
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

_ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "user",
}
_REFUSED = {
    "logprobs": "no other format reports them",
    "top_logprobs": "no other format reports them",
    "logit_bias": "no other format has it",
    "audio": "no other format answers in audio",
    "functions": "use tools",
    "function_call": "use tool_choice",
    "web_search_options": "the provider of this model cannot search",
    "prediction": "no other format has it",
}
STOPS: Mapping[str, Stop] = {
    "stop": "end",
    "length": "length",
    "tool_calls": "tools",
    "function_call": "tools",
    "content_filter": "filter",
}
FINISHES: Mapping[Stop, str] = {
    "end": "stop",
    "sequence": "stop",
    "length": "length",
    "tools": "tool_calls",
    "filter": "content_filter",
}


def read_request(asked: Asked) -> Request:
    value = asked.value
    pieces.refuse(value, _REFUSED)
    if value.get("n") not in (None, 1):
        raise unsupported("n: only one answer at a time can be had from this model's provider")
    if value.get("modalities") not in (None, ["text"]):
        raise unsupported("modalities: only text can be had from this model's provider")
    messages = pieces.joined(_message(message) for message in value["messages"])
    choice, name = _read_choice(value.get("tool_choice"))
    return Request(
        model=asked.model,
        messages=pieces.named_results(messages),
        stream=asked.stream,
        tools=tuple(_tool(tool) for tool in _list(value.get("tools"), "tools")),
        choice=choice,
        choice_name=name,
        parallel=value.get("parallel_tool_calls"),
        completion_max=asked.completion_max,
        temperature=pieces.number(value.get("temperature"), "temperature"),
        top_p=pieces.number(value.get("top_p"), "top_p"),
        top_k=pieces.integer(value.get("top_k"), "top_k"),
        seed=pieces.integer(value.get("seed"), "seed"),
        presence_penalty=pieces.number(value.get("presence_penalty"), "presence_penalty"),
        frequency_penalty=pieces.number(value.get("frequency_penalty"), "frequency_penalty"),
        stop=pieces.strings(value.get("stop"), "stop"),
        shape=_shape(value.get("response_format")),
        effort=value.get("reasoning_effort"),
    )


def _message(value: dict[str, Any]) -> Message:
    role = pieces.role_of(value.get("role"), _ROLES)
    if value["role"] == "tool":
        call_id = value.get("tool_call_id")
        if not isinstance(call_id, str):
            raise malformed("a message of the role tool needs tool_call_id")
        content = tuple(_content(value.get("content")))
        return Message(role, (Result(call_id, content),))
    parts: list[Part] = []
    if role == "assistant":
        thought = value.get("reasoning_content") or value.get("reasoning")
        if isinstance(thought, str):
            parts.append(Reasoning(thought))
    parts += _content(value.get("content"))
    if role == "assistant":
        parts += [_call(call) for call in _list(value.get("tool_calls"), "tool_calls")]
    return Message(role, tuple(parts))


def _content(value: Any) -> list[Text | Image]:
    if value is None or isinstance(value, str):
        return [Text(value)] if value else []
    parts: list[Text | Image] = []
    for part in _list(value, "content"):
        match part.get("type"):
            case "text" | "refusal" as kind if isinstance(part.get(kind), str):
                parts.append(Text(part[kind]))
            case "image_url" if isinstance(part.get("image_url"), dict):
                parts.append(pieces.image_of_url(part["image_url"].get("url")))
            case kind:
                raise unsupported(f"content of the type {kind!r} cannot be sent to this model")
    return parts


def _call(value: dict[str, Any]) -> Call:
    custom = value.get("type") == "custom"
    inner = value.get("custom" if custom else "function")
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        raise malformed("a tool call needs a function with a name")
    text = inner.get("input" if custom else "arguments")
    call_id = value.get("id")
    return Call(
        call_id if isinstance(call_id, str) and call_id else pieces.new_id("call_"),
        inner["name"],
        text if isinstance(text, str) else pieces.dumped(text or {}),
        custom,
    )


def _tool(value: dict[str, Any]) -> Tool:
    kind = value.get("type", "function")
    inner = value.get(kind) if kind in ("function", "custom") else None
    if not isinstance(inner, dict) or not isinstance(inner.get("name"), str):
        raise unsupported(f"tools of the type {kind!r} cannot be sent to this model")
    return Tool(
        inner["name"],
        inner.get("description") or "",
        inner.get("parameters") or {"type": "object", "properties": {}},
        inner.get("strict"),
        kind == "custom",
    )


def _read_choice(value: Any) -> tuple[Choice | None, str]:
    match value:
        case None:
            return None, ""
        case "auto" | "none" | "required":
            return next(c for c in get_args(Choice) if c == value), ""
        case {"type": "function", "function": {"name": str(name)}}:
            return "required", name
        case {"type": "custom", "custom": {"name": str(name)}}:
            return "required", name
    raise unsupported("tool_choice: only auto, none, required or one tool can be chosen")


def _shape(value: Any) -> Shape | None:
    match value:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return Shape()
        case {"type": "json_schema", "json_schema": dict(given)}:
            return Shape(
                given.get("schema") or {}, given.get("name", "answer"), given.get("strict")
            )
    raise unsupported("response_format: only text, json_object or json_schema")


def _list(value: Any, name: str) -> list[dict[str, Any]]:
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise malformed(f"{name} must be a list of objects")
    return value


def write_request(request: Request) -> dict[str, Any]:
    messages: list[dict[str, Any]] = []
    for message in request.messages:
        messages += _write_message(message)
    choice: Any = request.choice
    if request.choice_name:
        choice = {"type": "function", "function": {"name": request.choice_name}}
    options = {"include_usage": True} if request.stream else None
    return pieces.without_none(
        {
            "model": request.model or None,
            "messages": messages,
            "tools": [_write_tool(tool) for tool in request.tools] or None,
            "tool_choice": choice,
            "parallel_tool_calls": request.parallel if request.tools else None,
            "stream": request.stream or None,
            "stream_options": options,
            "max_tokens": request.completion_max,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "top_k": request.top_k,
            "seed": request.seed,
            "presence_penalty": request.presence_penalty,
            "frequency_penalty": request.frequency_penalty,
            "stop": list(request.stop) or None,
            "response_format": _write_shape(request.shape),
            "reasoning_effort": request.effort,
        }
    )


def _write_message(message: Message) -> list[dict[str, Any]]:
    """One, and before it one for each tool's result: they follow their calls at once."""
    written: list[dict[str, Any]] = []
    pictures: list[dict[str, Any]] = []
    for part in message.parts:
        if isinstance(part, Result):
            text = pieces.content_text(part.content)
            written.append({"role": "tool", "tool_call_id": part.call_id, "content": text})
            # A tool's message has text only: its pictures follow as the user's.
            pictures += [_write_part(each) for each in part.content if isinstance(each, Image)]
    content = pictures + [
        _write_part(each) for each in message.parts if isinstance(each, (Text, Image))
    ]
    thought = "".join(each.text for each in message.parts if isinstance(each, Reasoning))
    calls = [_write_call(each) for each in message.parts if isinstance(each, Call)]
    if not content and not calls and not thought:
        return written
    own: dict[str, Any] = {"role": message.role, "content": _plain(content)}
    if thought:
        own["reasoning_content"] = thought
    if calls:
        own["tool_calls"] = calls
    return [*written, own]


def _plain(content: list[dict[str, Any]]) -> Any:
    """One text as a text: some servers know no other."""
    if all(part["type"] == "text" for part in content):
        return "\n".join(part["text"] for part in content) if content else None
    return content


def _write_part(part: Text | Image) -> dict[str, Any]:
    if isinstance(part, Text):
        return {"type": "text", "text": part.text}
    return {"type": "image_url", "image_url": {"url": pieces.url_of_image(part)}}


def _write_call(call: Call) -> dict[str, Any]:
    function = {"name": call.name, "arguments": pieces.as_function(call)}
    return {"id": call.id, "type": "function", "function": function}


def _write_tool(tool: Tool) -> dict[str, Any]:
    schema = pieces.CUSTOM_SCHEMA if tool.custom else tool.schema
    function = pieces.without_none(
        {
            "name": tool.name,
            "description": tool.description or None,
            "parameters": dict(schema),
            "strict": tool.strict,
        }
    )
    return {"type": "function", "function": function}


def _write_shape(shape: Shape | None) -> dict[str, Any] | None:
    if shape is None:
        return None
    if shape.schema is None:
        return {"type": "json_object"}
    given = {"name": shape.name, "schema": dict(shape.schema), "strict": shape.strict}
    return {"type": "json_schema", "json_schema": pieces.without_none(given)}


def read_answer(value: dict[str, Any]) -> Answer:
    """Raises: KeyError, TypeError, IndexError, AttributeError for what is none."""
    choice = value["choices"][0]
    message = choice["message"]
    parts: list[Text | Reasoning | Call] = []
    if thought := message.get("reasoning_content") or message.get("reasoning"):
        parts.append(Reasoning(str(thought)))
    if text := message.get("content") or message.get("refusal"):
        parts.append(Text(str(text)))
    calls = [_call(call) for call in message.get("tool_calls") or []]
    stop = stop_of(STOPS.get(choice.get("finish_reason") or "stop", "end"), called=bool(calls))
    return Answer(
        str(value.get("id") or ""),
        str(value.get("model") or ""),
        (*parts, *calls),
        stop,
        reported(value),
    )


def write_answer(answer: Answer, request: Request, created: int) -> dict[str, Any]:
    texts = [part.text for part in answer.parts if isinstance(part, Text)]
    thoughts = [part.text for part in answer.parts if isinstance(part, Reasoning)]
    calls = [write_answer_call(part) for part in answer.parts if isinstance(part, Call)]
    message: dict[str, Any] = {"role": "assistant", "content": "".join(texts) if texts else None}
    if any(thoughts):
        message["reasoning_content"] = "".join(thoughts)
    if calls:
        message["tool_calls"] = calls
    choice = {"index": 0, "message": message, "finish_reason": FINISHES[answer.stop]}
    return pieces.without_none(
        {
            "id": answer.id or pieces.new_id("chatcmpl-"),
            "object": "chat.completion",
            "created": created,
            "model": answer.model or request.model,
            "choices": [choice],
            "usage": write_usage(answer.usage),
        }
    )


def write_answer_call(call: Call) -> dict[str, Any]:
    """As the client knows its tool."""
    if not call.custom:
        return _write_call(call)
    custom = {"name": call.name, "input": call.arguments}
    return {"id": call.id, "type": "custom", "custom": custom}


def stop_of(said: Stop, *, called: bool) -> Stop:
    """Some servers say "stop" beside their calls. A call that was cut off at the answer's length is
    none to be made, whatever else is there."""
    return "tools" if called and said == "end" else said


def write_usage(usage: Tokens | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    written: dict[str, Any] = {
        "prompt_tokens": usage.prompt,
        "completion_tokens": usage.completion,
        "total_tokens": usage.total,
    }
    if usage.cached:
        written["prompt_tokens_details"] = {"cached_tokens": usage.cached}
    return written
