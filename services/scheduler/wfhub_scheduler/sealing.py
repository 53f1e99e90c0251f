"""Sealing: proofs asked of the proof-store until they are there.

A task in `sealing` has `seal_due_at`; who takes it moves that ahead in a committed transaction, so
one scheduler asks at a time and a crash only means a later one. Asking again is harmless: the
proof-store answers with the same proof for the same attempt.
Up to SEALS_AT_ONCE questions are open at a time. What is taken together is asked together and its
answers share a transaction; each is answered, and settled, for itself.
Its refusal is final: the task fails with the refusal's code, and a dead letter keeps the question.
A task over which we fail ourselves is put aside after a while (dead_letters.guarded).
Units: seconds.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sqlalchemy import text
from wfhub_common import broker as rpc
from wfhub_common import db, subjects
from wfhub_common.errors import Corrupt, LeaseLost, Rejected, RetryLater, WfhubError, from_wire
from wfhub_common.limits import BATCH_SEALS_MAX, RPC_BYTES_MAX
from wfhub_common.log import get_logger
from wfhub_common.messages import Sealed, SealedMany, SealMany, SealProof
from wfhub_common.sql import Row

from wfhub_scheduler import ci_review, seal_questions, stored_json, timing
from wfhub_scheduler.core import Core, Tx, every
from wfhub_scheduler.dead_letters import OUTAGES, SEAL, SEALING, Letter, bury, guarded, not_aside
from wfhub_scheduler.outbox import emit
from wfhub_scheduler.rows import SAME_TIMES
from wfhub_scheduler.transitions import Transitions

SEAL_POLL_S = 1.0
SEAL_TIMEOUT_S = 15.0
SEALS_AT_ONCE = 100  # questions open, a process
SEALS_BYTES_MAX = RPC_BYTES_MAX // 2  # of the questions in one message

log = get_logger(__name__)

_DUE = text(f"""
-- Taking a seal moves its next try ahead; another scheduler skips it meanwhile.
WITH taken AS (
    UPDATE sched.task t
       SET seal_due_at = now() + make_interval(secs => :timeout_s), seal_tries = seal_tries + 1,
           {SAME_TIMES}
     WHERE task_id IN (
        SELECT task_id FROM sched.task WHERE state = 'sealing' AND seal_due_at <= now()
           AND {not_aside(SEALING, "task.task_id")}
         ORDER BY seal_due_at LIMIT :count FOR UPDATE SKIP LOCKED)
    RETURNING task_id, seal_tries)
SELECT taken.seal_tries, {seal_questions.COLUMNS}
  FROM taken JOIN sched.task t USING (task_id) {seal_questions.OF_TASK}
