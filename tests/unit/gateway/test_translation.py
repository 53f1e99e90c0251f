"""Round trips: what is written in a format and read again is the same, for requests, answers and
streams; and from any format to any other, what both can say."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from wfhub_common.errors import Rejected
from wfhub_common.model_paths import ModelPath
from wfhub_llm_gateway import sse
from wfhub_llm_gateway.completion import DONE
from wfhub_llm_gateway.formats import BY_NAME
from wfhub_llm_gateway.formats.asked import Asked, Head, UpstreamFailed
from wfhub_llm_gateway.translation import pieces, streams
from wfhub_llm_gateway.translation.canonical import (
    Answer,
    Call,
    CallBegun,
    Event,
    Image,
    Message,
    Part,
    Reasoning,
    Request,
    Result,
    Text,
    TextDelta,
    Tool,
    answer_of,
    events_of,
)
from wfhub_llm_gateway.translation.port import TRANSLATORS
from wfhub_llm_gateway.usage import Tap, Tokens

FORMATS = ("chat", "responses", "messages", "gemini")
QUICK = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True
)

words = st.text(min_size=1, max_size=12).filter(lambda text: text.strip() == text)
names = st.from_regex(r"[a-z][a-z_]{0,8}", fullmatch=True)
objects = st.dictionaries(names, st.one_of(words, st.integers(-9, 9), st.booleans()), max_size=3)
arguments = objects.map(pieces.dumped)
texts = words.map(Text)
images = st.one_of(
    st.just(Image(media_type="image/png", data="aGk=")),
    st.just(Image(url="https://example.org/a.png")),
)
tools = st.lists(
    st.builds(Tool, names, words, st.just({"type": "object", "properties": {}})),
    max_size=3,
    unique_by=lambda tool: tool.name,
).map(tuple)
counts = st.one_of(
    st.none(), st.builds(Tokens, st.integers(10, 99), st.integers(1, 99), st.integers(0, 9))
)


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    """Turns as clients have them: a user's, then an assistant's with calls, whose results begin
    the next user's."""
    messages = []
    if draw(st.booleans()):
        messages.append(Message("system", (draw(texts),)))
    results: list[Part] = []
    for turn in range(draw(st.integers(1, 3))):
        said = draw(st.lists(st.one_of(texts, images), min_size=0 if results else 1, max_size=2))
        messages.append(Message("user", (*results, *said)))
        answered: list[Part] = [draw(texts)] if draw(st.booleans()) else []
        calls = [
            Call(f"call_{turn}{n}", draw(names), draw(arguments))
            for n in range(draw(st.integers(0 if answered else 1, 2)))
        ]
        messages.append(Message("assistant", (*answered, *calls)))
        results = [Result(call.id, (draw(texts),), call.name) for call in calls]
    if results:
        messages.append(Message("user", tuple(results)))
    return tuple(messages)


requests = st.builds(
    Request,
    model=st.just("m"),
    messages=conversations(),
    stream=st.booleans(),
    tools=tools,
    completion_max=st.integers(1, 9999),
    temperature=st.sampled_from([None, 0.0, 0.5]),
    top_p=st.sampled_from([None, 0.25]),
)


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    """No two texts in a row: a stream cannot tell them from one."""
    parts: list[Text | Reasoning | Call] = []
    if draw(st.booleans()):
        parts.append(Reasoning(draw(words)))
    if draw(st.booleans()):
        parts.append(draw(texts))
    calls = [
        Call(f"call_{n}", draw(names), draw(arguments)) for n in range(draw(st.integers(0, 2)))
    ]
    stop = "tools" if calls else draw(st.sampled_from(["end", "length"]))
    return Answer("x1", "m", (*parts, *calls), stop, draw(counts))


def asked(name: str, value: dict[str, Any], request: Request) -> Asked:
    path = ModelPath(name, "generate", "POST", request.model, request.stream)
    head = Head(path, alt="sse")
    return BY_NAME[name].parse(json.dumps(value).encode(), head, default_model="")


def through(name: str, request: Request) -> Request:
    each = TRANSLATORS[name]
    return each.read_request(asked(name, each.write_request(request), request))


def plain(request: Request) -> Request:
    """Without what some formats cannot tell apart: parts of one message that are all text, and a
    type of picture that has a URL."""
    messages = []
    for message in request.messages:
        parts: list[Part] = []
        for part in message.parts:
            if isinstance(part, Image) and part.url:
                parts.append(Image(url=part.url))
            elif isinstance(part, Text) and parts and isinstance(parts[-1], Text):
                parts[-1] = Text(f"{parts[-1].text}\n{part.text}")
            else:
                parts.append(part)
        messages.append(Message(message.role, tuple(parts)))
    return Request(**{**request.__dict__, "messages": tuple(messages)})


