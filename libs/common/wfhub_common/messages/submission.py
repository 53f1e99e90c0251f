"""From the API to the scheduler: projects, tasks, cancels."""

from datetime import datetime
from typing import Any, Literal

from pydantic import Field

from wfhub_common import limits
from wfhub_common.messages.base import Command, Fact
from wfhub_common.messages.budgets import ProjectBudget
from wfhub_common.messages.run_limits import LimitChanges, LimitPolicy
from wfhub_common.messages.states import TaskState
from wfhub_common.messages.tasks import CassetteUse, Slug, TaskSpec


class CreateProject(Command):
    name: Slug
    running_limit: int = Field(100, ge=1, le=100_000)
    weight: int = Field(1, ge=1, le=1000)
    queue_limit: int = Field(10_000, ge=1, le=limits.QUEUED_TASKS_MAX)
    limits: LimitPolicy = LimitPolicy()  # of each attempt
    budget: ProjectBudget = ProjectBudget()
    cassette: CassetteUse | None = None  # of tasks that name none


class UpdateProject(Command):
    """Changes what is given. A paused project's running tasks go on and won ones are published;
    nothing else of it is started."""

    project: str
    running_limit: int | None = Field(None, ge=1, le=100_000)  # tasks at work, over all pools
    weight: int | None = Field(None, ge=1, le=1000)  # its share of a pool, beside the others'
    queue_limit: int | None = Field(None, ge=1, le=limits.QUEUED_TASKS_MAX)  # ready and blocked
    paused: bool | None = None
    limits: LimitChanges | None = None  # of each attempt, for tasks submitted from now on
    budget: ProjectBudget | None = None  # instead of the one it has, as a whole
    cassette: CassetteUse | Literal["none"] | None = None  # "none" takes it away


class Project(Fact):
    project_id: str
    name: str
    running_limit: int
    weight: int
    queue_limit: int = 10_000
    paused: bool = False
    limits: LimitPolicy = LimitPolicy()
    budget: ProjectBudget = ProjectBudget()
    cassette: CassetteUse | None = None
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


class SubmitTasks(Command):
    """Many at once, each answered for itself: one that is refused takes none with it."""

    tasks: tuple[SubmitTask, ...] = Field(min_length=1, max_length=limits.BATCH_TASKS_MAX)


class SubmitResult(Fact):
    """What became of one task of a batch: `submitted`, or the `error` (as errors.to_wire)."""

    submitted: Submitted | None = None
    error: dict[str, Any] | None = None


class SubmittedTasks(Fact):
    """In the order they were given."""

    results: tuple[SubmitResult, ...]


class CancelTask(Command):
    task_id: str
    reason: str = Field("cancelled", max_length=limits.MESSAGE_CHARS_MAX)


class Cancelled(Fact):
    """`accepted` False: too late (publishing, or final); `state` is the task's state now."""

    accepted: bool
    state: TaskState
