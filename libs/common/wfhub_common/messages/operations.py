"""From the API to the scheduler: what an operator does to pools and runners."""

from pydantic import Field

from wfhub_common.messages.base import Command, Fact
from wfhub_common.messages.tasks import Slug


class UpdatePool(Command):
    """Changes what is given, and makes the pool where it is new. A pause is like a project's."""

    pool: Slug
    running_limit: int | None = Field(None, ge=1, le=100_000)  # attempts at work, of all projects
    unlimited: bool = False  # takes the running_limit away
    paused: bool | None = None


class Pool(Fact):
    pool: str
    running_limit: int | None = None
    paused: bool = False


class DrainRunner(Command):
    """With `drain`, the runner is given nothing new and ends what it has; without, it is again."""

    runner_id: str
    drain: bool = True


class Drained(Fact):
    runner_id: str
    draining: bool
    running: int  # attempts it still has
