"""Stream and Postgres compared: replay, or a new generation."""

from wfhub_scheduler.positions import START, NewGeneration, Position, Replay, StreamEnd, compare

PLACED = Position(1, 10)


def test_an_empty_stream_gets_everything() -> None:
    assert compare(StreamEnd(seq=7), PLACED, None) == Replay(START)


def test_a_stream_behind_gets_what_is_missing() -> None:
    end = StreamEnd(7, Position(1, 4), "evt_a")
    assert compare(end, PLACED, "evt_a") == Replay(Position(1, 4))


def test_a_stream_of_an_older_generation_gets_the_newer_one() -> None:
    end = StreamEnd(7, Position(1, 40), "evt_a")
    assert compare(end, Position(2, 3), None) == Replay(Position(1, 40))


def test_a_stream_ahead_begins_a_generation_above_both() -> None:
    end = StreamEnd(7, Position(1, 11), "evt_a")
    verdict = compare(end, PLACED, None)
    assert isinstance(verdict, NewGeneration)
    assert verdict.generation == 2
    verdict = compare(StreamEnd(7, Position(5, 1), "evt_a"), PLACED, None)
    assert isinstance(verdict, NewGeneration)
    assert verdict.generation == 6


def test_another_event_at_the_same_position_begins_a_generation() -> None:
    verdict = compare(StreamEnd(7, Position(1, 4), "evt_a"), PLACED, "evt_b")
    assert isinstance(verdict, NewGeneration)
    assert verdict.generation == 2


def test_a_row_that_aged_out_of_the_database_proves_nothing() -> None:
    end = StreamEnd(7, Position(1, 4), "evt_a")
    assert compare(end, PLACED, None) == Replay(Position(1, 4))
