"""Gemini's generateContent, to and from what all formats have in common.

Keys may be in camel or in snake case, as the API takes both. A call may lack an id: then its place
in the conversation is its id, and a result without one answers the next call of its name.
A search that is offered, not demanded, is left out. A model that thinks wants the signature of
each turn's first call back; for a call that another provider's model made there is a word of
Google's that stands for it (NO_SIGNATURE).
"""

from collections.abc import Mapping
from typing import Any

from wfhub_llm_gateway.formats.asked import Asked, malformed, unsupported
from wfhub_llm_gateway.formats.gemini import reported
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
from wfhub_llm_gateway.translation.gemini_json import camel, json_schema
from wfhub_llm_gateway.usage import Tokens

NO_SIGNATURE = "skip_thought_signature_validator"
_ROLES: Mapping[str, Role] = {"user": "user", "model": "assistant", "function": "user"}
_CHOICES: Mapping[str, Choice] = {
    "AUTO": "auto",
    "VALIDATED": "auto",
    "ANY": "required",
    "NONE": "none",
}
_REFUSED = {
    "cachedContent": "contents are not kept; send them whole",
}
_CONFIG_REFUSED = {
    "responseLogprobs": "the provider of this model does not report them",
    "logprobs": "the provider of this model does not report them",
    "speechConfig": "the provider of this model answers in text",
    "imageConfig": "the provider of this model answers in text",
}
_LEFT_OUT = {"googleSearch", "googleSearchRetrieval"}
STOPS: Mapping[str, Stop] = {"STOP": "end", "MAX_TOKENS": "length"}
REASONS: Mapping[Stop, str] = {
    "end": "STOP",
    "sequence": "STOP",
    "length": "MAX_TOKENS",
    "tools": "STOP",
    "filter": "SAFETY",
}


def read_request(asked: Asked) -> Request:
    value = camel(asked.value)
    pieces.refuse(value, _REFUSED)
    config = camel(value.get("generationConfig"))
    pieces.refuse(config, _CONFIG_REFUSED)
    if config.get("candidateCount") not in (None, 1):
        raise unsupported("candidateCount: only one answer at a time can be had from this model")
    if config.get("responseModalities") not in (None, [], ["TEXT"]):
        raise unsupported("responseModalities: the provider of this model answers in text")
    messages: list[Message] = []
    if parts := camel(value.get("systemInstruction")).get("parts"):
        messages.append(Message("system", (Text(pieces.texts(parts, "systemInstruction")),)))
    ids = _Ids()
    for content in value["contents"]:
        role = pieces.role_of(content.get("role", "user"), _ROLES)
        messages.append(Message(role, tuple(_parts(content.get("parts"), ids))))
    tools = tuple(tool for given in value.get("tools") or [] for tool in _tools(given))
    choice, name, tools = _chosen(value.get("toolConfig"), tools)
    thinking = camel(config.get("thinkingConfig"))
    budget = pieces.integer(thinking.get("thinkingBudget"), "thinkingBudget")
    level = thinking.get("thinkingLevel")
    return Request(
        model=asked.model,
        messages=pieces.named_results(pieces.joined(messages)),
        stream=asked.stream,
        tools=tools,
        choice=choice,
        choice_name=name,
        completion_max=asked.completion_max,
        temperature=pieces.number(config.get("temperature"), "temperature"),
        top_p=pieces.number(config.get("topP"), "topP"),
        top_k=pieces.integer(config.get("topK"), "topK"),
        seed=pieces.integer(config.get("seed"), "seed"),
        presence_penalty=pieces.number(config.get("presencePenalty"), "presencePenalty"),
        frequency_penalty=pieces.number(config.get("frequencyPenalty"), "frequencyPenalty"),
        stop=pieces.strings(config.get("stopSequences"), "stopSequences"),
        shape=_shape(config),
        effort=level.lower() if isinstance(level, str) else None,
        thinking_tokens=None if budget is None or budget < 0 else budget,
    )


class _Ids:
    """Of calls that have none: in order; results take those of their name, the oldest first."""

    def __init__(self) -> None:
        self._count = 0
        self._open: list[tuple[str, str]] = []

    def of_call(self, name: str, given: Any) -> str:
        self._count += 1
        known = given if isinstance(given, str) and given else f"call_{self._count}"
        self._open.append((name, known))
        return known

    def of_result(self, name: str, given: Any) -> str:
        for n, (called, known) in enumerate(self._open):
            if known == given or (not given and called == name):
                del self._open[n]
                return known
        if isinstance(given, str) and given:
            return given
        raise malformed(f"there is no call of {name!r} for this functionResponse")


def _parts(value: Any, ids: _Ids) -> list[Part]:
    if not isinstance(value, list):
        raise malformed("a content needs parts, a list")
    return [part for each in value for part in _part(camel(each), ids)]


