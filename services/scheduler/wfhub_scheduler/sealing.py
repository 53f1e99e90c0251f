"""Sealing: proofs asked of the proof-store until they are there.

A task in `sealing` has `seal_due_at`; who takes it moves that ahead in a committed transaction, so
one scheduler asks at a time and a crash only means a later one. Asking again is harmless: the
proof-store answers with the same proof for the same attempt.
Up to SEALS_AT_ONCE questions are open at a time; a slow answer holds up no other, and answers that
come at the same time share a transaction.
Its refusal is final: the task fails with the refusal's code, and a dead letter keeps the question.
Units: seconds.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import text
from wfhub_common import broker as rpc
from wfhub_common import subjects
from wfhub_common.errors import Corrupt, LeaseLost, Rejected, RetryLater, WfhubError
from wfhub_common.log import get_logger
from wfhub_common.messages import Sealed, SealProof

from wfhub_scheduler import stored_json, timing
from wfhub_scheduler.core import Core, Tx, every
from wfhub_scheduler.dead_letters import SEAL, Letter, bury
from wfhub_scheduler.outbox import emit
from wfhub_scheduler.seal_questions import questions
from wfhub_scheduler.transitions import Transitions

SEAL_POLL_S = 1.0
SEAL_TIMEOUT_S = 15.0
SEALS_AT_ONCE = 64  # questions open, a process

log = get_logger(__name__)

_DUE = text("""
-- Taking a seal moves its next try ahead; another scheduler skips it meanwhile.
UPDATE sched.task
   SET seal_due_at = now() + make_interval(secs => :timeout_s), seal_tries = seal_tries + 1
 WHERE task_id IN (SELECT task_id FROM sched.task WHERE state = 'sealing' AND seal_due_at <= now()
                    ORDER BY seal_due_at LIMIT :count FOR UPDATE SKIP LOCKED)
RETURNING task_id, winner, seal_tries
""")
_PUT_OFF = text("""
UPDATE sched.task SET seal_due_at = now() + make_interval(secs => :delay_s)
 WHERE task_id = :task_id AND state = 'sealing'
""")
_NOTE_LATE_PROOF = text("""
-- A proof asked for again: the task stays what it is, the work it won with is proven.
UPDATE sched.task SET proof_id = :proof_id, tokens = :tokens
 WHERE task_id = :task_id AND winner = :winner AND proof_id IS NULL
RETURNING project_id
""")

Refusal = Rejected | Corrupt | LeaseLost


@dataclass(frozen=True)
class _Asked:
    task_id: str
    winner: str
    tries: int
    question: SealProof


_Answered = tuple[_Asked, Sealed | Refusal | RetryLater]


class Sealing:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._open = 0

    async def run(self) -> None:
        """Until the process stops."""
        async with asyncio.TaskGroup() as asking:
            await every("seal", self._core.seals, SEAL_POLL_S, lambda: self.turn(asking))

    async def turn(self, asking: asyncio.TaskGroup) -> bool:
        """Take what is due and begin to ask, each question in a task of `asking`; True: there may
        be more."""
        room = SEALS_AT_ONCE - self._open
        if not room or not self._core.connected:
            return False
        due = await self._core.commit(lambda tx: _take(tx, room))
        for asked in due:
            self._open += 1
            asking.create_task(self._ask(asked, ring=len(due) == room))
        return False  # what is taken but not due any more, or the end of an answer, rings

    async def _ask(self, asked: _Asked, *, ring: bool) -> None:
        try:
            answer = await _answer(self._core, asked)
            settled = self._core.grouped("seal", _settle_group, max_items=SEALS_AT_ONCE)
            await settled((asked, answer))
        except RetryLater as e:  # our own database: the proof is asked for again
            log.warning("proof not noted yet", task_id=asked.task_id, why=str(e))
        except Exception:
            log.exception("sealing failed", task_id=asked.task_id)
        finally:
            self._open -= 1
            if ring:
                self._core.seals.ring()


async def _take(tx: Tx, count: int) -> list[_Asked]:
    limits = {"count": count, "timeout_s": SEAL_TIMEOUT_S * 2}
    rows = (await tx.connection.execute(_DUE, limits)).all()
    asked = await questions(tx, [row.task_id for row in rows]) if rows else {}
    return [_Asked(row.task_id, row.winner, row.seal_tries, asked[row.task_id]) for row in rows]


async def _answer(core: Core, asked: _Asked) -> Sealed | Refusal | RetryLater:
    try:
        return await _ask(core, asked.question)
    except RetryLater as e:
        log.warning("proof not there yet", task_id=asked.task_id, tries=asked.tries, why=str(e))
        return e
    except (Rejected, Corrupt, LeaseLost) as e:
        log.error("proof refused", task_id=asked.task_id, attempt_id=asked.winner, why=str(e))
        return e


async def _ask(core: Core, question: SealProof) -> Sealed:
    return await rpc.ask(
        core.broker, subjects.SCHEDULER, "seal", question, Sealed, timeout_s=SEAL_TIMEOUT_S
    )


async def _settle_group(core: Core, group: Sequence[_Answered]) -> list[WfhubError | None]:
    async def work(tx: Tx) -> list[WfhubError | None]:
        moves = await Transitions.of_tasks(tx, {asked.task_id for asked, _ in group})
        for asked, answer in group:
            await _settle(tx, moves, asked, answer)
        await moves.write()
        return [None] * len(group)

    return await core.commit(work)


async def _settle(
    tx: Tx, moves: Transitions, asked: _Asked, answer: Sealed | Refusal | RetryLater
) -> None:
    """Nothing, where it was cancelled while the proof was made, or another scheduler was first."""
    match answer:
        case Sealed():
            moves.sealed(asked.task_id, asked.winner, answer)
        case RetryLater():
            luck = random.random()  # noqa: S311 - jitter
            delay_s = timing.seal_delay_s(tx.timing.retry_base_s, asked.tries - 1, luck)
            await tx.connection.execute(_PUT_OFF, {"task_id": asked.task_id, "delay_s": delay_s})
        case _:
            if moves.seal_refused(asked.task_id, asked.winner, answer.code, answer.message):
                body = stored_json.dumped(asked.question)
                letter = Letter(SEAL, asked.task_id, answer.code, answer.message, body)
                await bury(tx.connection, letter)


async def seal_again(core: Core, task_id: str) -> str:
    """Ask once more for the proof of a task that failed because it was refused; the proof's id.

    A failed task is final and stays so: what comes of this is evidence, never a publication.
    Raises: what the proof-store answers.
    """
    question = (await core.commit(lambda tx: questions(tx, [task_id])))[task_id]
    sealed = await _ask(core, question)

    async def work(tx: Tx) -> None:
        note = {"task_id": task_id, "proof_id": sealed.proof_id, "tokens": sealed.tokens}
        winner = question.scheduler.attempt_id
        noted = await tx.connection.execute(_NOTE_LATE_PROOF, {**note, "winner": winner})
        if (row := noted.one_or_none()) is None:
            return
        data = {"task_id": task_id, "proof_id": sealed.proof_id, "digest": sealed.envelope_digest}
        await emit(
            tx.connection,
            "proof.sealed",
            sealed.proof_id,
            data,
            project_id=row.project_id,
            task_id=task_id,
        )

    await core.commit(work)
    return sealed.proof_id
