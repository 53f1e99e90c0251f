"""Shapes of schedules in the REST API, where they differ from the messages. Additive within v1."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import Path
from pydantic import Field, field_validator
from wfhub_common.messages import FiringOutcome, ScheduleSpec, TaskState, WorkflowState

from wfhub_api import workflow_documents
from wfhub_api.shapes import Shape

ScheduleName = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$", description="its name")]
ScheduleRef = Annotated[
    str, Path(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="its name, or its id: sch_…")
]


class ScheduleBody(ScheduleSpec):
    """`workflow` is a workflow's document, or its text: JSON or YAML, as /v1/workflows takes it."""

    @field_validator("workflow", mode="before")
    @classmethod
    def _of_text(cls, given: Any) -> Any:
        """Raises: Rejected (422 `document-malformed`)."""
        if isinstance(given, str):
            return workflow_documents.parsed(given.encode(), workflow_documents.YAML_TYPE)
        workflow_documents.check_depth(given)
        return given


class ScheduleSummary(Shape):
    schedule_id: str
    project_id: str
    project: str
    name: str
    version: int = Field(description="counts contents, from 1")
    spec: dict[str, Any] = Field(description="as it was put")
    paused: bool
    next_fire_at: datetime | None = Field(description="null: it is paused, or has ended")
    next_due_at: datetime | None = Field(description="the same with its jitter")
    changed_by: str
    created_at: datetime
    updated_at: datetime


class SchedulePage(Shape):
    schedules: list[ScheduleSummary]
    next_cursor: str | None = Field(None, description="pass as `cursor` for the page after this")


class PastFiring(Shape):
    fire_at: datetime = Field(description="the instant, without jitter")
    until_at: datetime = Field(description="later than fire_at where a range was let go")
    outcome: FiringOutcome
    reason: str
    message: str
    task_id: str | None
    task_state: TaskState | None
    workflow_id: str | None = None
    workflow_state: WorkflowState | None = None
    fired_by: str = Field(description="who fired it by hand; empty: the schedule did")
    created_at: datetime


class ScheduleDetail(ScheduleSummary):
    firings: list[PastFiring] = Field(description="the latest ones, newest first")
