"""Workflows: graphs of tasks, submitted as one document.

The command carries the document as it was written, so that its faults can be told by their path;
`WorkflowDocument` is its shape. What the rules are is in the scheduler's `workflows` package.
"""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from wfhub_common import limits
from wfhub_common.messages.base import Command, Fact

NodeName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,62}$")]
WorkflowName = Annotated[
    str,
    StringConstraints(min_length=1, max_length=limits.TITLE_CHARS_MAX, pattern=r"^[^\x00-\x1f]+$"),
]


class WorkflowState(StrEnum):
    RUNNING = "running"
    SUCCEEDED = "succeeded"  # every task succeeded
    FAILED = "failed"  # every task is final, and some did not succeed
    CANCELLED = "cancelled"  # as failed, after a cancel was asked for


FINAL_WORKFLOW_STATES = frozenset(
    {WorkflowState.SUCCEEDED, WorkflowState.FAILED, WorkflowState.CANCELLED}
)


class OnFailure(StrEnum):
    """What a task that does not succeed does to the tasks that have not started."""

    FAIL = "fail"  # all are cancelled (`workflow-failed`), but those that need `all_done`
    CONTINUE = "continue"  # its descendants are cancelled (`parent-failed`), down to `all_done`


class NeedsPolicy(StrEnum):
    """When a task may start."""

    ALL_SUCCEEDED = "all_succeeded"
    ALL_DONE = "all_done"  # its needs are final, however they ended: a report, a clean-up


class WorkflowTask(BaseModel):
    """A task of the graph. Every other field is one of a task's spec, over the `defaults`;
    `agent`, `limits` and `retry` are laid over field by field."""

    model_config = ConfigDict(frozen=True, extra="allow")

    needs: tuple[NodeName, ...] = Field((), max_length=limits.WORKFLOW_TASK_NEEDS_MAX)
    needs_policy: NeedsPolicy = NeedsPolicy.ALL_SUCCEEDED
    on_failure: OnFailure | None = None  # None: as the workflow says


class WorkflowDocument(Command):
    """`defaults`: fields of a task's spec that all tasks begin with."""

    name: WorkflowName
    on_failure: OnFailure = OnFailure.FAIL
    defaults: dict[str, Any] = Field(default_factory=dict)
    tasks: dict[NodeName, WorkflowTask] = Field(min_length=1, max_length=limits.WORKFLOW_TASKS_MAX)


class SubmitWorkflow(Command):
    """`project` is a name or id. Same key and same document: the same workflow again."""

    project: str
    document: dict[str, Any]
    idempotency_key: str | None = Field(None, min_length=1, max_length=200)
    submitted_by: str = ""


class WorkflowSubmitted(Fact):
    workflow_id: str
    project_id: str
    state: WorkflowState
    created: bool
    tasks: dict[str, str]  # name → task id


class CancelWorkflow(Command):
    workflow_id: str
    reason: str = Field("cancelled", max_length=limits.MESSAGE_CHARS_MAX)


class WorkflowCancelled(Fact):
    """`accepted` False: it had ended. Else what has not started is cancelled by now, and what
    runs is being cancelled, each as a task is; `state` is the workflow's state now."""

    accepted: bool
    state: WorkflowState
    finished_at: datetime | None = None
