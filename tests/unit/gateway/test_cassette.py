"""Cassettes: what a file must look like, and the CLI that says what is wrong with it."""

import json

import pytest
from wfhub_llm_gateway import cassette, completion
from wfhub_llm_gateway.cassette import CassetteError

HEADER = {"wfhub_cassette": 1, "handwritten": True, "note": "n", "volatile": [["pid \\d+", "pid"]]}
REQUEST = {"messages": [{"role": "user", "content": "hi, pid 17"}]}
WHOLE = {
    "id": "x",
    "model": "m",
    "object": "chat.completion",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "hm",
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "shell", "arguments": '{"command": "ls"}'},
                    }
                ],
            },
            "finish_reason": "tool_calls",
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
}


def write(path, *lines):
    text = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("\n".join(text) + "\n", encoding="utf-8")
    return path


def test_a_cassette_written_by_hand_loads_with_its_defaults(tmp_path):
    file = write(tmp_path / "c", HEADER, "", {"request": REQUEST, "response": {"body": WHOLE}})
    tape = cassette.load(file)
    assert tape.header.handwritten
    (exchange,) = tape.exchanges
    assert (exchange.line, exchange.response.status, exchange.response.stream) == (3, 200, False)
    assert exchange.request["messages"][0]["content"] == "hi, pid"


def test_what_is_written_loads_as_it_was(tmp_path):
    response = cassette.Response(200, True, None, ('{"choices":[]}', "[DONE]"), {"a": "b"})
    recorded = cassette.Recorded({"messages": [{"role": "user", "content": "\u2028"}]}, response, 2)
    header = cassette.Header("http://h", "2026-01-01T00:00:00Z", False, "n", (("a", "b"),))
    file = tmp_path / "c"
    file.write_text(header.line() + recorded.text(), encoding="utf-8")
    assert cassette.load(file) == cassette.Cassette(header, (recorded,))


GOOD = {"request": REQUEST, "response": {"body": WHOLE}}


@pytest.mark.parametrize(
    ("lines", "line", "says"),
    [
        ([], None, "empty"),
        (["{"], 1, "not JSON"),
        ([GOOD], 1, "header"),
        ([{**HEADER, "wfhub_cassette": 2}], 1, "header"),
        ([{**HEADER, "hand_written": True}], 1, "unknown header keys: hand_written"),
        ([{**HEADER, "volatile": [["(", ""]]}], 1, "volatile"),
        ([{**HEADER, "volatile": ["x"]}], 1, "volatile"),
        ([HEADER, "[]"], 2, "object"),
        ([HEADER, {"request": REQUEST}], 2, "request"),
        ([HEADER, GOOD, {"request": {"messages": ["x"]}, "response": {}}], 3, "role"),
        ([HEADER, {**GOOD, "request": {**REQUEST, "model": "m"}}], 2, "model"),
        ([HEADER, {**GOOD, "response": {"body": {}}}], 2, "chat.completion"),
        ([HEADER, {**GOOD, "response": {"stream": True, "body": WHOLE}}], 2, "events"),
        ([HEADER, {**GOOD, "response": {"stream": True, "events": ["hi"]}}], 2, "events[0]"),
        ([HEADER, {**GOOD, "response": {"status": "200", "body": WHOLE}}], 2, "status"),
    ],
)
def test_a_fault_is_named_with_its_line(tmp_path, capsys, lines, line, says):
    file = write(tmp_path / "c", *lines)
    with pytest.raises(CassetteError) as caught:
        cassette.load(file)
    assert says in str(caught.value)
    if line is not None:
        assert f"{file}:{line}: " in str(caught.value)
    assert cassette.main(["check", str(file)]) == 1
    assert says in capsys.readouterr().err


def test_check_says_ok_and_how_it_was_made(tmp_path, capsys):
    assert cassette.main(["check", str(write(tmp_path / "c", HEADER, GOOD))]) == 0
    assert "ok, 1 exchanges, written by hand" in capsys.readouterr().out
    assert cassette.main([]) == 2


def test_a_completion_survives_the_way_to_chunks_and_back():
    assert completion.to_whole(completion.to_events(WHOLE, include_usage=True)) == WHOLE
    without = completion.to_whole(completion.to_events(WHOLE, include_usage=False))
    assert "usage" not in without


def test_chunks_of_two_tool_calls_are_put_together_by_index():
    def chunk(index, **function):
        call = {"index": index, "function": function}
        return json.dumps({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]})

    parts = [
        chunk(0, name="a", arguments=""),
        chunk(0, arguments="{1"),
        chunk(1, name="b", arguments="{2"),
        chunk(0, arguments="}"),
        chunk(10**9, name="c"),
        '{"choices": 3}',
    ]
    message = completion.to_whole(parts)["choices"][0]["message"]
    calls = [
        (call["function"]["name"], call["function"]["arguments"]) for call in message["tool_calls"]
    ]
    assert calls == [("a", "{1}"), ("b", "{2"), ("c", "")]
