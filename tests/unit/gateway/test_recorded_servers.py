"""Translations against what real servers answered (tests/fixtures/servers, made by
tests/support/record_servers.py): read, written in each other format, and read again."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from wfhub_common.model_paths import recognised
from wfhub_llm_gateway import sse
from wfhub_llm_gateway.completion import DONE
from wfhub_llm_gateway.formats import BY_NAME
from wfhub_llm_gateway.formats.asked import Asked, Head
from wfhub_llm_gateway.translation.canonical import (
    Answer,
    Call,
    Event,
    Message,
    Reasoning,
    Request,
    Text,
    answer_of,
    events_of,
)
from wfhub_llm_gateway.translation.port import TRANSLATORS
from wfhub_llm_gateway.usage import Tap

FOLDER = Path(__file__).parents[2] / "fixtures" / "servers"
FORMATS = ("chat", "responses", "messages", "gemini")


@dataclass(frozen=True)
class Recorded:
    name: str
    value: dict[str, Any]

    @property
    def format(self) -> str:
        return str(self.value["format"])

    @property
    def asked(self) -> Asked:
        raw = json.dumps(self.value["asked"]).encode()
        path, _, query = self.value["path"].partition("?")
        found = recognised(path)
        assert found is not None
        head = Head(found, alt="sse" if query == "alt=sse" else "")
        return BY_NAME[self.format].parse(raw, head, default_model="")

    @property
    def request(self) -> Request:
        return TRANSLATORS[self.format].read_request(self.asked)

    @property
    def streamed(self) -> bool:
        return bool(self.value["kind"] == sse.CONTENT_TYPE)

    def answer(self) -> Answer:
        if not self.streamed:
            return TRANSLATORS[self.format].read_answer(self.value["answer"])
        return answer_of(read(self.format, self.value["answer"].encode(), self.request))


def recordings() -> list[Recorded]:
    files = sorted(FOLDER.glob("*.json"))
    return [Recorded(file.stem, json.loads(file.read_text())) for file in files]


def generations() -> list[Recorded]:
    whats = ("hello", "tool", "turns")
    return [
        each
        for each in recordings()
        if each.name.split(".")[2].partition("-")[0] in whats and each.value["status"] == 200
    ]


def events_in(stream: bytes) -> list[dict[str, Any]]:
    splitter = sse.Splitter()
    found = [*splitter.feed(stream), splitter.rest]
    texts = [data for event in found if (data := sse.data_of(event))]
    return [json.loads(text) for text in texts if text.strip() not in ("", DONE)]


def read(name: str, stream: bytes, request: Request) -> list[Event]:
    decoder = TRANSLATORS[name].decoder(request)
    return [e for value in events_in(stream) for e in decoder.feed(value)] + decoder.end()


def said(answer: Answer) -> tuple[str, list[tuple[str, Any]], str, tuple[int, int]]:
    """What of it every format can say: words, calls, why it ended, what it cost."""
    words = "".join(part.text for part in answer.parts if isinstance(part, Text))
    calls = [
        (part.name, json.loads(part.arguments or "{}"))
        for part in answer.parts
        if isinstance(part, Call)
    ]
    usage = answer.usage
    assert usage is not None
    return words, calls, answer.stop, (usage.prompt, usage.completion)


each_generation = pytest.mark.parametrize("recorded", generations(), ids=lambda each: each.name)


def test_there_are_recordings_of_two_servers_in_every_format_streamed_and_not() -> None:
    found = {(each.format, each.streamed) for each in generations()}
    assert found == {(name, streamed) for name in FORMATS for streamed in (False, True)}
    assert {each.value["server"] for each in generations()} == {"llama-cpp", "litellm"}
    assert {bool(said(each.answer())[1]) for each in generations()} == {True, False}


@each_generation
def test_a_servers_answer_is_the_same_by_way_of_each_other_format(recorded: Recorded) -> None:
    answer, request = recorded.answer(), recorded.request
    for name in FORMATS:
        written = TRANSLATORS[name].write_answer(answer, request, 1)
        assert said(TRANSLATORS[name].read_answer(json.loads(json.dumps(written)))) == said(answer)
        encoder = TRANSLATORS[name].encoder(request, 1)
        stream = b"".join(out for event in events_of(answer) for out in encoder.feed(event))
        assert said(answer_of(read(name, stream, request))) == said(answer), name


@each_generation
def test_a_servers_stream_is_passed_on_without_a_byte_changed(recorded: Recorded) -> None:
    if not recorded.streamed:
        return
    stream = recorded.value["answer"].encode()
    for size in (1, 7, 4096):
        splitter = sse.Splitter()
        out = b"".join(
            event
            for start in range(0, len(stream), size)
            for event in splitter.feed(stream[start : start + size])
        )
        assert out + splitter.rest == stream


@each_generation
def test_what_it_cost_is_seen_in_a_servers_answer(recorded: Recorded) -> None:
    tap = Tap(BY_NAME[recorded.format].look)
    if recorded.streamed:
        splitter = sse.Splitter()
        for event in [*splitter.feed(recorded.value["answer"].encode()), splitter.rest]:
            tap.event(event)
        assert not tap.malformed
    else:
        tap.whole(recorded.value["answer"])
    assert tap.reported is not None
    assert (tap.reported.prompt, tap.reported.completion) == said(recorded.answer())[3]
    assert tap.estimated > 0


@each_generation
def test_a_request_that_a_server_took_is_the_same_by_way_of_each_other_format(
    recorded: Recorded,
) -> None:
    request = recorded.request
    for name in FORMATS:
        value = TRANSLATORS[name].write_request(request)
        again = TRANSLATORS[name].read_request(
            replace(recorded.asked, format=name, raw=json.dumps(value).encode(), value=value)
        )
        assert [shown(m) for m in again.messages] == [shown(m) for m in request.messages], name
        assert [tool.name for tool in again.tools] == [tool.name for tool in request.tools]
        assert again.completion_max == request.completion_max


def shown(message: Message) -> tuple[str, list[Any]]:
    parts: list[Any] = []
    for part in message.parts:
        match part:
            case Text():
                parts.append(part.text)
            case Call():
                parts.append((part.name, json.loads(part.arguments)))
            case Reasoning():
                pass
            case _:
                parts.append(type(part).__name__)
    return message.role, parts


def test_what_else_real_servers_answer_is_read_by_its_format() -> None:
    others = {each.name: each.value for each in recordings()}
    counted = others["llama-cpp.messages.count"]["answer"]
    assert counted.keys() == BY_NAME["messages"].count_value(1).keys()
    embedded = others["llama-cpp.chat.embeddings"]["answer"]
    seen = BY_NAME["chat"].look(embedded)
    assert seen.tokens is not None
    assert seen.tokens.prompt == embedded["usage"]["prompt_tokens"] > 0
    listed = others["llama-cpp.chat.models"]["answer"]["data"]
    assert [model["id"] for model in listed] == ["gemma"]
    for server in ("llama-cpp", "litellm"):
        assert 400 <= others[f"{server}.chat.refused"]["status"] < 500
        assert others[f"{server}.chat.refused"]["answer"]["error"]["message"]
