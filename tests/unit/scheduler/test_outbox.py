"""How events are cut into batches, and ids drawn for them."""

from wfhub_common import ids
from wfhub_scheduler import outbox


def test_events_are_cut_into_batches_of_bounded_count_and_size() -> None:
    assert list(outbox._batches([])) == []
    assert list(outbox._batches(["{}"] * 3)) == [(0, 3)]
    count = outbox.BATCH_EVENTS_MAX
    assert list(outbox._batches(["{}"] * (count + 1))) == [(0, count), (count, count + 1)]
    large = "x" * outbox.BATCH_CHARS_MAX
    assert list(outbox._batches(["{}", large, "{}"])) == [(0, 1), (1, 2), (2, 3)]


def test_ids_drawn_together_are_as_good_as_those_drawn_alone() -> None:
    events, attempts = ids.new_event_ids(300), ids.new_attempt_ids(300)
    assert len(set(events)) == len(set(attempts)) == 300
    assert all(ids.is_id(each, "evt") for each in events)
    assert all(ids.is_id(each, "att") for each in attempts)
    assert ids.new_unit_ids(0) == []
    assert len({each[4:12] for each in attempts}) > 290  # no time in an attempt's id
