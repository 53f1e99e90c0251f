"""OpenAI's Responses, to and from what all formats have in common.

Each call is answered from what it carries: what a server would have had to keep
(`previous_response_id`, `conversation`, stored prompts, references to items) is refused.
A web search that is offered, not demanded, is left out: the model never hears of it.
Foreign signatures of reasoning travel in `encrypted_content`.
"""

from collections.abc import Mapping
from typing import Any, get_args

from wfhub_llm_gateway.formats.asked import Asked, malformed, unsupported
from wfhub_llm_gateway.formats.responses import reported
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
}
_REFUSED = {
    "previous_response_id": "earlier answers are not kept; send the whole conversation as input",
    "conversation": "conversations are not kept; send the whole conversation as input",
    "background": "answers are not kept; ask in the foreground",
    "prompt": "prompts are not kept; send instructions and input",
    "top_logprobs": "this model's provider does not report them",
}
_LEFT_OUT = ("web_search", "web_search_preview")  # and their dated names


def read_request(asked: Asked) -> Request:
    value = asked.value
    pieces.refuse(value, _REFUSED)
    messages: list[Message] = []
    if value.get("instructions"):
        messages.append(Message("system", (Text(pieces.texts(value["instructions"], "i")),)))
    given = value["input"]
    if isinstance(given, str):
        messages.append(Message("user", (Text(given),)))
    else:
        messages += [_item(item) for item in given]
    tools = tuple(tool for given in value.get("tools") or [] for tool in _tools(given))
    choice, name, allowed = _read_choice(value.get("tool_choice"))
    if allowed is not None:
        tools = tuple(tool for tool in tools if tool.name in allowed)
    reasoning = value.get("reasoning")
    return Request(
        model=asked.model,
        messages=pieces.named_results(pieces.joined(messages)),
        stream=asked.stream,
        tools=tools,
        choice=choice,
        choice_name=name,
        parallel=value.get("parallel_tool_calls"),
        completion_max=asked.completion_max,
        temperature=pieces.number(value.get("temperature"), "temperature"),
        top_p=pieces.number(value.get("top_p"), "top_p"),
        shape=_shape(value.get("text")),
        effort=reasoning.get("effort") if isinstance(reasoning, dict) else None,
    )


def _item(item: dict[str, Any]) -> Message:
    match item.get("type", "message"):
        case "message":
            role = pieces.role_of(item.get("role"), _ROLES)
            return Message(role, tuple(_content(item.get("content"))))
        case "function_call":
            return Message("assistant", (_call(item, "arguments"),))
        case "custom_tool_call":
            return Message("assistant", (_call(item, "input"),))
        case "function_call_output" | "custom_tool_call_output" as kind:
            if not isinstance(item.get("call_id"), str):
                raise malformed(f"an item of the type {kind} needs call_id")
            content = tuple(_content(item.get("output")))
            custom = kind.startswith("custom")
            return Message("user", (Result(item["call_id"], content, custom=custom),))
        case "reasoning":
            signature, origin = pieces.unsealed(item.get("encrypted_content"), "responses")
            return Message("assistant", (Reasoning(_thought(item), signature, origin),))
        case kind:
            raise unsupported(f"input items of the type {kind!r} cannot be sent to this model")


def _thought(item: dict[str, Any]) -> str:
    found = [*(item.get("summary") or []), *(item.get("content") or [])]
    return "\n\n".join(str(part.get("text") or "") for part in found if isinstance(part, dict))


def _call(item: dict[str, Any], key: str) -> Call:
    if not isinstance(item.get("name"), str) or not isinstance(item.get("call_id"), str):
        raise malformed("a tool call needs name and call_id")
    arguments = item.get(key)
    text = arguments if isinstance(arguments, str) else pieces.dumped(arguments or {})
    # A call from a namespace is known to others by its full name.
    return Call(item["call_id"], _full_name(item), text, key == "input")


def _full_name(item: dict[str, Any]) -> str:
    return f"{item.get('namespace') or ''}{item['name']}"


def _content(value: Any) -> list[Text | Image]:
    if value is None or isinstance(value, str):
        return [Text(value)] if value else []
    if not isinstance(value, list):
        raise malformed("content must be a text or a list of parts")
    parts: list[Text | Image] = []
    for part in value:
        kind = part.get("type") if isinstance(part, dict) else None
        match kind:
            case "input_text" | "output_text" | "text" | "summary_text":
                parts.append(Text(str(part.get("text") or "")))
            case "refusal":
                parts.append(Text(str(part.get("refusal") or "")))
            case "input_image" if part.get("image_url"):
                parts.append(pieces.image_of_url(part["image_url"]))
            case _:
                raise unsupported(f"content of the type {kind!r} cannot be sent to this model")
    return parts


