"""Rules: what a completion must bring with it. Pure.

`won` needs the bundle's receipt, the commit, and the verification that the task asked for. Every
receipt that comes along, whatever the outcome, must be the proof-store's word on this attempt's
artifact, announced by this very runner.
Raises: Rejected (`receipt-foreign`, `bundle-missing`, …); Corrupt (`receipt-signature`).
"""

from collections.abc import Callable, Sequence

from wfhub_common.errors import Rejected
from wfhub_common.messages import (
    BUNDLE_ARTIFACT,
    AttemptState,
    Complete,
    Receipt,
    UnitKind,
    VerdictStatus,
)


def check_receipts(
    receipts: Sequence[Receipt], attempt_id: str, sender: str, verify: Callable[[Receipt], None]
) -> None:
    names = [receipt.name for receipt in receipts]
    if len(set(names)) != len(names):
        message = "an artifact name occurs twice: send one receipt a name"
        raise _refused("receipt-twice", message, attempt_id)
    for receipt in receipts:
        if (receipt.attempt_id, receipt.sender) != (attempt_id, sender):
            message = (
                f"the receipt for {receipt.name[:80]!r} is for attempt {receipt.attempt_id[:64]}"
                f" of {receipt.sender[:64]}: send only receipts of this attempt"
            )
            raise _refused("receipt-foreign", message, attempt_id)
        verify(receipt)


def check_outcome(command: Complete, kind: UnitKind, sender: str, *, verify_count: int) -> None:
    """What the outcome itself needs, of a unit of this kind."""
    observed = command.observed
    if observed is not None and observed.runner_id != sender:
        message = f"observed.runner_id must be {sender[:64]}"
        raise _refused("observer-foreign", message, command.attempt_id)
    if kind is not UnitKind.AGENT or command.outcome is not AttemptState.WON:
        return
    if observed is None or not observed.commit:
        message = "a won attempt must say which commit it made"
        raise _refused("commit-missing", message, command.attempt_id)
    if BUNDLE_ARTIFACT not in {receipt.name for receipt in command.receipts}:
        message = f"a won attempt needs the receipt of {BUNDLE_ARTIFACT}"
        raise _refused("bundle-missing", message, command.attempt_id)
    wanted = VerdictStatus.PASSED if verify_count else VerdictStatus.NONE
    if observed.verdict.status is not wanted:
        message = (
            f"the task asked for {verify_count} verification commands, so a won attempt's verdict"
            f" is {wanted.value!r}, not {observed.verdict.status.value!r}: complete it as rejected"
        )
        raise _refused("verdict-not-passed", message, command.attempt_id)


def _refused(code: str, message: str, attempt_id: str) -> Rejected:
    return Rejected(code, message, attempt_id=attempt_id[:64])
