"""What a format's module in this room must be able to do; `TRANSLATORS` has them all.

`read_*` give what all formats have in common, `write_*` make JSON of it. A Decoder is fed the data
of each event and asked for the rest at the end; an Encoder gives back events as bytes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

from wfhub_common.model_paths import Format

from wfhub_llm_gateway.formats.asked import Asked
from wfhub_llm_gateway.translation import (
    chat,
    chat_stream,
    gemini,
    gemini_stream,
    messages,
    messages_stream,
    responses,
    responses_stream,
)
from wfhub_llm_gateway.translation.canonical import Answer, Event, Request


class Decoder(Protocol):
    def feed(self, value: dict[str, Any]) -> list[Event]: ...

    def end(self) -> list[Event]: ...


class Encoder(Protocol):
    def feed(self, event: Event) -> list[bytes]: ...


@dataclass(frozen=True)
class Translator:
    read_request: Callable[[Asked], Request]
    write_request: Callable[[Request], dict[str, Any]]
    read_answer: Callable[[dict[str, Any]], Answer]
    write_answer: Callable[[Answer, Request, int], dict[str, Any]]
    decoder: Callable[[Request], Decoder]
    encoder: Callable[[Request, int], Encoder]


TRANSLATORS: Mapping[Format, Translator] = MappingProxyType(
    {
        "chat": Translator(
            chat.read_request,
            chat.write_request,
            chat.read_answer,
            chat.write_answer,
            chat_stream.Decoder,
            chat_stream.Encoder,
        ),
        "responses": Translator(
            responses.read_request,
            responses.write_request,
            responses.read_answer,
            responses.write_answer,
            responses_stream.Decoder,
            responses_stream.Encoder,
        ),
        "messages": Translator(
            messages.read_request,
            messages.write_request,
            messages.read_answer,
            messages.write_answer,
            messages_stream.Decoder,
            messages_stream.Encoder,
        ),
        "gemini": Translator(
            gemini.read_request,
            gemini.write_request,
            gemini.read_answer,
            gemini.write_answer,
            gemini_stream.Decoder,
            gemini_stream.Encoder,
        ),
    }
)
