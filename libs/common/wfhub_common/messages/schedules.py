"""From the API to the scheduler: schedules, which start a task or a workflow at their instants."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import Field, model_validator

from wfhub_common.messages.base import Command, Fact
from wfhub_common.messages.tasks import Instant, Slug, TaskSpec

INSTANTS = ("run_at", "deadline_at")  # fields of a task that no schedule's may have


class Overlap(StrEnum):
    """What a firing does while an earlier one of the schedule is still at work."""

    SKIP = "skip"
    QUEUE = "queue"
    REPLACE = "replace"  # cancels the one at work


class FiringOutcome(StrEnum):
    WAITING = "waiting"  # for an earlier firing to end, or for room in the project's queue
    FIRED = "fired"
    SKIPPED = "skipped"
    MISSED = "missed"  # in an outage, and beyond backfill_max


class ScheduleSpec(Command):
    """When, and what: a task, or a workflow's document (workflows.py), of which a firing runs until
    all its tasks have ended. `cron` has five fields, or is `@hourly` …, or `@every 15m`."""

    cron: str = Field(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f]+$")
    time_zone: str = Field("UTC", min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_+/-]+$")
    jitter_s: int = Field(0, ge=0, le=3600)  # due so much later at most; below the next instant
    overlap: Overlap = Overlap.SKIP
    backfill_max: int = Field(1, ge=0, le=100)  # missed instants still fired, the newest ones
    starts_at: Instant | None = None
    ends_at: Instant | None = None
    paused: bool | None = None  # None: as it is; a new schedule is not paused
    task: TaskSpec | None = None
    workflow: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _one_of_both(self) -> "ScheduleSpec":
        if (self.task is None) == (self.workflow is None):
            raise ValueError("give a task or a workflow, one of both")
        return self

    @model_validator(mode="after")
    def _no_instants_in_the_task(self) -> "ScheduleSpec":
        for name in INSTANTS:
            if getattr(self.task, name, None) is not None:
                raise ValueError(f"task.{name} is one instant; a schedule's tasks have many")
        return self


class PutSchedule(Command):
    """Makes the schedule of that name, or makes it so. The same again changes nothing."""

    project: str
    name: Slug
    spec: ScheduleSpec
    changed_by: str = ""


class OfSchedule(Command):
    """Which one: by its name in a project (a name or an id), or by its id."""

    project: str
    schedule: str


class PauseSchedule(OfSchedule):
    """While paused no instant is fired, and none of them later."""

    paused: bool
    changed_by: str = ""


class DeleteSchedule(OfSchedule):
    """Its firings are forgotten, its tasks stay, and go on."""

    changed_by: str = ""


class FireSchedule(OfSchedule):
    """By hand, now, also while paused. The same key again is the same firing."""

    idempotency_key: str | None = Field(None, min_length=1, max_length=200)
    fired_by: str = ""


class PreviewSchedule(OfSchedule):
    count: int = Field(10, ge=1, le=100)


class Schedule(Fact):
    schedule_id: str
    project_id: str
    name: str
    version: int  # counts contents, from 1
    paused: bool
    next_fire_at: datetime | None  # None: it is paused, or has ended
    created: bool = False
    changed: bool = False


class Firing(Fact):
    """`fire_at` is the instant; `task_id` or `workflow_id` is there once the outcome is fired."""

    schedule_id: str
    fire_at: datetime
    outcome: FiringOutcome
    reason: str = ""
    task_id: str | None = None
    workflow_id: str | None = None
    created: bool = False  # False: this key had fired it before


class UpcomingFiring(Fact):
    fire_at: datetime
    local: str  # the same instant in the schedule's time zone, RFC 3339
    due_at: datetime  # with its jitter


class Preview(Fact):
    schedule_id: str
    time_zone: str
    firings: tuple[UpcomingFiring, ...] = ()
