"""Server-sent events are read whole or not at all."""

from wfhub_client.sse import Message, parse


def test_messages_comments_and_halves() -> None:
    lines = [": hello", "", "id: 1-1", "event: a", "data: {", "data: }", "", "id: 1-2", "data: cut"]
    assert list(parse(lines)) == [Message("1-1", "a", "{\n}")]


def test_a_field_needs_no_space_and_no_value() -> None:
    assert list(parse(["data:x", "event", ""])) == [Message("", "", "x")]
