"""Command `complete`: an attempt's end, admitted once, from the current attempt's runner only.

The same completion again is answered as the first one was (`repeated`), so that a lost reply costs
nothing. What a completion must bring is in evidence.py, what follows from it in states.py.
Raises: LeaseLost; Rejected or Corrupt (evidence); RetryLater (`proof-key-missing`).
"""

from pathlib import Path

from sqlalchemy import text
from wfhub_common import receipts, signing
from wfhub_common.errors import Corrupt, Rejected, RetryLater
from wfhub_common.log import get_logger
from wfhub_common.messages import (
    AttemptState,
    Complete,
    Completed,
    Receipt,
    RunnerObservations,
    UnitKind,
)

from wfhub_scheduler import evidence, stored_json
from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.rows import Attempt, Task, lease_lost, lock_attempt
from wfhub_scheduler.transitions import Ending, end_attempt, ended

log = get_logger(__name__)

_NOTE_RESULT = text("""
UPDATE sched.task SET verdict = :verdict, commit_id = :commit_id, base_commit = :base_commit
 WHERE task_id = :task_id
""")


class ReceiptCheck:
    """The proof-store's public key, read when first needed: the proof-store may start after us."""

    def __init__(self, public_key_file: str) -> None:
        self._path = Path(public_key_file)
        self._key: signing.PublicKey | None = None

    def __call__(self, receipt: Receipt) -> None:
        if self._key is None:
            try:
                self._key = signing.load_public_key(self._path)
            except Rejected as e:
                raise RetryLater(
                    "proof-key-missing",
                    f"no receipt can be checked until PROOF_PUBLIC_KEY_FILE is there: {e.message}",
                ) from e
        receipts.verify(receipt, self._key)


async def complete(core: Core, check: ReceiptCheck, sender: str, command: Complete) -> Completed:
    try:
        evidence.check_receipts(command.receipts, command.attempt_id, sender, check)
    except Corrupt as e:
        log.error("receipt refused", runner_id=sender, attempt_id=command.attempt_id, why=str(e))
        raise

    async def work(tx: Tx) -> Completed:
        task, attempt = await lock_attempt(tx.connection, command.attempt_id)
        if _is_repeat(attempt, sender, command):
            return Completed(task_state=task.state, repeated=True)
        if task.current_attempt != attempt.attempt_id or attempt.runner_id != sender:
            raise lease_lost(command.attempt_id)  # said before its evidence is judged
        evidence.check_outcome(command, attempt.kind, sender, verify_count=task.verify_count)
        await end_attempt(tx, task, attempt, sender, _ending(command, attempt.kind))
        if attempt.kind is UnitKind.AGENT and command.observed is not None:
            await _note_result(tx, task, command, command.observed)
        return Completed(task_state=await ended(tx, task, attempt, _ending(command, attempt.kind)))

    return await core.commit(work)


def _is_repeat(attempt: Attempt, sender: str, command: Complete) -> bool:
    same = attempt.state is command.outcome and attempt.reason == _reason(command, attempt.kind)
    return same and attempt.runner_id == sender


def _reason(command: Complete, kind: UnitKind) -> str:
    """Never empty for what did not go well: people look for it."""
    reason = stored_json.clean(command.reason)
    if reason or command.outcome is AttemptState.WON:
        return reason
    return f"{kind.value}-{command.outcome.value}"


def _ending(command: Complete, kind: UnitKind) -> Ending:
    return Ending(
        to=command.outcome,
        reason=_reason(command, kind),
        message=stored_json.clean(command.message),
        retryable=command.retryable,
        receipts=command.receipts,
        observed=command.observed,
    )


async def _note_result(tx: Tx, task: Task, command: Complete, observed: RunnerObservations) -> None:
    """The verdict of the last attempt that has one; the commit only of the one that won."""
    won = command.outcome is AttemptState.WON
    await tx.connection.execute(
        _NOTE_RESULT,
        {
            "task_id": task.task_id,
            "verdict": observed.verdict.status.value,
            "commit_id": observed.commit if won else None,
            "base_commit": observed.base_commit or None,
        },
    )
