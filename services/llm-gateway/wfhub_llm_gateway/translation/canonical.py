"""What the four formats have in common: a request, an answer, and the events of a stream.

A format's module reads its own JSON into these and writes them as its own JSON; nothing else
knows two formats. A conversation is a tuple of messages; a tool's result is a part of a user
message, after the assistant's message with its call. `arguments` is JSON text as the model wrote
it; of a custom tool (`custom`), the free text of its input.

A `signature` is what a provider wants back with its model's reasoning; it means something to its
`origin` only. Other formats carry it as an opaque text (`sealed`), and it comes back when the
conversation does.
Units: tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from wfhub_common.model_paths import Format

from wfhub_llm_gateway.usage import Tokens

Role = Literal["system", "user", "assistant"]
# Why an answer ended: of itself, at a stop sequence, at a limit, to call tools, by a filter.
Stop = Literal["end", "sequence", "length", "tools", "filter"]
Choice = Literal["auto", "none", "required"]


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Image:
    """Either `data` (base64) with its media type, or a `url`."""

    media_type: str = ""
    data: str = ""
    url: str = ""


@dataclass(frozen=True)
class Reasoning:
    text: str
    signature: str = ""
    origin: Format | None = None


@dataclass(frozen=True)
class Call:
    id: str
    name: str
    arguments: str
    custom: bool = False
    signature: str = ""
    origin: Format | None = None


@dataclass(frozen=True)
class Result:
    """`name`: of the tool, where the format says it or the call was seen."""

    call_id: str
    content: tuple[Text | Image, ...]
    name: str = ""
    failed: bool = False
    custom: bool = False


Part = Text | Image | Reasoning | Call | Result


@dataclass(frozen=True)
class Message:
    role: Role
    parts: tuple[Part, ...]


@dataclass(frozen=True)
class Tool:
    """`schema` of its arguments; a custom tool takes one text. `name` begins with its namespace,
    where it has one."""

    name: str
    description: str = ""
    schema: Mapping[str, Any] = field(default_factory=dict)
    strict: bool | None = None
    custom: bool = False
    namespace: str = ""


@dataclass(frozen=True)
class Shape:
    """The JSON that the answer must be: any object, or of this schema."""

    schema: Mapping[str, Any] | None = None
    name: str = "answer"
    strict: bool | None = None


@dataclass(frozen=True)
class Request:
    model: str
    messages: tuple[Message, ...]
    stream: bool = False
    tools: tuple[Tool, ...] = ()
    choice: Choice | None = None
    choice_name: str = ""  # with `required`: this tool and no other
    parallel: bool | None = None
    completion_max: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    stop: tuple[str, ...] = ()
    shape: Shape | None = None
    effort: str | None = None  # of reasoning: none, minimal, low, medium, high, …
    thinking_tokens: int | None = None  # the same as a number; 0: none

    @property
    def custom_tools(self) -> frozenset[str]:
        return frozenset(tool.name for tool in self.tools if tool.custom)


@dataclass(frozen=True)
class Answer:
    id: str
    model: str
    parts: tuple[Text | Reasoning | Call, ...]
    stop: Stop
    usage: Tokens | None = None


# The events of a stream, in this order: Begun, then parts one after the other, each with its
# deltas, then Ended. A part ends where the next begins.


@dataclass(frozen=True)
class Begun:
    id: str
    model: str


@dataclass(frozen=True)
class TextDelta:
    text: str


@dataclass(frozen=True)
class ReasoningDelta:
    text: str


@dataclass(frozen=True)
class ReasoningSigned:
    """Ends the reasoning."""

    signature: str
    origin: Format


@dataclass(frozen=True)
class CallBegun:
    id: str
    name: str
    custom: bool = False
    signature: str = ""
    origin: Format | None = None


@dataclass(frozen=True)
class CallDelta:
    """Of the call that began last."""

    arguments: str


@dataclass(frozen=True)
class Ended:
    stop: Stop
    usage: Tokens | None = None


Event = Begun | TextDelta | ReasoningDelta | ReasoningSigned | CallBegun | CallDelta | Ended


def events_of(answer: Answer) -> list[Event]:
    """The stream that would have said the same."""
    events: list[Event] = [Begun(answer.id, answer.model)]
    for part in answer.parts:
        match part:
            case Text():
                events.append(TextDelta(part.text))
            case Reasoning():
                events.append(ReasoningDelta(part.text))
                if part.signature and part.origin:
                    events.append(ReasoningSigned(part.signature, part.origin))
            case Call():
                begun = CallBegun(part.id, part.name, part.custom, part.signature, part.origin)
                events += [begun, CallDelta(part.arguments)]
    return [*events, Ended(answer.stop, answer.usage)]


def answer_of(events: list[Event]) -> Answer:
    """The whole that a complete stream said. Raises: ValueError for one that is not."""
    begun, ended = Begun("", ""), None
    parts: list[Text | Reasoning | Call] = []
    signed = False  # a signature ends its reasoning
    for event in events:
        last = parts[-1] if parts else None
        match event:
            case Begun():
                begun = event
            case TextDelta():
                if isinstance(last, Text):
                    parts[-1] = Text(last.text + event.text)
                else:
                    parts.append(Text(event.text))
            case ReasoningDelta():
                if isinstance(last, Reasoning) and not signed:
                    parts[-1] = Reasoning(last.text + event.text)
                else:
                    parts.append(Reasoning(event.text))
                    signed = False
            case ReasoningSigned():
                text = last.text if isinstance(last, Reasoning) and not signed else None
                signature = Reasoning(text or "", event.signature, event.origin)
                parts[len(parts) - (text is not None) :] = [signature]
                signed = True
            case CallBegun():
                parts.append(
                    Call(event.id, event.name, "", event.custom, event.signature, event.origin)
                )
            case CallDelta():
                if not isinstance(last, Call):
                    raise ValueError("arguments without a call")
                arguments = last.arguments + event.arguments
                parts[-1] = Call(
                    last.id, last.name, arguments, last.custom, last.signature, last.origin
                )
            case Ended():
                ended = event
    if ended is None:
        raise ValueError("the stream did not end")
    return Answer(begun.id, begun.model, tuple(parts), ended.stop, ended.usage)