def _part(part: dict[str, Any], ids: _Ids) -> list[Part]:
    signature, origin = pieces.unsealed(part.get("thoughtSignature"), "gemini")
    if signature == NO_SIGNATURE:
        signature, origin = "", None
    if isinstance(part.get("text"), str):
        if part.get("thought") is True:
            return [Reasoning(part["text"], signature, origin)]
        if part["text"]:
            return [Text(part["text"])]
        # An empty text may carry the signature of what was thought before it.
        return [Reasoning("", signature, origin)] if signature else []
    if "inlineData" in part:
        blob = camel(part["inlineData"])
        return [_image(str(blob.get("mimeType")), data=str(blob.get("data") or ""))]
    if "fileData" in part:
        file = camel(part["fileData"])
        return [_image(str(file.get("mimeType") or "image/*"), url=str(file.get("fileUri") or ""))]
    if "functionCall" in part:
        call = camel(part["functionCall"])
        name = str(call.get("name") or "")
        arguments = pieces.dumped(call.get("args") or {})
        known = ids.of_call(name, call.get("id"))
        return [Call(known, name, arguments, signature=signature, origin=origin)]
    if "functionResponse" in part:
        response = camel(part["functionResponse"])
        name = str(response.get("name") or "")
        content, failed = _response(response.get("response"))
        known = ids.of_result(name, response.get("id"))
        return [Result(known, content, name, failed)]
    if not part.keys() - {"thoughtSignature", "thought"}:
        return []
    raise unsupported(f"parts with {', '.join(sorted(part))} cannot be sent to this model")


def _image(media_type: str, *, data: str = "", url: str = "") -> Image:
    if not media_type.startswith("image/"):
        raise unsupported(f"data of the type {media_type!r} cannot be sent to this model")
    return Image(media_type=media_type, data=data, url=url)


def _response(value: Any) -> tuple[tuple[Text | Image, ...], bool]:
    """What a tool said: the text in `output`, `result` or `error` if that is all, else JSON."""
    if isinstance(value, dict) and len(value) == 1:
        ((key, only),) = value.items()
        if key in ("output", "result", "error") and isinstance(only, str):
            return ((Text(only),) if only else ()), key == "error"
    return (Text(pieces.dumped(value if value is not None else {})),), False


def _tools(value: Any) -> list[Tool]:
    given = camel(value)
    if unknown := given.keys() - _LEFT_OUT - {"functionDeclarations"}:
        found = ", ".join(sorted(unknown))
        raise unsupported(f"tools of the type {found} cannot be given to this model")
    return [_tool(camel(each)) for each in given.get("functionDeclarations") or []]


def _tool(value: dict[str, Any]) -> Tool:
    if not isinstance(value.get("name"), str):
        raise malformed("a function declaration needs a name")
    schema = value.get("parametersJsonSchema") or json_schema(value.get("parameters"))
    described = value.get("description") or ""
    return Tool(value["name"], described, schema or {"type": "object", "properties": {}})


def _chosen(config: Any, tools: tuple[Tool, ...]) -> tuple[Choice | None, str, tuple[Tool, ...]]:
    calling = camel(camel(config).get("functionCallingConfig"))
    mode, allowed = calling.get("mode"), calling.get("allowedFunctionNames")
    if mode is None:
        return None, "", tools
    if str(mode).upper() not in _CHOICES:
        raise malformed(f"functionCallingConfig.mode: {mode!r} is not AUTO, ANY, NONE or VALIDATED")
    choice = _CHOICES[str(mode).upper()]
    if allowed and choice == "required":
        if len(allowed) == 1:
            return choice, str(allowed[0]), tools
        tools = tuple(tool for tool in tools if tool.name in allowed)
    return choice, "", tools


def _shape(config: dict[str, Any]) -> Shape | None:
    if config.get("responseMimeType") in (None, "text/plain"):
        return None
    if config["responseMimeType"] != "application/json":
        raise unsupported("responseMimeType: only text/plain and application/json")
    schema = config.get("responseJsonSchema") or json_schema(config.get("responseSchema"))
    return Shape(schema) if schema else Shape()


def write_request(request: Request) -> dict[str, Any]:
    system, messages = pieces.split_system(request)
    return pieces.without_none(
        {
            "systemInstruction": {"parts": [{"text": text} for text in system]} if system else None,
            "contents": [_write_content(message) for message in messages],
            "tools": [{"functionDeclarations": [_write_tool(tool) for tool in request.tools]}]
            if request.tools
            else None,
            "toolConfig": _write_choice(request),
            "generationConfig": _write_config(request) or None,
        }
    )


def _write_config(request: Request) -> dict[str, Any]:
    thinking = pieces.thinking_tokens(request)
    shape = request.shape
    return pieces.without_none(
        {
            "maxOutputTokens": request.completion_max,
            "temperature": request.temperature,
            "topP": request.top_p,
            "topK": request.top_k,
            "seed": request.seed,
            "presencePenalty": request.presence_penalty,
            "frequencyPenalty": request.frequency_penalty,
            "stopSequences": list(request.stop) or None,
            "responseMimeType": "application/json" if shape else None,
            "responseJsonSchema": dict(shape.schema) if shape and shape.schema else None,
            "thinkingConfig": {"thinkingBudget": thinking, "includeThoughts": thinking > 0}
            if thinking is not None
            else None,
        }
    )


