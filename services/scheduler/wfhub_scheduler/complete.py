"""Command `complete`: an attempt's end, admitted once, from the current attempt's runner only.

The same completion again is answered as the first one was (`repeated`), so that a lost reply costs
nothing. What a completion must bring is in evidence.py, what follows from it in states.py.
Completions that come at the same time share a transaction; each is answered for itself, and one
that is refused takes none with it.
Raises: LeaseLost; Rejected or Corrupt (evidence); RetryLater (`proof-key-missing`).
"""

from collections.abc import Sequence
from pathlib import Path

from wfhub_common import receipts, signing
from wfhub_common.errors import Rejected, RetryLater, WfhubError
from wfhub_common.messages import AttemptState, Complete, Completed, Receipt, UnitKind

from wfhub_scheduler import evidence, stored_json
from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.rows import Attempt, lease_lost
from wfhub_scheduler.states import COMPLETED_AS
from wfhub_scheduler.transitions import Ending, Transitions

GROUP_COMPLETIONS_MAX = 100  # what one transaction takes on

Asked = tuple[str, Complete]  # by whom


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
    evidence.check_receipts(command.receipts, command.attempt_id, sender, check)
    group = core.grouped("complete", _complete_group, max_items=GROUP_COMPLETIONS_MAX)
    return await group((sender, command))


async def _complete_group(core: Core, group: Sequence[Asked]) -> list[Completed | WfhubError]:
    async def work(tx: Tx) -> list[Completed | WfhubError]:
        ids = {stored_json.clean(command.attempt_id) for _, command in group}
        moves = await Transitions.of_attempts(tx, ids)
        answers: list[Completed | WfhubError] = []
        for sender, command in group:
            try:
                answers.append(_completed(moves, sender, command))
            except WfhubError as e:
                answers.append(e)
        await moves.write()
        return answers

    return await core.commit(work)


def _completed(moves: Transitions, sender: str, command: Complete) -> Completed:
    task, attempt = moves.attempt(command.attempt_id)
    if _is_repeat(attempt, sender, command):
        return Completed(task_state=task.state, repeated=True)
    if task.current_attempt != attempt.attempt_id or attempt.runner_id != sender:
        raise lease_lost(command.attempt_id)  # said before its evidence is judged
    evidence.check_outcome(command, attempt.kind, sender, verify_count=task.verify_count)
    return Completed(
        task_state=moves.end(attempt.attempt_id, sender, _ending(command, attempt.kind))
    )


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
        event=COMPLETED_AS[command.outcome],
        reason=_reason(command, kind),
        message=stored_json.clean(command.message),
        retryable=command.retryable,
        receipts=command.receipts,
        observed=command.observed,
    )
