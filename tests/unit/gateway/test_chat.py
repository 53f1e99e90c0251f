"""Chat requests: what is read from them, and what is changed before they go on."""

import json

import pytest
from wfhub_common.errors import Rejected
from wfhub_common.model_paths import ModelPath
from wfhub_llm_gateway.formats.asked import Head, check_model
from wfhub_llm_gateway.formats.chat import CHAT

HEAD = Head(ModelPath("chat", "generate", "POST"))
MESSAGES = [{"role": "user", "content": "x"}]


def parsed(default_model="", **fields):
    raw = json.dumps({"messages": MESSAGES, **fields}).encode()
    return CHAT.parse(raw, HEAD, default_model=default_model)


@pytest.mark.parametrize(
    ("model", "default", "resolved"),
    [
        (None, "m1", "m1"),
        ("default", "m1", "m1"),
        ("", "m1", "m1"),
        ("other", "m1", "other"),
        ("default", "", "default"),
        (None, "", ""),
    ],
)
def test_the_default_model_stands_in_for_one_that_was_left_open(model, default, resolved):
    assert parsed(default, **({} if model is None else {"model": model})).model == resolved


def test_a_request_that_needs_nothing_goes_on_byte_for_byte():
    raw = b'{ "messages": [{"role":"user","content":"\\u00e9"}],\n "model":"m", "top_p": 0.70}'
    assert CHAT.outgoing(CHAT.parse(raw, HEAD, default_model="d")) == raw
    asked = raw[:-1] + b', "stream": true, "stream_options": {"include_usage": true}}'
    assert CHAT.outgoing(CHAT.parse(asked, HEAD, default_model="")) == asked


def test_usage_is_asked_for_in_a_stream_beside_the_clients_own_options():
    sent = json.loads(
        CHAT.outgoing(parsed(stream=True, stream_options={"x": 1, "include_usage": False}))
    )
    assert sent["stream_options"] == {"x": 1, "include_usage": True}
    assert "stream_options" not in json.loads(CHAT.outgoing(parsed()))


@pytest.mark.parametrize(
    ("model", "allowed", "ok"),
    [
        ("m1", None, True),
        ("m1", ("m1", "m2"), True),
        ("m3", ("m1", "m2"), False),
        ("default", ("m1",), True),
        ("default", ("default",), True),
        ("default", ("m2",), False),
        ("m1", (), False),
    ],
)
def test_the_allowlist_is_for_the_name_asked_or_the_model_it_stands_for(model, allowed, ok):
    request = parsed("m1", model=model)
    if ok:
        check_model(request, allowed)
    else:
        with pytest.raises(Rejected) as caught:
            check_model(request, allowed)
        assert caught.value.status == 403


def test_the_answers_limit_is_read_under_both_of_its_names():
    assert parsed(max_tokens=5).completion_max == 5
    assert parsed(max_tokens=5, max_completion_tokens=7).completion_max == 7
    assert parsed(max_tokens=-1).completion_max is None
