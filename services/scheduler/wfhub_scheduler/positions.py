"""Positions of events: (generation, pos), and how stream and Postgres are brought together.

Within a generation `pos` is dense from 1. Postgres is the truth: what it has and the stream lacks
is replayed. A stream that is ahead, or holds another event at a position, saw a history that this
database does not know (it was restored from a backup): a new generation begins, so that nobody
takes one history's position for the other's. Pure.
"""

from dataclasses import dataclass
from typing import NamedTuple


class Position(NamedTuple):
    generation: int
    pos: int


START = Position(0, 0)


@dataclass(frozen=True)
class StreamEnd:
    """The stream's last message; `at` START and no id where it has none of ours."""

    seq: int
    at: Position = START
    event_id: str = ""


@dataclass(frozen=True)
class Replay:
    after: Position


@dataclass(frozen=True)
class NewGeneration:
    generation: int
    why: str


def compare(end: StreamEnd, placed: Position, event_id: str | None) -> Replay | NewGeneration:
    """`placed`: the last position given in Postgres; `event_id`: whose `end.at` is there."""
    if end.at > placed:
        generation = max(end.at.generation, placed.generation) + 1
        return NewGeneration(generation, "the stream is ahead of the database")
    same_history = end.at.generation == placed.generation and event_id is not None
    if same_history and event_id != end.event_id:
        return NewGeneration(placed.generation + 1, "stream and database differ at a position")
    return Replay(end.at)
