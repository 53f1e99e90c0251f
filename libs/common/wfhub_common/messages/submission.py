"""From the API to the scheduler: projects, tasks, cancels."""

from datetime import datetime

from pydantic import Field

from wfhub_common import limits
from wfhub_common.messages.base import Command, Fact
from wfhub_common.messages.states import TaskState
from wfhub_common.messages.tasks import Slug, TaskSpec


class CreateProject(Command):
    name: Slug
    running_limit: int = Field(100, ge=1, le=100_000)
    weight: int = Field(1, ge=1, le=1000)


class Project(Fact):
    project_id: str
    name: str
    running_limit: int
    weight: int
    created_at: datetime
    created: bool = False  # False: it was there already, with the same settings


class SubmitTask(Command):
    """`project` is a name or id. Same key and same spec: the same task again; another: Rejected."""

    project: str
    spec: TaskSpec
    idempotency_key: str | None = Field(None, min_length=1, max_length=200)
    submitted_by: str = ""


class Submitted(Fact):
    task_id: str
    project_id: str
    state: TaskState
    created: bool


class CancelTask(Command):
    task_id: str
    reason: str = Field("cancelled", max_length=limits.MESSAGE_CHARS_MAX)


class Cancelled(Fact):
    """`accepted` False: too late (publishing, or final); `state` is the task's state now."""

    accepted: bool
    state: TaskState
