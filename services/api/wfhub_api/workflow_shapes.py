"""Shapes of workflows in the REST API, where they differ from the messages. Additive within v1."""

from datetime import datetime
from typing import Annotated

from fastapi import Path
from pydantic import Field
from wfhub_common.messages import NeedsPolicy, OnFailure, TaskState, WorkflowState

from wfhub_api.shapes import Shape

WorkflowId = Annotated[str, Path(pattern=r"^wfl_[a-z2-7]{24}$")]


class WorkflowSummary(Shape):
    workflow_id: str
    project_id: str
    project: str
    name: str
    state: WorkflowState
    on_failure: OnFailure
    submitted_by: str
    cancel_requested: bool
    cancel_reason: str
    task_count: int
    open_count: int = Field(description="tasks that have not ended")
    unsuccessful_count: int = Field(description="tasks that ended without success")
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None


class WorkflowPage(Shape):
    workflows: list[WorkflowSummary]
    next_cursor: str | None = Field(None, description="pass as `cursor` for the page after this")


class TaskInWorkflow(Shape):
    name: str
    task_id: str
    state: TaskState
    reason: str
    message: str
    needs: list[str]
    needs_policy: NeedsPolicy
    on_failure: OnFailure
    branch: str | None
    commit: str | None
    verdict: str | None
    proof_id: str | None
    finished_at: datetime | None


class WorkflowDetail(WorkflowSummary):
    tasks: list[TaskInWorkflow] = Field(description="in the order of the document")