def _write_content(message: Message) -> dict[str, Any]:
    parts: list[dict[str, Any]] = []
    called = False
    for part in message.parts:
        written = write_parts(part)
        if isinstance(part, Call) and not called and "thoughtSignature" not in written[0]:
            written[0]["thoughtSignature"] = NO_SIGNATURE
        called = called or isinstance(part, Call)
        parts += written
    return {"role": "model" if message.role == "assistant" else "user", "parts": parts}


def write_parts(part: Part, *, into_answer: bool = False) -> list[dict[str, Any]]:
    """A server takes back only the signatures of its own; a client carries any."""
    match part:
        case Text():
            return [{"text": part.text}]
        case Image():
            if part.url:
                # The format must name a type, and does not look at this one's last part.
                return [{"fileData": {"mimeType": "image/jpeg", "fileUri": part.url}}]
            return [{"inlineData": {"mimeType": part.media_type, "data": part.data}}]
        case Reasoning():
            if not into_answer and part.origin != "gemini":
                return []
            signed = _signed(part, into_answer=into_answer)
            return [{"text": part.text, "thought": True, **signed}]
        case Call():
            value = pieces.arguments_value(pieces.as_function(part))
            call = {"id": part.id, "name": part.name, "args": value}
            return [{"functionCall": call, **_signed(part, into_answer=into_answer)}]
        case Result():
            text = pieces.content_text(part.content)
            said = {"error" if part.failed else "output": text}
            response = {"id": part.call_id, "name": part.name or part.call_id, "response": said}
            pictures = [each for each in part.content if isinstance(each, Image)]
            more = [written for each in pictures for written in write_parts(each)]
            return [{"functionResponse": response}, *more]


def _signed(part: Reasoning | Call, *, into_answer: bool) -> dict[str, str]:
    if not part.signature or (part.origin != "gemini" and not into_answer):
        return {}
    return {"thoughtSignature": pieces.sealed(part.signature, part.origin, "gemini")}


def _write_tool(tool: Tool) -> dict[str, Any]:
    schema = pieces.CUSTOM_SCHEMA if tool.custom else tool.schema
    return {
        "name": tool.name,
        "description": tool.description,
        "parametersJsonSchema": dict(schema),
    }


def _write_choice(request: Request) -> dict[str, Any] | None:
    if request.choice is None or not request.tools:
        return None
    modes = {"auto": "AUTO", "required": "ANY", "none": "NONE"}
    calling: dict[str, Any] = {"mode": modes[request.choice]}
    if request.choice_name:
        calling["allowedFunctionNames"] = [request.choice_name]
    return {"functionCallingConfig": calling}


def stop_of(reason: Any, *, called: bool) -> Stop:
    stop = STOPS.get(str(reason), "filter")
    return "tools" if called and stop == "end" else stop


def read_answer(value: dict[str, Any]) -> Answer:
    """Raises: KeyError, TypeError, IndexError, AttributeError for what is none."""
    identity = (str(value.get("responseId") or ""), str(value.get("modelVersion") or ""))
    if not value.get("candidates") and value.get("promptFeedback"):
        return Answer(*identity, (), "filter", reported(value))
    candidate = value["candidates"][0]
    parts = answer_parts(camel(candidate.get("content")).get("parts") or [])
    called = any(isinstance(part, Call) for part in parts)
    stop = stop_of(candidate.get("finishReason", "STOP"), called=called)
    return Answer(*identity, parts, stop, reported(value))


def answer_parts(value: list[Any]) -> tuple[Text | Reasoning | Call, ...]:
    """Calls without an id get one that no other has."""
    found: list[Text | Reasoning | Call] = []
    for each in value:
        given = camel(each)
        if "functionCall" in given and not camel(given["functionCall"]).get("id"):
            given["functionCall"] = {**given["functionCall"], "id": pieces.new_id("call_")}
        parts = _part(given, _Ids())
        found += [part for part in parts if isinstance(part, (Text, Reasoning, Call))]
    return tuple(found)


def write_answer(answer: Answer, request: Request, created: int) -> dict[str, Any]:
    parts = [each for part in answer.parts for each in write_parts(part, into_answer=True)]
    return write_chunk(answer.id, answer.model or request.model, parts, answer.stop, answer.usage)


def write_chunk(
    response_id: str,
    model: str,
    parts: list[dict[str, Any]],
    stop: Stop | None = None,
    usage: Tokens | None = None,
) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
    if stop is not None:
        candidate["finishReason"] = REASONS[stop]
    chunk: dict[str, Any] = {"candidates": [candidate]}
    if usage is not None:
        chunk["usageMetadata"] = {
            "promptTokenCount": usage.prompt,
            "candidatesTokenCount": usage.completion,
            "totalTokenCount": usage.total,
        }
        if usage.cached:
            chunk["usageMetadata"]["cachedContentTokenCount"] = usage.cached
    return {**chunk, "modelVersion": model, "responseId": response_id or pieces.new_id("")}
