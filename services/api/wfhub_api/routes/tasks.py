"""Tasks: submit, list, look at, cancel, review, submit again."""

import asyncio
import hashlib
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from wfhub_common.errors import Rejected, WfhubError
from wfhub_common.messages import (
    FINAL_TASK_STATES,
    Cancelled,
    CancelTask,
    Reviewed,
    ReviewTask,
    Steered,
    SteerTask,
    SubmitTask,
    Submitted,
    TaskSpec,
    TaskState,
    Usage,
    UsageOf,
)

from wfhub_api import views, waiting
from wfhub_api.hub import Caller, Hub, HubDep
from wfhub_api.openapi import errors
from wfhub_api.positions import Cursor, decode_cursor, encode_cursor
from wfhub_api.shapes import (
    AgentMessage,
    KeyHeader,
    NewTask,
    ProjectRef,
    Review,
    TaskCounts,
    TaskDetail,
    TaskId,
    TaskPage,
    TaskSummary,
)

PAGE_MAX = 200
USAGE_TIMEOUT_S = 1.0  # tokens are a nicety: a task is shown without them rather than late

router = APIRouter(prefix="/v1/tasks", tags=["tasks"])
_KNOWN: dict[str, Any] = {
    "model": Submitted,
    "description": "this Idempotency-Key had submitted it before",
}
Workflow = Annotated[
    str | None, Query(pattern=r"^wfl_[a-z2-7]{24}$", description="only those of it")
]


@router.post(
    "",
    status_code=201,
    response_model=Submitted,
    summary="Submit a task",
    responses={
        200: _KNOWN,
        **errors(404, 409, 413, 429),
    },
)
async def submit_task(
    hub: HubDep,
    caller: Caller,
    body: NewTask,
    response: Response,
    idempotency_key: KeyHeader = None,
) -> Submitted:
    return await _submitted(hub, caller, response, body.project, body.task_spec(), idempotency_key)


@router.get("", summary="List tasks, newest first", responses=errors())
async def list_tasks(
    hub: HubDep,
    project: Annotated[ProjectRef | None, Query(description="a name or an id")] = None,
    state: Annotated[list[TaskState] | None, Query()] = None,
    workflow: Workflow = None,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
) -> TaskPage:
    found = await views.tasks(
        hub.engine,
        project=project,
        states=state or (),
        workflow=workflow,
        before=decode_cursor(cursor) if cursor else None,
        limit=limit + 1,
    )
    page, more = found[:limit], len(found) > limit
    return TaskPage(tasks=page, next_cursor=_cursor(page[-1]) if more else None)


@router.get(":counts", summary="How many tasks there are, by state", responses=errors())
async def count_tasks(
    hub: HubDep,
    project: Annotated[ProjectRef | None, Query(description="a name or an id")] = None,
    workflow: Workflow = None,
) -> TaskCounts:
    found = await views.task_counts(hub.engine, project=project, workflow=workflow)
    return TaskCounts(counts=found)


@router.get("/{task_id}", summary="A task with its attempts", responses=errors(404))
async def get_task(hub: HubDep, task_id: TaskId) -> TaskDetail:
    task, usage = await asyncio.gather(views.task(hub.engine, task_id), _usage(hub, task_id))
    attempts = await views.attempts(hub.engine, task_id)
    ended = task.finished_at or datetime.now(UTC)
    ready = task.state == TaskState.READY
    return TaskDetail(
        **dict(task),
        attempts=attempts,
        duration_s=round((ended - task.created_at).total_seconds(), 3),
        tokens=usage.prompt_tokens + usage.completion_tokens if usage else None,
        usage=usage,
        waits_because=await waiting.reasons(hub.engine, task) if ready else [],
    )


