"""What the proof-store is asked: all that the scheduler and the runner saw of a won attempt.

A task without a winner has no question, and is left out.
"""

from collections.abc import Collection
from typing import Any

from sqlalchemy import text
from wfhub_common import digests
from wfhub_common.messages import RunnerObservations, SchedulerObservations, SealProof
from wfhub_common.sql import Row

from wfhub_scheduler import specs, stored_json
from wfhub_scheduler.core import Tx

# What `question` is made of; `t` is the task.
COLUMNS = """
       t.task_id, t.project_id, p.name AS project, CAST(t.spec AS text) AS spec,
       t.submitted_by, t.created_at, t.traceparent, p.ci_files,
       a.attempt_id, a.number, a.runner_id, CAST(a.observed AS text) AS observed,
       CAST(a.receipts AS text) AS receipts,
       a.created_at AS claimed_at, a.finished_at
"""
OF_TASK = """
  JOIN sched.attempt a ON a.attempt_id = t.winner
  JOIN sched.project p ON p.project_id = t.project_id
"""
_QUESTIONS = text(f"""
SELECT {COLUMNS} FROM sched.task t {OF_TASK} WHERE t.task_id = ANY(CAST(:ids AS text[]))
""")  # noqa: S608 - our own text


async def seen(tx: Tx, task_ids: Collection[str]) -> dict[str, Row]:
    """By task id."""
    rows = await tx.connection.execute(_QUESTIONS, {"ids": list(task_ids)})
    return {row.task_id: row for row in rows}


def question(row: Any) -> SealProof:
    spec = specs.of(row.task_id, row.spec)
    return SealProof(
        scheduler=SchedulerObservations(
            task_id=row.task_id,
            project_id=row.project_id,
            project=row.project,
            attempt_id=row.attempt_id,
            attempt_number=row.number,
            runner_id=row.runner_id,
            prompt_digest=digests.of_bytes(spec.prompt.encode()),
            # The digest stands for the prompt, which alone could be larger than a message.
            spec=spec.model_dump(mode="json", exclude={"prompt"}),
            submitted_by=row.submitted_by,
            submitted_at=row.created_at.isoformat(),
            claimed_at=row.claimed_at.isoformat(),
            completed_at=row.finished_at.isoformat(),
            traceparent=row.traceparent or "",
        ),
        runner=RunnerObservations.model_validate_json(row.observed),
        receipts=stored_json.receipts(row.receipts),
    )