@pytest.mark.parametrize("name", FORMATS)
@QUICK
@given(request=requests)
def test_a_request_that_is_written_and_read_again_is_the_same(name: str, request: Request) -> None:
    again = plain(through(name, request))
    expected = plain(request)
    assert again.messages == expected.messages
    assert [tool.name for tool in again.tools] == [tool.name for tool in expected.tools]
    assert again.completion_max == expected.completion_max
    assert (again.temperature, again.top_p) == (expected.temperature, expected.top_p)
    assert again.stream == expected.stream


@pytest.mark.parametrize("there", FORMATS)
@pytest.mark.parametrize("name", FORMATS)
@QUICK
@given(request=requests)
def test_a_request_survives_the_way_through_two_formats(
    name: str, there: str, request: Request
) -> None:
    assert plain(through(there, through(name, request))).messages == plain(request).messages


def whole(name: str, answer: Answer) -> dict[str, Any]:
    value = TRANSLATORS[name].write_answer(answer, Request("m", ()), 1)
    return json.loads(json.dumps(value))


@pytest.mark.parametrize("name", FORMATS)
@QUICK
@given(answer=answers())
def test_an_answer_that_is_written_and_read_again_is_the_same(name: str, answer: Answer) -> None:
    again = TRANSLATORS[name].read_answer(whole(name, answer))
    assert again.parts == answer.parts
    assert again.stop == answer.stop
    if answer.usage:
        assert again.usage == answer.usage


def written(name: str, events: list[Event]) -> list[bytes]:
    encoder = TRANSLATORS[name].encoder(Request("m", ()), 1)
    return [raw for event in events for raw in encoder.feed(event)]


def read(name: str, stream: list[bytes]) -> list[Event]:
    decoder = TRANSLATORS[name].decoder(Request("m", ()))
    events = []
    for raw in stream:
        data = sse.data_of(raw)
        if data != DONE:
            events += decoder.feed(json.loads(data))
    return events + decoder.end()


@pytest.mark.parametrize("name", FORMATS)
@QUICK
@given(answer=answers())
def test_a_stream_that_is_written_and_read_again_says_the_same(name: str, answer: Answer) -> None:
    again = answer_of(read(name, written(name, events_of(answer))))
    assert again.parts == answer.parts
    assert again.stop == answer.stop
    if answer.usage:
        assert again.usage == answer.usage


@pytest.mark.parametrize("name", FORMATS)
@QUICK
@given(answer=answers())
def test_the_usage_of_an_answer_is_seen_in_each_format(name: str, answer: Answer) -> None:
    streamed, at_once = Tap(BY_NAME[name].look), Tap(BY_NAME[name].look)
    for raw in written(name, events_of(answer)):
        streamed.event(raw)
    at_once.whole(whole(name, answer))
    assert streamed.reported == at_once.reported == answer.usage
    said = sum(len(part.text) for part in answer.parts if isinstance(part, Text))
    assert streamed.estimated >= said // 4
    assert streamed.model == at_once.model == "m"


@pytest.mark.parametrize("name", FORMATS)
@QUICK
@given(answer=answers(), cut=st.integers(0, 20))
def test_a_stream_that_is_cut_is_never_taken_for_a_whole_one(
    name: str, answer: Answer, cut: int
) -> None:
    stream = written(name, events_of(Answer("x", "m", answer.parts, answer.stop, None)))
    last = 2 if name in ("chat", "messages") else 1  # [DONE], message_stop: nothing is missing
    with pytest.raises(UpstreamFailed):
        read(name, stream[: max(0, len(stream) - last - cut)])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("origin", FORMATS)
def test_a_signature_comes_back_to_its_own_provider_by_way_of_any_client(
    name: str, origin: str
) -> None:
    thought = Reasoning("hm", "c2ln", origin)
    answer = Answer("x", "m", (thought, Text("so")), "end", None)
    again = answer_of(read(name, written(name, events_of(answer))))
    if name == "chat":  # has no place for one
        assert again.parts == (Reasoning("hm"), Text("so"))
    else:
        found = "".join(p.signature for p in again.parts if isinstance(p, Reasoning))
        assert found == "c2ln"
        assert TRANSLATORS[name].read_answer(whole(name, answer)).parts == answer.parts


