"""Commands `complete` and `complete_many`: an attempt's end, admitted once, and from the current
attempt's runner only.

The same completion again is answered as the first one was (`repeated`), so that a lost reply costs
nothing. What a completion must bring is in evidence.py, what follows from it in states.py.
Completions that come at the same time share a transaction; each is answered for itself, and one
that is refused takes none with it.
Raises: LeaseLost; Rejected or Corrupt (evidence); RetryLater (`proof-key-missing`).
"""

from collections.abc import Sequence
from pathlib import Path

from wfhub_common import receipts, signing, subjects
from wfhub_common.broker import Failure
from wfhub_common.errors import Rejected, RetryLater, WfhubError, to_wire
from wfhub_common.grouping import Grouped
from wfhub_common.log import get_logger
from wfhub_common.messages import (
    AttemptState,
    Complete,
    Completed,
    CompletedMany,
    CompleteMany,
    CompleteResult,
    Receipt,
    UnitKind,
)

from wfhub_scheduler import dead_letters, evidence, stored_json
from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.rows import Attempt, lease_lost
from wfhub_scheduler.states import COMPLETED_AS
from wfhub_scheduler.transitions import Ending, Transitions

GROUP_COMPLETIONS_MAX = 100  # what one transaction takes on

log = get_logger(__name__)

Asked = tuple[str, Sequence[Complete]]  # by whom, in one message
Answer = Completed | WfhubError


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
    (answer,) = await _group(core)((sender, (command,)))
    if isinstance(answer, WfhubError):
        raise answer
    return answer


async def complete_many(
    core: Core, check: ReceiptCheck, sender: str, command: CompleteMany
) -> CompletedMany:
    answers: list[Answer | None] = [None] * len(command.completions)
    admitted: dict[int, Complete] = {}
    for n, each in enumerate(command.completions):
        try:
            evidence.check_receipts(each.receipts, each.attempt_id, sender, check)
        except WfhubError as e:
            answers[n] = e
        else:
            admitted[n] = each
    for n, answer in zip(admitted, await _all(core, sender, list(admitted.values())), strict=True):
        answers[n] = answer
    return CompletedMany(results=tuple(_result(answer) for answer in answers))


async def _all(core: Core, sender: str, commands: list[Complete]) -> Sequence[Answer]:
    """Together; where that fails for no outage, each alone, since one of them is why."""
    group = _group(core)
    if not commands:
        return ()
    try:
        return await group((sender, commands))
    except RetryLater:
        raise
    except Exception as e:
        if len(commands) == 1:
            raise
        log.warning("completions failed, each alone now", count=len(commands), error=repr(e)[:500])
    answers: list[Answer] = []
    for command in commands:
        try:
            answers += await group((sender, (command,)))
        except RetryLater:
            raise
        except Exception as e:
            log.exception("completion failed", attempt_id=command.attempt_id[:64])
            subject, body = subjects.rpc(sender, "complete"), command.model_dump_json().encode()
            await dead_letters.count_request(core, Failure(subject, body, e))
            answers.append(RetryLater("internal", "complete failed; it is safe to ask again"))
    return answers


def _result(answer: Answer | None) -> CompleteResult:
    assert answer is not None
    if isinstance(answer, WfhubError):
        return CompleteResult(error=to_wire(answer))
    return CompleteResult(completed=answer)


def _group(core: Core) -> Grouped[Asked, Sequence[Answer]]:
    return core.grouped(
        "complete",
        _complete_group,
        max_items=GROUP_COMPLETIONS_MAX,
        size=lambda asked: len(asked[1]),
    )


async def _complete_group(
    core: Core, group: Sequence[Asked]
) -> list[Sequence[Answer] | WfhubError]:
    async def work(tx: Tx) -> list[Sequence[Answer] | WfhubError]:
        ids = {stored_json.clean(each.attempt_id) for _, commands in group for each in commands}
        moves = await Transitions.of_attempts(tx, ids)
        answers: list[Sequence[Answer] | WfhubError] = [
            [_answer(moves, sender, command) for command in commands] for sender, commands in group
        ]
        await moves.write()
        return answers

    return await core.commit(work)


def _answer(moves: Transitions, sender: str, command: Complete) -> Answer:
    try:
        return _completed(moves, sender, command)
    except WfhubError as e:
        return e


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