def _tools(value: Any) -> list[Tool]:
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "namespace":
        inner = [tool for each in value.get("tools") or [] for tool in _tools(each)]
        prefix = str(value.get("name") or "")
        return [
            Tool(prefix + t.name, t.description, t.schema, t.strict, t.custom, prefix)
            for t in inner
        ]
    if kind not in ("function", "custom"):
        if isinstance(kind, str) and kind.startswith(_LEFT_OUT):
            return []
        raise unsupported(f"tools of the type {kind!r} cannot be given to this model")
    if not isinstance(value.get("name"), str):
        raise malformed("a tool needs a name")
    schema = value.get("parameters") or {"type": "object", "properties": {}}
    strict, described = value.get("strict"), value.get("description") or ""
    if kind == "custom" and isinstance(value.get("format"), dict):
        grammar = value["format"].get("definition")
        described += f"\nThe input must follow this grammar:\n{grammar}" if grammar else ""
    return [Tool(value["name"], described, schema, strict, kind == "custom")]


def _read_choice(value: Any) -> tuple[Choice | None, str, set[str] | None]:
    match value:
        case None:
            return None, "", None
        case "auto" | "none" | "required":
            return next(c for c in get_args(Choice) if c == value), "", None
        case {"type": "function" | "custom", "name": str(name)}:
            return "required", name, None
        case {"type": "allowed_tools", "mode": "auto" | "required" as mode, "tools": list(tools)}:
            names = {tool["name"] for tool in tools if isinstance(tool, dict) and "name" in tool}
            return "required" if mode == "required" else "auto", "", names
    raise unsupported("tool_choice: only auto, none, required, a function or allowed_tools")


def _shape(value: Any) -> Shape | None:
    given = value.get("format") if isinstance(value, dict) else None
    match given:
        case None | {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return Shape()
        case {"type": "json_schema", "schema": dict(schema)}:
            return Shape(schema, given.get("name", "answer"), given.get("strict"))
    raise unsupported("text.format: only text, json_object or json_schema")


def write_request(request: Request) -> dict[str, Any]:
    items: list[dict[str, Any]] = []
    for message in request.messages:
        items += _write_message(message)
    choice: Any = request.choice
    if request.choice_name:
        custom = request.choice_name in request.custom_tools
        choice = {"type": "custom" if custom else "function", "name": request.choice_name}
    refused = {"top_k": request.top_k, "seed": request.seed, "stop": list(request.stop)}
    pieces.refuse(refused, dict.fromkeys(refused, "the provider of this model does not have it"))
    return pieces.without_none(
        {
            "model": request.model or None,
            "input": items,
            "tools": [_write_tool(tool) for tool in request.tools] or None,
            "tool_choice": choice,
            "parallel_tool_calls": request.parallel if request.tools else None,
            "stream": request.stream or None,
            "max_output_tokens": request.completion_max,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "text": _write_shape(request.shape),
            "reasoning": {"effort": request.effort} if request.effort else None,
            "include": ["reasoning.encrypted_content"] if request.effort else None,
            "store": False,  # each request carries all it needs
        }
    )


def _write_message(message: Message) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = []
    for part in message.parts:
        match part:
            case Text() | Image():
                content = _write_part(part, message.role)
                last = items[-1] if items else {}
                if last.get("type") == "message":
                    last["content"].append(content)
                else:
                    items.append({"type": "message", "role": message.role, "content": [content]})
            case Call():
                items.append(_write_call(part))
            case Result():
                kind = "custom_tool_call_output" if part.custom else "function_call_output"
                output: Any = pieces.content_text(part.content)
                if any(isinstance(each, Image) for each in part.content):
                    output = [_write_part(each, "user") for each in part.content]
                items.append({"type": kind, "call_id": part.call_id, "output": output})
            case Reasoning():
                # A server takes back only what it signed.
                if part.origin == "responses":
                    items.append(write_reasoning(part))
    return items


def _write_part(part: Text | Image, role: Role) -> dict[str, Any]:
    if isinstance(part, Image):
        return {"type": "input_image", "image_url": pieces.url_of_image(part)}
    return {"type": "output_text" if role == "assistant" else "input_text", "text": part.text}


def _write_call(call: Call) -> dict[str, Any]:
    key = "input" if call.custom else "arguments"
    kind = "custom_tool_call" if call.custom else "function_call"
    return {"type": kind, "call_id": call.id, "name": call.name, key: call.arguments}


def write_reasoning(part: Reasoning) -> dict[str, Any]:
    summary = [{"type": "summary_text", "text": part.text}] if part.text else []
    item: dict[str, Any] = {"type": "reasoning", "summary": summary}
    if part.signature:
        item["encrypted_content"] = pieces.sealed(part.signature, part.origin, "responses")
    return item


def _write_tool(tool: Tool) -> dict[str, Any]:
    if tool.custom:
        return {"type": "custom", "name": tool.name, "description": tool.description}
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": dict(tool.schema),
        "strict": bool(tool.strict),
    }


