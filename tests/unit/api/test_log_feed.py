"""A log as events: what ends it, and what only ends this process."""

from collections.abc import AsyncIterator

from wfhub_api import log_feed
from wfhub_api.log_sources import Piece
from wfhub_common.service import Stop

ATTEMPT = "att_" + "a" * 24


async def said(*pieces: Piece) -> AsyncIterator[Piece]:
    for piece in pieces:
        yield piece


async def test_a_service_that_stops_does_not_say_that_the_log_has_ended() -> None:
    piece = Piece(ATTEMPT, "agent", b"one\n", 0)
    for stops in (False, True):
        stop = Stop()
        if stops:
            stop()
        events = [event async for event in log_feed.as_events(said(piece), None, stop)]
        assert f"id: {ATTEMPT}:agent=4\n".encode() in events[0]
        assert events[1:] == ([] if stops else [log_feed.END])


def test_a_place_is_read_as_it_is_written() -> None:
    place = log_feed.Place(ATTEMPT, {"agent": 4, "base-verify": 0})
    assert log_feed.parse_place(str(place)) == place
    assert log_feed.parse_place(None) is None
