"""What a completion must bring."""

from typing import Any

import pytest
from wfhub_common import receipts, signing
from wfhub_common.errors import Corrupt, Rejected
from wfhub_common.messages import (
    BUNDLE_ARTIFACT,
    AttemptState,
    Complete,
    Receipt,
    RunnerObservations,
    UnitKind,
    Verdict,
    VerdictStatus,
)
from wfhub_scheduler.evidence import check_outcome, check_receipts

KEY = signing.generate_private_key()


def receipt(
    name: str = BUNDLE_ARTIFACT, *, attempt_id: str = "att_1", sender: str = "r"
) -> Receipt:
    unsigned = Receipt(
        attempt_id=attempt_id,
        name=name,
        digest="sha256:" + "0" * 64,
        size=1,
        media_type="text/plain",
        sender=sender,
        stored_at="2026-01-01T00:00:00Z",
    )
    return receipts.sign(unsigned, KEY)


def verify(given: Receipt) -> None:
    receipts.verify(given, KEY.public_key())


def won(verdict: VerdictStatus = VerdictStatus.PASSED, **more: Any) -> Complete:
    observed = RunnerObservations(
        runner_id="r", agent="a", commit="c", verdict=Verdict(status=verdict)
    )
    fields = {
        "attempt_id": "att_1",
        "outcome": AttemptState.WON,
        "receipts": (receipt(),),
        "observed": observed,
    }
    return Complete.model_validate({**fields, **more})


def refused(command: Complete, *, verify_count: int = 1) -> str:
    with pytest.raises(Rejected) as caught:
        check_outcome(command, UnitKind.AGENT, "r", verify_count=verify_count)
    return caught.value.code


def test_a_complete_win_is_admitted() -> None:
    check_receipts([receipt(), receipt("log")], "att_1", "r", verify)
    check_outcome(won(), UnitKind.AGENT, "r", verify_count=1)
    check_outcome(won(VerdictStatus.NONE), UnitKind.AGENT, "r", verify_count=0)


def test_receipts_of_others_and_of_other_attempts_are_refused() -> None:
    for foreign in (receipt(attempt_id="att_2"), receipt(sender="other")):
        with pytest.raises(Rejected, match="receipt-foreign"):
            check_receipts([foreign], "att_1", "r", verify)


def test_a_name_has_one_receipt() -> None:
    with pytest.raises(Rejected, match="receipt-twice"):
        check_receipts([receipt(), receipt()], "att_1", "r", verify)


def test_a_changed_receipt_is_refused() -> None:
    with pytest.raises(Corrupt, match="receipt-signature"):
        check_receipts([receipt().model_copy(update={"size": 2})], "att_1", "r", verify)


def test_a_win_needs_bundle_commit_and_the_verdict_that_was_asked_for() -> None:
    assert refused(won(receipts=(receipt("log"),))) == "bundle-missing"
    assert refused(won(observed=None)) == "commit-missing"
    assert refused(won(VerdictStatus.NONE)) == "verdict-not-passed"
    assert refused(won(VerdictStatus.FAILED)) == "verdict-not-passed"
    assert refused(won(VerdictStatus.ERROR), verify_count=0) == "verdict-not-passed"


def test_a_runner_speaks_for_itself_only() -> None:
    observed = RunnerObservations(runner_id="other", agent="a", commit="c")
    assert refused(won(observed=observed)) == "observer-foreign"


def test_other_outcomes_and_publications_need_no_bundle() -> None:
    failed = Complete(attempt_id="att_1", outcome=AttemptState.FAILED)
    check_outcome(failed, UnitKind.AGENT, "r", verify_count=1)
    published = Complete(attempt_id="att_1", outcome=AttemptState.WON)
    check_outcome(published, UnitKind.PUBLISH, "r", verify_count=1)
