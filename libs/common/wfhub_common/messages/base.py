"""What all messages are: facts, which grow, and commands, which are exact."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, StringConstraints

Name = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$")]  # looked up: Postgres has no NUL


class Fact(BaseModel):
    """A reply, event or record: additive within v1."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Command(BaseModel):
    """Something asked for: an unknown field is an error, since it was meant to do something."""

    model_config = ConfigDict(frozen=True, extra="forbid")
