"""Tokens: as reported, and as estimated for the budget."""

import json

import pytest
from wfhub_llm_gateway import sse, usage
from wfhub_llm_gateway.formats.chat import CHAT, reported
from wfhub_llm_gateway.usage import Tap, Tokens


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 4}}, Tokens(3, 4)),
        ({"usage": {"prompt_tokens": 3}}, Tokens(3, 0)),
        ({"usage": {"prompt_tokens": -1, "completion_tokens": 2**80}}, Tokens(0, 2**31 - 1)),
        ({"usage": {"prompt_tokens": "3"}}, None),
        ({"usage": {}}, None),
        ({"usage": None}, None),
        ({}, None),
    ],
)
def test_usage_is_what_the_server_reported(value, expected):
    assert reported(value) == expected


def test_the_last_usage_of_a_stream_counts_and_deltas_are_estimated():
    tap = Tap(CHAT.look)
    for chunk in (
        {"model": "m", "choices": [{"delta": {"role": "assistant", "content": None}}]},
        {"choices": [{"delta": {"content": "hi"}}], "usage": None},
        {"choices": [{"delta": {"content": "x" * 40}}], "usage": {"prompt_tokens": 1}},
        {"choices": [{"delta": {"tool_calls": [{"id": "i" * 99, "function": {"name": "f"}}]}}]},
        {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 12}},
    ):
        tap.event(sse.event_of(json.dumps(chunk)))
    tap.event(b"data: [DONE]\n\n")
    assert tap.reported == Tokens(5, 12)
    assert tap.estimated == 1 + 10 + 1
    assert tap.model == "m"
    assert tap.events[-1] == "[DONE]"


@pytest.mark.parametrize(
    "data", ["", "{", "[1]", "3", '{"choices": 3}', '{"choices": [3, {"delta": 4}]}', "[" * 9999]
)
def test_a_server_that_talks_nonsense_harms_nothing(data):
    tap = Tap(CHAT.look)
    tap.event(sse.event_of(data))
    assert (tap.reported, tap.estimated) == (None, 0)


def estimated(value):
    return usage.estimate(json.dumps(value).encode(), value, ("messages", "tools"), ("image_url",))


def test_the_prompt_is_estimated_by_its_length_and_pictures_have_a_price():
    text = {"messages": [{"role": "user", "content": "x" * 4000}]}
    assert 1000 <= estimated(text) <= 1050
    picture = {"type": "image_url", "image_url": {"url": "data:," + "A" * 1_000_000}}
    pictured = {"messages": [{"role": "user", "content": [picture]}]}
    assert 1000 <= estimated(pictured) <= 1050