@pytest.mark.parametrize("name", ["chat", "messages", "gemini"])
def test_a_custom_tool_is_a_function_of_one_text_to_who_knows_functions_only(name: str) -> None:
    patch = Tool("apply_patch", "applies", custom=True)
    call = Call("call_1", "apply_patch", "*** Begin\n", custom=True)
    messages = (
        Message("user", (Text("do"),)),
        Message("assistant", (call,)),
        Message("user", (Result("call_1", (Text("done"),)),)),
    )
    value = TRANSLATORS[name].write_request(Request("m", messages, tools=(patch,)))
    assert json.loads(json.dumps(value))
    assert '"custom"' not in json.dumps(value)
    stage = streams.Customised(frozenset(["apply_patch"]))
    function = Call("call_2", "apply_patch", pieces.custom_arguments("*** End"))
    said = events_of(Answer("x", "m", (function, Text("t")), "tools", None))
    passed = [event for each in said for event in stage.passed([each])]
    assert CallBegun("call_2", "apply_patch", True) in passed
    again = answer_of(passed)
    assert again.parts == (Call("call_2", "apply_patch", "*** End", True), Text("t"))
    assert streams.customised(
        Answer("x", "m", (function,), "tools"), frozenset(["apply_patch"])
    ).parts == (Call("call_2", "apply_patch", "*** End", True),)
    assert TextDelta("t") in passed


REFUSED = [
    ("chat", {"n": 2}),
    ("chat", {"logprobs": True}),
    ("chat", {"modalities": ["text", "audio"]}),
    ("chat", {"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}),
    ("chat", {"messages": [{"role": "wizard", "content": "x"}]}),
    ("chat", {"tools": [{"type": "retrieval"}]}),
    ("responses", {"previous_response_id": "resp_1"}),
    ("responses", {"background": True}),
    ("responses", {"tools": [{"type": "code_interpreter"}]}),
    ("responses", {"input": [{"type": "item_reference", "id": "x"}]}),
    ("responses", {"input": [{"role": "user", "content": [{"type": "input_file"}]}]}),
    ("messages", {"mcp_servers": [{"url": "x"}]}),
    ("messages", {"tools": [{"type": "bash_20250124", "name": "bash"}]}),
    ("messages", {"messages": [{"role": "user", "content": [{"type": "document"}]}]}),
    ("gemini", {"cachedContent": "x"}),
    ("gemini", {"tools": [{"codeExecution": {}}]}),
    ("gemini", {"generationConfig": {"candidateCount": 2}}),
    ("gemini", {"contents": [{"parts": [{"executableCode": {}}]}]}),
]
LEAST: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "x"}]},
    "responses": {"input": "x"},
    "messages": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 5},
    "gemini": {"contents": [{"parts": [{"text": "x"}]}]},
}


@pytest.mark.parametrize(("name", "fields"), REFUSED)
def test_what_has_no_counterpart_is_refused_with_its_name(name: str, fields: dict) -> None:
    value = {**LEAST[name], **fields}
    with pytest.raises(Rejected) as caught:
        TRANSLATORS[name].read_request(asked(name, value, Request("m", ())))
    assert caught.value.status == 400
    assert caught.value.code in ("unsupported", "request-malformed")
    body = BY_NAME[name].error_value(caught.value)
    assert caught.value.message in json.dumps(body, ensure_ascii=False)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("responses", {"tools": [{"type": "web_search"}]}),
        ("messages", {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
        ("gemini", {"tools": [{"googleSearch": {}}]}),
    ],
)
def test_a_search_that_is_offered_is_left_out(name: str, fields: dict) -> None:
    value = {**LEAST[name], **fields}
    assert TRANSLATORS[name].read_request(asked(name, value, Request("m", ()))).tools == ()


def test_tools_of_a_namespace_are_called_by_their_full_name_and_back() -> None:
    tool = {"type": "function", "name": "ls", "parameters": {"type": "object", "properties": {}}}
    value = {"input": "x", "tools": [{"type": "namespace", "name": "mcp__fs__", "tools": [tool]}]}
    request = TRANSLATORS["responses"].read_request(asked("responses", value, Request("m", ())))
    assert [each.name for each in request.tools] == ["mcp__fs__ls"]
    answer = Answer("x", "m", (Call("c", "mcp__fs__ls", "{}"),), "tools", None)
    (item,) = TRANSLATORS["responses"].write_answer(answer, request, 1)["output"]
    assert (item["namespace"], item["name"]) == ("mcp__fs__", "ls")


def test_a_gemini_schema_becomes_a_json_schema() -> None:
    parameters = {
        "type": "OBJECT",
        "properties": {"any_of": {"type": "STRING", "nullable": True}},
        "required": ["any_of"],
    }
    value = {
        **LEAST["gemini"],
        "tools": [{"function_declarations": [{"name": "f", "parameters": parameters}]}],
    }
    request = TRANSLATORS["gemini"].read_request(asked("gemini", value, Request("m", ())))
    assert request.tools[0].schema == {
        "type": "object",
        "properties": {"any_of": {"type": ["string", "null"]}},
        "required": ["any_of"],
    }
