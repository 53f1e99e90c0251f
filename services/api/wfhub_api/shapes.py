"""Shapes of the REST API, where they differ from the messages. Additive within v1.

Times are RFC 3339 in UTC (`*_at`), durations seconds (`*_s`), sizes bytes.
"""

from datetime import datetime
from typing import Annotated, Any

from fastapi import Header, Path
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from wfhub_common import limits
from wfhub_common.messages import (
    AttemptState,
    Cancelled,
    CassetteUse,
    CiFilesPolicy,
    CloudEvent,
    DebuggerPolicy,
    McpServer,
    ProjectBudget,
    Receipt,
    ReviewDecision,
    TaskSpec,
    TaskState,
    UnitKind,
    Usage,
    Verdict,
)

__all__ = ["Cancelled", "CloudEvent"]  # used as they are

TaskId = Annotated[str, Path(pattern=r"^tsk_[a-z2-7]{24}$")]
AttemptId = Annotated[str, Path(pattern=r"^att_[a-z2-7]{24}$")]
ProofId = Annotated[str, Path(pattern=r"^prf_[a-z2-7]{24}$")]
POSITION = r"^[0-9]{1,9}-[0-9]{1,18}$"  # of an event: generation-pos
KeyHeader = Annotated[  # the parameter that has it is called idempotency_key
    str | None, Header(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")
]
ProjectRef = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class Shape(BaseModel):
    model_config = ConfigDict(frozen=True)


class AgentMessage(BaseModel):
    """What the agent of a running task is to know."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str = Field(min_length=1, max_length=limits.STEERING_CHARS_MAX, pattern=r"^[^\x00]+$")


class Review(BaseModel):
    """A person's word on the result of a task that is in review."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    decision: ReviewDecision
    comment: str = Field("", max_length=limits.MESSAGE_CHARS_MAX, pattern=r"^[^\x00]*$")


class NewTask(TaskSpec):
    """A task to run: the project's name or id, and what to do."""

    project: ProjectRef = "default"

    @model_validator(mode="after")
    def _no_nul(self) -> "NewTask":
        texts = [self.prompt, self.title, self.base or "", self.agent.model or ""]
        if any("\x00" in text for text in [*texts, *(self.agent.argv or ())]):
            raise ValueError("a text holds a NUL character, which no program can be given")
        return self

    def task_spec(self) -> TaskSpec:
        return TaskSpec.model_validate(self.model_dump(exclude={"project"}))


class Artifact(Shape):
    name: str
    digest: str
    size: int | None = Field(None, description="bytes; null where only the digest is kept")


class ArtifactList(Shape):
    artifacts: list[Artifact]
    complete: bool = Field(True, description="false: the gateway did not say what it has")


class ProjectLimits(Shape):
    """Of each attempt, by name; what is not there is not said."""

    default: dict[str, int] = Field(default={}, description="for what a task does not say")
    max: dict[str, int] = Field(default={}, description="a task that asks for more is refused")


class Project(Shape):
    project_id: str
    name: str
    running_limit: int
    weight: int
    queue_limit: int
    limits: ProjectLimits = ProjectLimits()
    paused: bool
    budget: ProjectBudget = ProjectBudget()
    cassette: CassetteUse | None = None
    mcp: dict[str, McpServer] = {}
    ci_files: CiFilesPolicy = Field(
        "review", description="of a result that changes CI files: who sees it before its branch"
    )
    debuggers: DebuggerPolicy = Field(
        "refuse", description="whether programs in a sandbox may trace each other"
    )
    created_at: datetime


class TaskSummary(Shape):
    task_id: str
    project_id: str
    project: str
    state: TaskState
    reason: str | None  # a stable code that says why it is in that state
    message: str | None
    title: str | None
    spec: dict[str, Any]
    branch: str | None
    commit: str | None
    verdict: str | None
    proof_id: str | None
    attempts_used: int
    current_attempt: str | None
    cancel_requested: bool
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None
    workflow_id: str | None = Field(None, description="null: it was submitted alone")
    trace_id: str | None = Field(None, description="of W3C Trace Context; null: none was asked for")
    review_until: datetime | None = Field(None, description="in review: decide by then")
    review: ReviewDecision | None = Field(None, description="what a person decided")
    reviewed_by: str | None = None


class TaskCounts(Shape):
    counts: dict[TaskState, int] = Field(
        description="each state's tasks (of those that ended, of the newest 10,000), or 0"
    )


class TaskPage(Shape):
    tasks: list[TaskSummary]
    next_cursor: str | None = Field(None, description="pass as `cursor` for the page after this")


class Attempt(Shape):
    attempt_id: str
    kind: UnitKind
    number: int
    state: AttemptState
    runner_id: str | None
    reason: str | None
    message: str | None
    base_commit: str | None
    commit: str | None
    verdict: Verdict | None
    base_verdict: Verdict | None
    artifacts: list[Receipt]
    changes: Any = None
    ci_files: list[str] | None = Field(
        None, description="changed files that CI systems read; null: the runner did not say"
    )
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


class TaskDetail(TaskSummary):
    attempts: list[Attempt]
    duration_s: float = Field(description="from submission to the end, or to now")
    tokens: int | None = Field(description="model tokens used; null: the gateway did not answer")
    usage: Usage | None
    waits_because: list[str] = Field([], description="ready: why it has not begun")


class EventPage(Shape):
    events: list[CloudEvent]
    next_after: str = Field(description="pass as `after` to read on")


class PublicKey(Shape):
    key_id: str
    pem: str


class Problem(BaseModel):
    """RFC 9457, with a stable `code` and fields that depend on it."""

    model_config = ConfigDict(extra="allow")

    type: str
    title: str
    status: int
    detail: str
    code: str
