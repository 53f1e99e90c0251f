"""About dead letters: do again what was refused, or set it aside for good."""

from typing import Literal

from pydantic import Field

from wfhub_common.messages.base import Command, Fact


class ReplayDeadLetter(Command):
    """Answered by the service that keeps the letter. What was replayed once is not done again."""

    dead_letter_id: str = Field(max_length=64)
    by: str = Field("", max_length=200)


class DiscardDeadLetter(Command):
    dead_letter_id: str = Field(max_length=64)
    by: str = Field("", max_length=200)


class DeadLetterDecided(Fact):
    """`repeated`: it had been decided before, by whom the letter says; nothing was done now."""

    dead_letter_id: str
    state: Literal["replayed", "discarded"]
    outcome: str = ""  # what came of the replay, a sentence
    repeated: bool = False
