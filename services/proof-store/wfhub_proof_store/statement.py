"""What a proof says: checks on what was asked, and the in-toto statement. Pure.

Raises: Rejected (`seal-malformed`): the request contradicts itself, asking again is no use.
"""

import json
import re

from wfhub_common import proofs
from wfhub_common.errors import Rejected
from wfhub_common.messages import BUNDLE_ARTIFACT, Exchanges, SealProof

_COMMIT = re.compile(r"([0-9a-f]{40}|[0-9a-f]{64})\Z")


def check(asked: SealProof) -> None:
    names = [each.name for each in asked.receipts]
    scheduler, runner = asked.scheduler, asked.runner
    if BUNDLE_ARTIFACT not in names:
        raise _malformed(f"there is no receipt for {BUNDLE_ARTIFACT}")
    if len(names) != len(set(names)):
        raise _malformed("an artifact has two receipts")
    if not _COMMIT.match(runner.commit):
        raise _malformed(f"{runner.commit[:80]!r} is not a commit")
    if runner.runner_id != scheduler.runner_id:
        raise _malformed(f"{runner.runner_id} reports for {scheduler.runner_id}'s attempt")
    for receipt in asked.receipts:
        if receipt.attempt_id != scheduler.attempt_id:
            raise _malformed(f"the receipt for {receipt.name!r} is of another attempt")
        if receipt.sender != scheduler.runner_id:
            raise _malformed(f"the receipt for {receipt.name!r} was given to another runner")


def payload(
    asked: SealProof, exchanges: Exchanges, *, proof_id: str, key_id: str, sealed_at: str
) -> bytes:
    bundle = next(each for each in asked.receipts if each.name == BUNDLE_ARTIFACT)
    statement = proofs.Statement(
        subject=proofs.subjects_of(asked.scheduler.task_id, asked.runner.commit, bundle.digest),
        predicate=proofs.Predicate(
            observed=proofs.Observed(
                scheduler=asked.scheduler,
                runner=asked.runner,
                gateway=exchanges,
                proof_store=proofs.StoreObservations(
                    proof_id=proof_id,
                    key_id=key_id,
                    sealed_at=sealed_at,
                    receipts=asked.receipts,
                ),
            )
        ),
    )
    # Not canonical JSON: a runner may report floats, and the envelope signs these very bytes.
    value = statement.model_dump(mode="json", by_alias=True)
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _malformed(why: str) -> Rejected:
    return Rejected("seal-malformed", f"this cannot be sealed: {why}")
