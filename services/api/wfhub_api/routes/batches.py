"""Batches: up to 500 tasks by one request, each accepted or refused for itself."""

from fastapi import APIRouter, Response
from wfhub_common import problems
from wfhub_common.errors import WfhubError, from_wire
from wfhub_common.messages import SubmitResult, SubmitTask, SubmitTasks, SubmittedTasks

from wfhub_api.hub import Caller, HubDep
from wfhub_api.openapi import errors
from wfhub_api.operation_shapes import Batch, BatchAnswer, BatchResult

BATCH_TIMEOUT_S = 30.0

router = APIRouter(tags=["tasks"])


@router.post("/v1/tasks:batch", summary="Submit many tasks", responses=errors(413))
async def submit_batch(hub: HubDep, caller: Caller, body: Batch, response: Response) -> BatchAnswer:
    """Answers 200 whatever became of each; with a `Retry-After` if any may be asked again."""
    command = SubmitTasks(
        tasks=tuple(
            SubmitTask(
                project=task.project,
                spec=task.task_spec(),
                idempotency_key=task.idempotency_key,
                submitted_by=caller,
            )
            for task in body.tasks
        )
    )
    reply = await hub.ask("submit_tasks", command, SubmittedTasks, timeout_s=BATCH_TIMEOUT_S)
    refusals = [None if r.error is None else from_wire(r.error) for r in reply.results]
    waits = [problems.retry_after_s(refusal) for refusal in refusals if refusal is not None]
    if after_s := [wait for wait in waits if wait is not None]:
        response.headers["Retry-After"] = str(max(after_s))
    return BatchAnswer(
        results=[
            _result(result, refusal)
            for result, refusal in zip(reply.results, refusals, strict=True)
        ]
    )


def _result(result: SubmitResult, refusal: WfhubError | None) -> BatchResult:
    if refusal is not None:
        problem = problems.document_of(refusal)
        return BatchResult(status=problem["status"], problem=problem)
    assert result.submitted is not None
    return BatchResult(status=201 if result.submitted.created else 200, submitted=result.submitted)
