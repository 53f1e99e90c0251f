"""Workflows: graphs of tasks, submitted as one document, looked at, cancelled."""

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from wfhub_common.errors import Rejected
from wfhub_common.messages import (
    CancelWorkflow,
    SubmitWorkflow,
    WorkflowCancelled,
    WorkflowState,
    WorkflowSubmitted,
)

from wfhub_api import workflow_views
from wfhub_api.hub import Caller, HubDep
from wfhub_api.openapi import errors
from wfhub_api.positions import Cursor, decode_cursor, encode_cursor
from wfhub_api.shapes import KeyHeader, ProjectRef
from wfhub_api.workflow_documents import JSON_TYPE, YAML_TYPE, parsed
from wfhub_api.workflow_shapes import (
    WorkflowDetail,
    WorkflowId,
    WorkflowPage,
    WorkflowSummary,
)

PAGE_MAX = 200
SUBMIT_TIMEOUT_S = 30.0

_BODY = {
    JSON_TYPE: {"schema": {"$ref": "#/components/schemas/WorkflowDocument"}},
    YAML_TYPE: {"schema": {"type": "object", "description": "the same as YAML"}},
}

router = APIRouter(prefix="/v1/workflows", tags=["workflows"])


@router.post(
    "",
    status_code=201,
    response_model=WorkflowSubmitted,
    summary="Submit a workflow",
    openapi_extra={"requestBody": {"required": True, "content": _BODY}},
    responses={
        200: {
            "model": WorkflowSubmitted,
            "description": "this Idempotency-Key had submitted it before",
        },
        **errors(404, 409, 413, 415, 429),
    },
)
async def submit_workflow(
    hub: HubDep,
    caller: Caller,
    request: Request,
    response: Response,
    project: Annotated[ProjectRef, Query(description="a name or an id")] = "default",
    idempotency_key: KeyHeader = None,
) -> WorkflowSubmitted:
    """A document that is at fault is refused with `faults`: each has its `path` and a `message`."""
    body = await request.body()
    content_type = request.headers.get("content-type", "")
    # A large document takes a moment of pure Python, in which others are answered.
    document = await asyncio.to_thread(parsed, body, content_type)
    command = SubmitWorkflow(
        project=project, document=document, idempotency_key=idempotency_key, submitted_by=caller
    )
    submitted = await hub.ask(
        "submit_workflow", command, WorkflowSubmitted, timeout_s=SUBMIT_TIMEOUT_S
    )
    response.status_code = 201 if submitted.created else 200
    response.headers["Location"] = f"/v1/workflows/{submitted.workflow_id}"
    return submitted


@router.get("", summary="List workflows, newest first", responses=errors())
async def list_workflows(
    hub: HubDep,
    project: Annotated[ProjectRef | None, Query(description="a name or an id")] = None,
    state: Annotated[list[WorkflowState] | None, Query()] = None,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
) -> WorkflowPage:
    found = await workflow_views.workflows(
        hub.engine,
        project=project,
        states=state or (),
        before=decode_cursor(cursor, "wfl") if cursor else None,
        limit=limit + 1,
    )
    page, more = found[:limit], len(found) > limit
    return WorkflowPage(workflows=page, next_cursor=_cursor(page[-1]) if more else None)


@router.get("/{workflow_id}", summary="A workflow with its tasks", responses=errors(404))
async def get_workflow(
    hub: HubDep,
    workflow_id: WorkflowId,
    tasks: Annotated[bool, Query(description="false: without them, the list is empty")] = True,
) -> WorkflowDetail:
    found = await workflow_views.workflow(hub.engine, workflow_id)
    listed = await workflow_views.tasks(hub.engine, workflow_id) if tasks else []
    return WorkflowDetail(**dict(found), tasks=listed)


@router.get(
    "/{workflow_id}/document", summary="The document as it was submitted", responses=errors(404)
)
async def get_document(hub: HubDep, workflow_id: WorkflowId) -> dict[str, Any]:
    document: dict[str, Any] = await workflow_views.document(hub.engine, workflow_id)
    return document


@router.post(
    "/{workflow_id}/cancel",
    status_code=202,
    summary="Cancel all its tasks",
    responses=errors(404, 409),
)
async def cancel_workflow(
    hub: HubDep, caller: Caller, workflow_id: WorkflowId
) -> WorkflowCancelled:
    command = CancelWorkflow(workflow_id=workflow_id, reason=f"cancelled by {caller}")
    reply = await hub.ask("cancel_workflow", command, WorkflowCancelled, timeout_s=SUBMIT_TIMEOUT_S)
    if not reply.accepted and reply.state is not WorkflowState.CANCELLED:  # asked again: it is so
        raise Rejected(
            "too-late",
            f"the workflow is {reply.state}: too late to cancel it",
            status=409,
            state=reply.state,
        )
    return reply


def _cursor(last: WorkflowSummary) -> str:
    return encode_cursor(Cursor(last.created_at, last.workflow_id))