""")  # noqa: S608 - our own text
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
    seen: Row


_Question = tuple[_Asked, SealProof]
_Answer = Sealed | Refusal | RetryLater
_Answered = tuple[_Asked, SealProof, _Answer]


class Sealing:
    def __init__(self, core: Core) -> None:
        self._core = core
        self._open = 0

    async def run(self) -> None:
        """Until the process stops."""
        async with asyncio.TaskGroup() as asking:
            await every("seal", self._core.seals, SEAL_POLL_S, lambda: self.turn(asking))

    async def turn(self, asking: asyncio.TaskGroup) -> bool:
        """Take what is due and begin to ask, all of it in a task of `asking`; True: there may be
        more."""
        room = SEALS_AT_ONCE - self._open
        if not room or not self._core.connected:
            return False
        due = await self._take(room)
        if due:
            self._open += len(due)
            asking.create_task(self._ask(due, ring=len(due) == room))
        return False  # what is taken but not due any more, or the end of an answer, rings

    async def _take(self, count: int) -> list[_Asked]:
        limits = {"count": count, "timeout_s": SEAL_TIMEOUT_S * 2}
        rows = await self._core.single(_DUE, limits)
        return [_Asked(row.task_id, row.attempt_id, row.seal_tries, row) for row in rows]

    async def _ask(self, due: Sequence[_Asked], *, ring: bool) -> None:
        try:
            questions = [each for asked in due if (each := await self._question(asked))]
            asking = [self._answered(batch) for batch in _batches(questions)]
            await asyncio.gather(*asking)
        except Exception as e:  # noqa: BLE001 - an outage: the proofs are asked for again
            log.warning("proofs not noted yet", tasks=len(due), why=str(e)[:500])
        finally:
            self._open -= len(due)
            if ring:
                self._core.seals.ring()

    async def _question(self, asked: _Asked) -> _Question | None:
        """None: it cannot be asked, which is counted, and the task put aside for it."""
        made: list[SealProof] = []

        async def work() -> None:
            made.append(seal_questions.question(asked.seen))

        await guarded(self._core, SEALING, asked.task_id, work)
        return (asked, made[0]) if made else None

    async def _answered(self, questions: Sequence[_Question]) -> None:
        answers = await _answers(self._core, questions)
        self._core.metrics.sealed(map(_outcome, answers))
        answered = [(*each, answer) for each, answer in zip(questions, answers, strict=True)]
        settled = self._core.grouped(
            "seal", _settle_group, max_items=SEALS_AT_ONCE, size=lambda of: len(of)
        )
        try:
            await settled(answered)
            return
        except Exception as e:
            if isinstance(e, OUTAGES) or db.is_unready(e):
                raise
        for each in answered:  # one of them is why
            await guarded(self._core, SEALING, each[0].task_id, partial(settled, [each]))


def _batches(questions: Sequence[_Question]) -> list[list[_Question]]:
    """As one message takes them: a question that is large is a message of its own."""
    batches: list[list[_Question]] = []
    bytes_left = 0
    for asked, question in questions:
        size = len(asked.seen.spec) + len(asked.seen.observed) + len(asked.seen.receipts)
        if not batches or size > bytes_left or len(batches[-1]) == BATCH_SEALS_MAX:
            batches.append([])
            bytes_left = SEALS_BYTES_MAX
        batches[-1].append((asked, question))
        bytes_left -= size
    return batches


async def _answers(core: Core, questions: Sequence[_Question]) -> list[_Answer]:
    if len(questions) > 1:
        command = SealMany(proofs=tuple(question for _, question in questions))
        try:
            many = await rpc.ask(
                core.broker,
                subjects.SCHEDULER,
                "seal_many",
                command,
                SealedMany,
                timeout_s=SEAL_TIMEOUT_S,
            )
        except RetryLater as e:
            if e.code != "no-responders":
                return [_said(asked, e) for asked, _ in questions]
            # An earlier proof-store, or none at all.
        except (Rejected, Corrupt, LeaseLost) as e:  # of all of them: one by one it is said whose
            log.warning("proofs refused together, asked one by one", why=str(e))
        else:
            answers = [result.sealed or _refusal(result.error) for result in many.results]
            # What failed among others is asked once more alone: so the proof-store counts it.
            failed = [n for n, answer in enumerate(answers) if _failed(answer)]
            again = await asyncio.gather(*(_answer(core, *questions[n]) for n in failed))
            alone = dict(zip(failed, again, strict=True))
            return [
                alone[n] if n in alone else _said(asked, answer)
                for n, ((asked, _), answer) in enumerate(zip(questions, answers, strict=True))
            ]
    return list(await asyncio.gather(*(_answer(core, *each) for each in questions)))


def _failed(answer: _Answer) -> bool:
    return isinstance(answer, RetryLater) and answer.code == "internal"


async def _answer(core: Core, asked: _Asked, question: SealProof) -> _Answer:
    try:
        return await _ask(core, question)
    except (RetryLater, Rejected, Corrupt, LeaseLost) as e:
        return _said(asked, e)


def _refusal(error: dict[str, Any] | None) -> Refusal | RetryLater:
    wire = from_wire(error or {})
    assert isinstance(wire, RetryLater | Rejected | Corrupt | LeaseLost)
    return wire


def _outcome(answer: _Answer) -> str:
    """As metrics call it."""
    if isinstance(answer, Sealed):
        return "sealed"
    return "later" if isinstance(answer, RetryLater) else "refused"


def _said(asked: _Asked, answer: _Answer) -> _Answer:
    """In the log, where it is no proof."""
    if isinstance(answer, RetryLater):
        log.warning(
            "proof not there yet", task_id=asked.task_id, tries=asked.tries, why=str(answer)
        )
    elif not isinstance(answer, Sealed):
        log.error("proof refused", task_id=asked.task_id, attempt_id=asked.winner, why=str(answer))
    return answer


async def _ask(core: Core, question: SealProof) -> Sealed:
    return await rpc.ask(
        core.broker, subjects.SCHEDULER, "seal", question, Sealed, timeout_s=SEAL_TIMEOUT_S
    )


async def _settle_group(
    core: Core, group: Sequence[Sequence[_Answered]]
) -> list[WfhubError | None]:
    answered = [each for batch in group for each in batch]

    async def work(tx: Tx) -> list[WfhubError | None]:
        moves = await Transitions.of_tasks(tx, {asked.task_id for asked, _, _ in answered})
        for each in answered:
            await _settle(tx, moves, each)
        await moves.write()
        return [None] * len(group)

    return await core.commit(work)


async def _settle(tx: Tx, moves: Transitions, answered: _Answered) -> None:
    """Nothing, where it was cancelled while the proof was made, or another scheduler was first."""
    asked, question, answer = answered
    match answer:
        case Sealed():
            seen = "" if asked.seen.ci_files == "allow" else ci_review.said(question.runner)
            moves.sealed(asked.task_id, asked.winner, answer, ci_files=seen)
        case RetryLater():
            luck = random.random()  # noqa: S311 - jitter
            delay_s = timing.seal_delay_s(tx.timing.retry_base_s, asked.tries - 1, luck)
            await tx.connection.execute(_PUT_OFF, {"task_id": asked.task_id, "delay_s": delay_s})
        case _:
            if moves.seal_refused(asked.task_id, asked.winner, answer.code, answer.message):
                body = stored_json.dumped(question)
                letter = Letter(SEAL, asked.task_id, answer.code, answer.message, body)
                await bury(tx.connection, letter)


async def seal_again(core: Core, task_id: str) -> str:
    """Ask once more for the proof of a task that failed because it was refused; the proof's id.

    A failed task is final and stays so: what comes of this is evidence, never a publication.
    Raises: what the proof-store answers.
    """
    seen = await core.commit(lambda tx: seal_questions.seen(tx, [task_id]))
    question = seal_questions.question(seen[task_id])
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
