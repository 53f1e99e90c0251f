"""To a running attempt: a message for its agent, or that it is to hand in what it has."""

from pydantic import Field

from wfhub_common import limits
from wfhub_common.messages.base import Command, Fact


class SteerTask(Command):
    """From the API. `text` is for the agent; `hand_in`: stop, what is there is verified."""

    task_id: str
    text: str = Field("", max_length=limits.STEERING_CHARS_MAX)
    hand_in: bool = False


class SteerAttempt(Command):
    """The same from the scheduler to the runner that holds the attempt. No other takes it."""

    attempt_id: str
    text: str = Field("", max_length=limits.STEERING_CHARS_MAX)
    hand_in: bool = False


class Steered(Fact):
    """The attempt has it: its runner said so. An agent reads messages between its steps."""

    attempt_id: str
