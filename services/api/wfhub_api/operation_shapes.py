"""Shapes of the REST API for operators: project changes, pools, runners; and of batches.

Times are RFC 3339 in UTC (`*_at`), durations seconds (`*_s`).
"""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import Path
from pydantic import BaseModel, ConfigDict, Field
from wfhub_common import limits
from wfhub_common.messages import (
    CassetteUse,
    CiFilesPolicy,
    DebuggerPolicy,
    LimitChanges,
    LimitsAsked,
    ProjectBudget,
    ProjectMcp,
    Submitted,
    TaskSpec,
    UpdatePool,
    UpdateProject,
)

from wfhub_api.shapes import NewTask, Project, Shape

RunnerId = Annotated[str, Path(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")]
PoolName = Annotated[str, Path(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
IdempotencyKey = Annotated[
    str, Field(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$", description="as the header")
]


class Changes(BaseModel):
    """What is left out stays as it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class LimitPolicyChanges(Changes):
    """Of each attempt, for tasks submitted from now on. A limit that is null is taken away, one
    that is not named stays as it is."""

    default: LimitsAsked = Field(LimitsAsked(), description="for what a task does not say")
    max: LimitsAsked = Field(LimitsAsked(), description="a task that asks for more is refused")

    def command(self) -> LimitChanges:
        return LimitChanges(
            default=self.default.model_dump(exclude_unset=True),
            max=self.max.model_dump(exclude_unset=True),
        )


class ProjectChanges(Changes):
    running_limit: int | None = Field(None, ge=1, le=100_000, description="over all pools")
    weight: int | None = Field(None, ge=1, le=1000, description="its share beside the others'")
    queue_limit: int | None = Field(
        None, ge=1, le=limits.QUEUED_TASKS_MAX, description="ready and blocked tasks"
    )
    paused: bool | None = None
    limits: LimitPolicyChanges | None = None
    budget: ProjectBudget | None = Field(
        None, description="of model use; takes the place of the one it has, as a whole"
    )
    cassette: CassetteUse | Literal["none"] | None = Field(
        None, description='of tasks that name none; "none" takes it away'
    )
    mcp: ProjectMcp | None = Field(
        None, description="servers for its agents, by name; takes the place of those it has"
    )
    ci_files: CiFilesPolicy | None = Field(
        None, description="of a result that changes CI files: `review` it first, or `allow` it"
    )
    debuggers: DebuggerPolicy | None = Field(
        None, description="of its agents, set-up and verification: `refuse` tracing, or `allow` it"
    )

    def command(self, project: str) -> UpdateProject:
        limits = None if self.limits is None else self.limits.command()
        rest = {name: value for name, value in self if name != "limits"}
        return UpdateProject(project=project, **rest, limits=limits)


class ProjectDetail(Project):
    running: int = Field(description="attempts at work, publications too")
    queued: int = Field(description="ready and blocked tasks")


class ProjectPage(Shape):
    projects: list[ProjectDetail]
    next_cursor: str | None = None


class PoolChanges(Changes):
    """`running_limit` null takes the limit away."""

    running_limit: int | None = Field(None, ge=1, le=100_000, description="of all projects")
    paused: bool | None = None

    def command(self, pool: str) -> UpdatePool:
        unlimited = "running_limit" in self.model_fields_set and self.running_limit is None
        return UpdatePool(pool=pool, **self.model_dump(), unlimited=unlimited)


class Pool(Shape):
    pool: str
    running_limit: int | None
    paused: bool
    running: int
    created_at: datetime


class PoolList(Shape):
    pools: list[Pool]


class Runner(Shape):
    runner_id: str
    name: str
    state: Literal["active", "draining", "lost"]
    draining: bool
    slots: int
    running: int = Field(description="attempts that it holds")
    labels: list[str]
    pool: str | None = Field(description="whose tasks it takes; null: its version does not say")
    backend: str
    version: str
    registered_at: datetime
    seen_at: datetime


class RunnerPage(Shape):
    runners: list[Runner]
    next_cursor: str | None = None


class Drain(Changes):
    drain: bool = True


class BatchTask(NewTask):
    idempotency_key: IdempotencyKey | None = None

    def task_spec(self) -> TaskSpec:
        return TaskSpec.model_validate(self.model_dump(exclude={"project", "idempotency_key"}))


class Batch(Changes):
    tasks: tuple[BatchTask, ...] = Field(min_length=1, max_length=limits.BATCH_TASKS_MAX)


class BatchResult(Shape):
    """`status` is what the task would have been answered with by itself."""

    status: int
    submitted: Submitted | None = None
    problem: dict[str, Any] | None = None


class BatchAnswer(Shape):
    """In the order of the request; each task was accepted or refused for itself."""

    results: list[BatchResult]