def _write_shape(shape: Shape | None) -> dict[str, Any] | None:
    if shape is None:
        return None
    if shape.schema is None:
        return {"format": {"type": "json_object"}}
    given = {"type": "json_schema", "name": shape.name, "schema": dict(shape.schema)}
    return {"format": pieces.without_none({**given, "strict": shape.strict})}


def stop_of(response: dict[str, Any], *, called: bool) -> Stop:
    if response.get("status") == "incomplete":
        details = response.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        return "filter" if reason == "content_filter" else "length"
    return "tools" if called else "end"


def read_answer(value: dict[str, Any]) -> Answer:
    """Raises: KeyError, TypeError, AttributeError for what is none."""
    parts: list[Text | Reasoning | Call] = []
    for item in value["output"]:
        match item["type"]:
            case "message":
                parts += [part for part in _content(item["content"]) if isinstance(part, Text)]
            case "function_call":
                parts.append(_call(item, "arguments"))
            case "custom_tool_call":
                parts.append(_call(item, "input"))
            case "reasoning":
                signature, origin = pieces.unsealed(item.get("encrypted_content"), "responses")
                parts.append(Reasoning(_thought(item), signature, origin))
    called = any(isinstance(part, Call) for part in parts)
    return Answer(
        str(value.get("id") or ""),
        str(value.get("model") or ""),
        tuple(parts),
        stop_of(value, called=called),
        reported(value),
    )


def write_output(part: Part, request: Request) -> dict[str, Any]:
    """An item of an answer, complete, as it stands in `output` and at the end of its stream."""
    match part:
        case Text():
            content = {"type": "output_text", "text": part.text, "annotations": [], "logprobs": []}
            item = {"type": "message", "role": "assistant", "content": [content]}
            return {"id": pieces.new_id("msg_"), **item, "status": "completed"}
        case Call():
            prefix = "ctc_" if part.custom else "fc_"
            item = {"id": pieces.new_id(prefix), **_write_call(part), "status": "completed"}
            space = next((t.namespace for t in request.tools if t.name == part.name), "")
            if space:
                item |= {"name": part.name.removeprefix(space), "namespace": space}
            return item
        case Reasoning():
            return {"id": pieces.new_id("rs_"), **write_reasoning(part)}
    raise TypeError(f"no item of an answer: {part!r}")


def write_response(request: Request, created: int) -> dict[str, Any]:
    """The head that whole answers and the first events of streams share."""
    return {
        "id": pieces.new_id("resp_"),
        "object": "response",
        "created_at": created,
        "status": "in_progress",
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": request.completion_max,
        "metadata": {},
        "model": request.model,
        "output": [],
        "parallel_tool_calls": request.parallel is not False,
        "previous_response_id": None,
        "reasoning": {"effort": request.effort, "summary": None},
        "store": False,
        "temperature": request.temperature,
        "text": _write_shape(request.shape) or {"format": {"type": "text"}},
        "tool_choice": request.choice or "auto",
        "tools": [_write_tool(tool) for tool in request.tools],
        "top_p": request.top_p,
        "truncation": "disabled",
        "usage": None,
    }


def ended_with(stop: Stop, usage: Tokens | None) -> dict[str, Any]:
    reasons = {"length": "max_output_tokens", "filter": "content_filter"}
    reason = reasons.get(stop)
    return {
        "status": "incomplete" if reason else "completed",
        "incomplete_details": {"reason": reason} if reason else None,
        "usage": write_usage(usage),
    }


def write_answer(answer: Answer, request: Request, created: int) -> dict[str, Any]:
    return {
        **write_response(request, created),
        "model": answer.model or request.model,
        "output": [write_output(part, request) for part in answer.parts],
        **ended_with(answer.stop, answer.usage),
    }


def write_usage(usage: Tokens | None) -> dict[str, Any] | None:
    if usage is None:
        return None
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.total,
    }
