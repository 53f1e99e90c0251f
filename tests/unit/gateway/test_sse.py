"""Server-sent events are split at their boundaries, and never changed."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wfhub_llm_gateway import sse

PIECES = st.lists(
    st.sampled_from([b"data: a", b"\n", b"\r", b"\r\n", b": c", b"event: x", b"data:b", b"\n\n"]),
    max_size=30,
).map(b"".join)


@given(PIECES, st.lists(st.integers(0, 200), max_size=8))
def test_what_is_fed_comes_out_whole_however_it_was_cut(stream, cuts):
    bounds = [0, *sorted(min(c, len(stream)) for c in cuts), len(stream)]
    splitter = sse.Splitter()
    chunks = [stream[a:b] for a, b in itertools.pairwise(bounds)]
    events = [event for chunk in chunks for event in splitter.feed(chunk)]
    assert b"".join(events) + splitter.rest == stream
    assert all(event[-1:] in b"\r\n" for event in events)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_lines_may_end_in_any_of_three_ways(end):
    event = b"event: x" + end + b"data: one" + end + b"data:two" + end + end
    splitter = sse.Splitter()
    # A CR at the end waits for the next byte, which could be its LF.
    found = list(splitter.feed(event + b"data: "))
    assert found == [event]
    assert sse.data_of(event) == "one\ntwo"


def test_an_event_of_one_byte_at_a_time_is_found_once():
    splitter = sse.Splitter()
    stream = b"data: 1\r\n\r\ndata: 2\n\n"
    found = [event for byte in stream for event in splitter.feed(bytes([byte]))]
    assert [sse.data_of(event) for event in found] == ["1", "2"]


def test_an_event_without_end_is_refused(monkeypatch):
    monkeypatch.setattr(sse, "EVENT_BYTES_MAX", 100)
    with pytest.raises(ValueError, match="100 bytes"):
        list(sse.Splitter().feed(b"data: " + b"x" * 100))


def test_comments_have_no_data_and_what_is_written_is_read_back():
    assert sse.data_of(b": keep-alive\n\n") is None
    assert sse.data_of(sse.event_of("a\nb")) == "a\nb"
