"""Positions and cursors survive the way to a client and back; anything else is refused."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wfhub_api.positions import (
    START,
    Cursor,
    Position,
    decode_cursor,
    encode_cursor,
    parse_position,
)
from wfhub_common import ids
from wfhub_common.errors import Rejected


def test_a_position_reads_as_it_is_written() -> None:
    assert parse_position(str(Position(2, 41))) == Position(2, 41)
    assert parse_position(None) == START


def test_a_new_generation_comes_after_every_position_of_the_old() -> None:
    assert Position(1, 999) < Position(2, 1)


@pytest.mark.parametrize(
    "value", ["", "1", "-1-2", "1-2-3", "a-b", "1-" + "9" * 19, "١-٢", "1-2\n"]
)
def test_a_malformed_position_is_refused(value: str) -> None:
    with pytest.raises(Rejected, match="position"):
        parse_position(value)


def test_a_cursor_reads_as_it_is_written() -> None:
    cursor = Cursor(datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC), ids.new_task_id())
    assert decode_cursor(encode_cursor(cursor)) == cursor


@given(st.text(max_size=60))
def test_any_other_cursor_is_refused(value: str) -> None:
    with pytest.raises(Rejected, match="cursor"):
        decode_cursor(value)
