"""From the API to the scheduler: projects, tasks, cancels, reviews."""

import json
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from wfhub_common import limits
from wfhub_common.messages.base import Command, Fact
from wfhub_common.messages.budgets import ProjectBudget
from wfhub_common.messages.run_limits import LimitChanges, LimitPolicy
from wfhub_common.messages.states import ReviewDecision, TaskState
from wfhub_common.messages.tasks import CassetteUse, McpServer, Slug, TaskSpec


def _few_bytes(servers: dict[str, McpServer]) -> dict[str, McpServer]:
    plain = {name: server.model_dump(mode="json") for name, server in servers.items()}
    if len(json.dumps(plain)) > limits.PROJECT_MCP_BYTES_MAX:
        raise ValueError(f"mcp: over {limits.PROJECT_MCP_BYTES_MAX} bytes, the most of a project")
    return servers


ProjectMcp = Annotated[
    dict[Slug, McpServer], Field(max_length=limits.MCP_SERVERS_MAX), AfterValidator(_few_bytes)
]
# What becomes of a result that changes CI files: a person sees it first, or it is like any other.
CiFilesPolicy = Literal["review", "allow"]
# Whether programs in a sandbox may trace each other (ptrace, process_vm_*).
DebuggerPolicy = Literal["refuse", "allow"]


class CreateProject(Command):
    name: Slug
    running_limit: int = Field(100, ge=1, le=100_000)
    weight: int = Field(1, ge=1, le=1000)
    queue_limit: int = Field(10_000, ge=1, le=limits.QUEUED_TASKS_MAX)
    limits: LimitPolicy = LimitPolicy()  # of each attempt
    budget: ProjectBudget = ProjectBudget()
    cassette: CassetteUse | None = None  # of tasks that name none
    # Of each agent that has MCP; a task's of the same name go before.
    mcp: ProjectMcp = Field(default_factory=dict)
    # Sent only where it was asked for: a scheduler of the version before knows neither.
    ci_files: CiFilesPolicy = Field("review", exclude_if=lambda said: said == "review")
    debuggers: DebuggerPolicy = Field("refuse", exclude_if=lambda said: said == "refuse")


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
    mcp: ProjectMcp | None = None  # instead of those it has, all together
    # As above: of results that are sealed, and attempts that are claimed, from now on.
    ci_files: CiFilesPolicy | None = Field(None, exclude_if=lambda said: said is None)
    debuggers: DebuggerPolicy | None = Field(None, exclude_if=lambda said: said is None)


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
    mcp: dict[str, McpServer] = Field(default_factory=dict)
    ci_files: CiFilesPolicy = "review"
    debuggers: DebuggerPolicy = "refuse"
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


class ReviewTask(Command):
    """A person's word on the sealed result of a task that waits for it."""

    task_id: str
    decision: ReviewDecision
    reviewer: str = Field("", max_length=limits.MESSAGE_CHARS_MAX)
    comment: str = Field("", max_length=limits.MESSAGE_CHARS_MAX)


class Reviewed(Fact):
    """`accepted` False: the task is not in review, or was decided otherwise; `state` is its state
    now. The same decision again is accepted again."""

    accepted: bool
    state: TaskState


class Cancelled(Fact):
    """`accepted` False: too late (publishing, or final); `state` is the task's state now."""

    accepted: bool
    state: TaskState
