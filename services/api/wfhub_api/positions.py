"""Positions: where a reader stands in the event log, and where in a list of tasks.

An event position is `<generation>-<pos>`; generations rise when a restored database starts
the log anew, so positions compare as pairs. A list cursor is opaque to clients.
Raises: Rejected (`position-malformed`, `cursor-malformed`).
"""

import base64
import binascii
import re
from datetime import datetime
from typing import NamedTuple

from wfhub_common import ids
from wfhub_common.errors import Rejected

_POSITION = re.compile(r"(\d{1,9})-(\d{1,18})\Z")


class Position(NamedTuple):
    generation: int
    pos: int

    def __str__(self) -> str:
        return f"{self.generation}-{self.pos}"


START = Position(0, 0)


def parse_position(value: str | None) -> Position:
    """None is the start of the log."""
    if value is None:
        return START
    match = _POSITION.match(value)
    if match is None or not value.isascii():
        raise Rejected(
            "position-malformed",
            f"{value[:40]!r} is not an event position; one looks like 1-42: generation-pos",
        )
    return Position(int(match[1]), int(match[2]))


class Cursor(NamedTuple):
    """The last task or workflow of a page; the next page holds older ones."""

    created_at: datetime
    entity_id: str


def encode_cursor(cursor: Cursor) -> str:
    plain = f"{cursor.created_at.isoformat()}|{cursor.entity_id}"
    return base64.urlsafe_b64encode(plain.encode()).decode().rstrip("=")


def decode_cursor(value: str, prefix: str = "tsk") -> Cursor:
    try:
        padded = value.encode("ascii") + b"=" * (-len(value) % 4)
        at, _, entity_id = (
            base64.b64decode(padded, altchars=b"-_", validate=True).decode().partition("|")
        )
        created_at = datetime.fromisoformat(at)
    except (ValueError, binascii.Error, OverflowError) as e:
        raise _bad_cursor(value) from e
    if created_at.tzinfo is None or not ids.is_id(entity_id, prefix):
        raise _bad_cursor(value)
    return Cursor(created_at, entity_id)


def _bad_cursor(value: str) -> Rejected:
    return Rejected(
        "cursor-malformed",
        f"{value[:40]!r} is not a cursor; pass `next_cursor` of the page before, unchanged",
    )
