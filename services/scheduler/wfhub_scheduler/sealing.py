"""Sealing: proofs asked of the proof-store until they are there.

A task in `sealing` has `seal_due_at`; who takes it moves that ahead in a committed transaction, so
one scheduler asks at a time and a crash only means a later one. Asking again is harmless: the
proof-store answers with the same proof for the same attempt.
Its refusal is final: the task fails with the refusal's code, and a dead letter keeps the question.
Units: seconds.
"""

import asyncio
import random
from typing import Any

from sqlalchemy import text
from wfhub_common import broker as rpc
from wfhub_common import digests, subjects
from wfhub_common.errors import Corrupt, LeaseLost, Rejected, RetryLater
from wfhub_common.log import get_logger
from wfhub_common.messages import (
    RunnerObservations,
    SchedulerObservations,
    Sealed,
    SealProof,
    TaskSpec,
)

from wfhub_scheduler import stored_json, timing
from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.outbox import emit
from wfhub_scheduler.rows import lock_task
from wfhub_scheduler.states import Facts, TaskEvent, decide
from wfhub_scheduler.transitions import add_publish_unit, move_task

SEAL_POLL_S = 1.0
SEAL_TIMEOUT_S = 15.0
SEALS_AT_ONCE = 8

log = get_logger(__name__)

_DUE = text("""
-- Taking a seal moves its next try ahead; another scheduler skips it meanwhile.
UPDATE sched.task
   SET seal_due_at = now() + make_interval(secs => :timeout_s), seal_tries = seal_tries + 1
 WHERE task_id IN (SELECT task_id FROM sched.task WHERE state = 'sealing' AND seal_due_at <= now()
                    ORDER BY seal_due_at LIMIT :count FOR UPDATE SKIP LOCKED)
RETURNING task_id, winner, seal_tries
""")
_QUESTION = text("""
SELECT t.task_id, t.project_id, p.name AS project, t.spec, t.submitted_by, t.created_at,
       a.attempt_id, a.number, a.runner_id, a.observed, a.receipts,
       a.created_at AS claimed_at, a.finished_at
  FROM sched.task t JOIN sched.attempt a ON a.attempt_id = t.winner
  JOIN sched.project p ON p.project_id = t.project_id
 WHERE t.task_id = :task_id
""")
_PUT_OFF = text("""
UPDATE sched.task SET seal_due_at = now() + make_interval(secs => :delay_s)
 WHERE task_id = :task_id AND state = 'sealing'
""")
_NOTE_PROOF = text("""
UPDATE sched.task SET proof_id = :proof_id, tokens = :tokens WHERE task_id = :task_id
""")
_BURY = text("""
INSERT INTO sched.dead_letter (source, subject, error, body)
VALUES ('seal', :task_id, :error, CAST(:body AS jsonb))
""")


async def seal_due(core: Core) -> bool:
    """Ask for every proof that is due; True: there may be more."""
    if not core.connected:
        return False

    async def take(tx: Tx) -> list[tuple[str, str, int]]:
        limits = {"count": SEALS_AT_ONCE, "timeout_s": SEAL_TIMEOUT_S * 2}
        rows = await tx.connection.execute(_DUE, limits)
        return [(row.task_id, row.winner, row.seal_tries) for row in rows]

    due = await core.commit(take)
    await asyncio.gather(*(_seal(core, task_id, winner, tries) for task_id, winner, tries in due))
    return len(due) == SEALS_AT_ONCE


async def _seal(core: Core, task_id: str, winner: str, tries: int) -> None:
    question = await core.commit(lambda tx: _question(tx, task_id))
    try:
        sealed = await rpc.ask(
            core.broker,
            subjects.SCHEDULER,
            "seal",
            question,
            Sealed,
            timeout_s=SEAL_TIMEOUT_S,
        )
    except (Rejected, Corrupt, LeaseLost) as e:
        refusal = e
        log.error("proof refused", task_id=task_id, attempt_id=winner, why=str(e))
        await core.commit(lambda tx: _refused(tx, task_id, winner, question, refusal))
    except RetryLater as e:
        log.warning("proof not there yet", task_id=task_id, tries=tries, why=str(e))
        luck = random.random()  # noqa: S311 - jitter
        delay_s = timing.seal_delay_s(core.timing.retry_base_s, tries - 1, luck)
        await core.commit(lambda tx: _put_off(tx, task_id, delay_s))
    else:
        await core.commit(lambda tx: _sealed(tx, task_id, winner, sealed))


async def _question(tx: Tx, task_id: str) -> SealProof:
    row: Any = (await tx.connection.execute(_QUESTION, {"task_id": task_id})).one()
    spec = TaskSpec.model_validate(row.spec)
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
        ),
        runner=RunnerObservations.model_validate(row.observed),
        receipts=stored_json.receipts(row.receipts),
    )


async def _sealed(tx: Tx, task_id: str, winner: str, sealed: Sealed) -> None:
    task = await lock_task(tx.connection, task_id)
    rule = None if task is None else decide(task.state, TaskEvent.SEALED, Facts())
    if task is None or rule is None or task.winner != winner:
        return  # cancelled while the proof was made, or another scheduler was first
    note = {"task_id": task_id, "proof_id": sealed.proof_id, "tokens": sealed.tokens}
    await tx.connection.execute(_NOTE_PROOF, note)
    data = {"task_id": task_id, "proof_id": sealed.proof_id, "digest": sealed.envelope_digest}
    of_task = {"project_id": task.project_id, "task_id": task_id}
    await emit(tx.connection, "proof.sealed", sealed.proof_id, data, **of_task)
    await move_task(tx, task, rule)
    await add_publish_unit(tx, task)


async def _refused(
    tx: Tx, task_id: str, winner: str, question: SealProof, why: Rejected | Corrupt | LeaseLost
) -> None:
    task = await lock_task(tx.connection, task_id)
    rule = None if task is None else decide(task.state, TaskEvent.SEAL_REFUSED, Facts())
    if task is None or rule is None or task.winner != winner:
        return
    letter = {"task_id": task_id, "error": str(why), "body": stored_json.dumped(question)}
    await tx.connection.execute(_BURY, letter)
    await move_task(tx, task, rule, reason=why.code, message=why.message)


async def _put_off(tx: Tx, task_id: str, delay_s: float) -> None:
    await tx.connection.execute(_PUT_OFF, {"task_id": task_id, "delay_s": delay_s})
