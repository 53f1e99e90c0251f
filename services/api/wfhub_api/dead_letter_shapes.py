"""Shapes of the REST API for dead letters."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from fastapi import Path
from pydantic import Field

from wfhub_api.shapes import Shape

DEAD_LETTER_ID = r"^dlt_[a-z2-7]{24}$"
DeadLetterId = Annotated[str, Path(pattern=DEAD_LETTER_ID)]


class DeadLetterState(StrEnum):
    OPEN = "open"
    REPLAYED = "replayed"
    DISCARDED = "discarded"


class Service(StrEnum):
    """Who keeps the letter, and does it again."""

    SCHEDULER = "scheduler"
    PROOF_STORE = "proof-store"


class DeadLetter(Shape):
    dead_letter_id: str
    service: Service
    source: str = Field(description="rpc, ingest, seal, sealing, schedule or workflow")
    sender: str = Field(description="who said it, where somebody did")
    subject: str = Field(description="the message's subject, or the id of what failed")
    code: str
    error: str
    failures: int
    state: DeadLetterState
    whole: bool = Field(description="what is stored is all of it: it can be replayed")
    first_at: datetime
    last_at: datetime
    decided_at: datetime | None
    decided_by: str | None
    outcome: str = Field(description="what came of the replay")


class DeadLetterDetail(DeadLetter):
    body: str = Field(description="the message, bounded, without what looks like a secret")
    body_is_base64: bool


class DeadLetterPage(Shape):
    dead_letters: list[DeadLetter]
    next_cursor: str | None = None
