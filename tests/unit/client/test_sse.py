"""Server-sent events are read whole or not at all."""

from wfhub_client.sse import Message, parse


def test_messages_comments_and_halves() -> None:
    text = ": hello\n\nid: 1-1\nevent: a\ndata: {\ndata: }\n\nid: 1-2\ndata: cut\n"
    for texts in ([text], list(text), [text.replace("\n", "\r\n")]):
        assert list(parse(texts)) == [Message("1-1", "a", "{\n}")]


def test_data_may_hold_what_other_texts_end_a_line_with() -> None:
    assert list(parse(["data: a\u2028b\x85c\n\n"])) == [Message("", "message", "a\u2028b\x85c")]


def test_a_field_needs_no_space_and_no_value() -> None:
    assert list(parse(["data:x\nevent\n\n"])) == [Message("", "", "x")]
