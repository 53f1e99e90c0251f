"""Shapes of webhooks in the REST API. Additive within v1; a secret is in an answer once."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from wfhub_api.shapes import POSITION, ProjectRef, Shape
from wfhub_api.webhooks.patterns import PATTERN, PATTERN_CHARS_MAX, PATTERNS_MAX
from wfhub_api.webhooks.targets import URL_CHARS_MAX

WebhookId = Annotated[str, Path(pattern=r"^whk_[a-z2-7]{24}$")]
Pattern = Annotated[str, StringConstraints(pattern=PATTERN, max_length=PATTERN_CHARS_MAX)]
OVERLAP_S, OVERLAP_S_MAX = 24 * 3600, 7 * 24 * 3600


class NewWebhook(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    url: str = Field(
        min_length=1,
        max_length=URL_CHARS_MAX,
        pattern=r"^[\x21-\x7e]+$",
        description="https://…, where events are POSTed to",
    )
    project: ProjectRef | None = Field(None, description="a name or an id; null: of all")
    events: tuple[Pattern, ...] = Field(
        ("*",), min_length=1, max_length=PATTERNS_MAX, description="types; `task.*`, `*` for all"
    )
    after: str | None = Field(
        None, pattern=POSITION, description="begin behind this event, not with the next one"
    )


class Rotation(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    overlap_s: int = Field(
        OVERLAP_S, ge=0, le=OVERLAP_S_MAX, description="for so long the old secret signs as well"
    )


class Webhook(Shape):
    webhook_id: str
    project_id: str | None
    project: str | None = Field(description="null: of all")
    url: str
    events: list[str]
    state: Literal["active", "paused", "disabled"]
    reason: str | None = Field(description="why it is disabled")
    position: str = Field(description="all up to here was delivered, or not asked for")
    failures: int = Field(description="in a row")
    failing_since: datetime | None
    next_try_at: datetime | None = Field(description="null: nothing failed, or it is not active")
    last_outcome: str | None = Field(description="delivered, refused, timeout, unreachable, …")
    last_status: int | None = Field(description="null: there was no answer")
    last_at: datetime | None
    note: str | None = Field(description="events that were gone before they could be delivered")
    note_at: datetime | None
    secret_before_until: datetime | None = Field(description="until then two secrets sign")
    tested_at: datetime | None
    created_by: str
    created_at: datetime
    updated_at: datetime


class WebhookWithSecret(Webhook):
    secret: str | None = Field(description="shown this once; null: this key had made it before")


class WebhookPage(Shape):
    webhooks: list[Webhook]
    next_cursor: str | None = Field(None, description="pass as `cursor` for the page after this")


class Tested(Shape):
    event_id: str
    outcome: str
    status: int | None
    why: str | None