@router.post(
    "/{task_id}/retry",
    status_code=201,
    response_model=Submitted,
    summary="Submit a task that has ended again, as a new one",
    responses={200: _KNOWN, **errors(404, 409, 429)},
)
async def retry_task(
    hub: HubDep,
    caller: Caller,
    task_id: TaskId,
    response: Response,
    idempotency_key: KeyHeader = None,
) -> Submitted:
    """All that was asked of it is asked again, its limits as they were settled then."""
    task = await views.task(hub.engine, task_id)
    if task.state not in FINAL_TASK_STATES:
        raise Rejected("not-ended", f"the task is {task.state}: wait, or cancel it", status=409)
    if task.workflow_id is not None:
        raise Rejected(
            "of-a-workflow",
            f"it begins with what others left: submit the document of {task.workflow_id} again",
            status=409,
        )
    spec = TaskSpec.model_validate(task.spec)
    key = None if idempotency_key is None else _retry_key(task_id, idempotency_key)
    return await _submitted(hub, caller, response, task.project_id, spec, key)


@router.post(
    "/{task_id}/cancel",
    status_code=202,
    summary="Ask for a task's end",
    responses=errors(404, 409),
)
async def cancel_task(hub: HubDep, caller: Caller, task_id: TaskId) -> Cancelled:
    command = CancelTask(task_id=task_id, reason=f"cancelled by {caller}")
    reply = await hub.ask("cancel_task", command, Cancelled)
    if not reply.accepted and reply.state is not TaskState.CANCELLED:  # asked again: it is so
        raise Rejected(
            "too-late",
            f"the task is {reply.state}: too late to cancel it",
            status=409,
            state=reply.state,
        )
    return reply


@router.post(
    "/{task_id}/review",
    summary="Approve the result of a task in review, or decline it",
    responses=errors(404, 409),
)
async def review_task(hub: HubDep, caller: Caller, task_id: TaskId, review: Review) -> Reviewed:
    """Approved, it is published as it was sealed; declined, the task fails. Said again, it changes
    nothing."""
    command = ReviewTask(
        task_id=task_id, decision=review.decision, reviewer=caller, comment=review.comment
    )
    reply = await hub.ask("review_task", command, Reviewed)
    if not reply.accepted:
        raise Rejected(
            "not-in-review",
            f"the task is {reply.state}: there is nothing to decide"
            + (" any more" if reply.state in FINAL_TASK_STATES else ""),
            status=409,
            state=reply.state,
        )
    return reply


@router.post(
    "/{task_id}/messages",
    status_code=202,
    summary="Say something to the agent that works on a task",
    responses=errors(404, 409),
)
async def tell_task(hub: HubDep, task_id: TaskId, message: AgentMessage) -> Steered:
    """The agent gets it between two of its steps. Not every agent listens: 409."""
    return await hub.ask("steer_task", SteerTask(task_id=task_id, text=message.text), Steered)


@router.post(
    "/{task_id}/hand-in",
    status_code=202,
    summary="Have the agent stop, and verify what it has",
    responses=errors(404, 409),
)
async def hand_in_task(hub: HubDep, task_id: TaskId) -> Steered:
    """What it has is verified and published like any result. Every agent can be told this."""
    return await hub.ask("steer_task", SteerTask(task_id=task_id, hand_in=True), Steered)


def _retry_key(task_id: str, key: str) -> str:
    """Not the key that the task itself may have been submitted with: it would be that task."""
    return "retry-" + hashlib.sha256(f"{task_id} {key}".encode()).hexdigest()


async def _submitted(
    hub: Hub, caller: str, response: Response, project: str, spec: TaskSpec, key: str | None
) -> Submitted:
    command = SubmitTask(project=project, spec=spec, idempotency_key=key, submitted_by=caller)
    submitted = await hub.ask("submit_task", command, Submitted)
    response.status_code = 201 if submitted.created else 200
    response.headers["Location"] = f"/v1/tasks/{submitted.task_id}"
    return submitted


def _cursor(last: TaskSummary) -> str:
    return encode_cursor(Cursor(last.created_at, last.task_id))


async def _usage(hub: Hub, task_id: str) -> Usage | None:
    try:
        return await hub.ask("usage", UsageOf(task_id=task_id), Usage, timeout_s=USAGE_TIMEOUT_S)
    except WfhubError:
        return None
