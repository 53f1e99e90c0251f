"""Settlement: what one announcement comes to: a receipt, a refusal, or not yet.

It may be done again for the same message, and changes nothing then. Called for what the work queue
delivers (ingest.py) and for what a person has replayed (letters.py).
Raises: Rejected (no later try would fare better), RetryLater (database down).
"""

from collections.abc import Sequence

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import db, digests, receipts, signing, subjects
from wfhub_common.errors import Rejected
from wfhub_common.grouping import Grouped, in_threads
from wfhub_common.messages import ArtifactStored, Receipt
from wfhub_common.subjects import AttemptSubject

from wfhub_proof_store import admission, artifacts
from wfhub_proof_store.admission import Admitted, Decision, Refused
from wfhub_proof_store.arrivals import Arrivals
from wfhub_proof_store.blobs import LOOKS_AT_ONCE, LOOKS_IN_A_THREAD_MAX, Blobs
from wfhub_proof_store.clock import now_text

RECEIPTS_AT_ONCE_MAX = 100  # recorded in one transaction


class Settlement:
    def __init__(
        self,
        *,
        engine: AsyncEngine,
        blobs: Blobs,
        key: signing.PrivateKey,
        arrivals: Arrivals,
        blob_wait_s: float,
    ) -> None:
        self._engine, self._key = engine, key
        self._arrivals, self._blob_wait_s = arrivals, blob_wait_s
        self._size = in_threads(blobs.size, max_items=LOOKS_IN_A_THREAD_MAX, at_once=LOOKS_AT_ONCE)
        self._record = Grouped(self._record_all, max_items=RECEIPTS_AT_ONCE_MAX)

    async def settle(self, subject: str, body: bytes, *, age_s: float, deliveries: int) -> Decision:
        """What was decided is written down before it is returned."""
        at, announced = claimed(subject, body)
        try:
            admission.check_fields(announced)
        except Rejected as e:
            await self.refuse(at, announced.name, e.message)
            raise
        stored_bytes = await self._size(digests.parse(announced.digest))
        decision = admission.decide(
            announced,
            stored_bytes=stored_bytes,
            age_s=age_s,
            deliveries=deliveries,
            blob_wait_s=self._blob_wait_s,
        )
        if isinstance(decision, Admitted):
            decision = await self._give_receipt(at, announced)
        if isinstance(decision, Refused):
            await self.refuse(at, announced.name, decision.reason)
        return decision

    async def _give_receipt(self, at: AttemptSubject, announced: ArtifactStored) -> Decision:
        receipt = Receipt(
            attempt_id=at.attempt_id,
            name=announced.name,
            digest=announced.digest,
            size=announced.size,
            media_type=announced.media_type,
            sender=at.runner_id,
            stored_at=now_text(),
        )
        if not await self._record(receipts.sign(receipt, self._key)):
            return Refused(f"{artifacts.ANNOUNCED_MAX} artifacts of this attempt have receipts")
        self._arrivals.announce(at.attempt_id)
        return Admitted()

    async def _record_all(self, given: Sequence[Receipt]) -> list[bool]:
        async with db.transaction(self._engine) as connection:
            return await artifacts.record(connection, given)

    async def refuse(self, at: AttemptSubject, name: str, reason: str) -> None:
        """The runner that waits for a receipt reads why none comes."""
        async with db.transaction(self._engine) as connection:
            await artifacts.refuse(
                connection,
                attempt_id=at.attempt_id,
                name=_storable(name),
                sender=at.runner_id,
                reason=_storable(reason),
            )
        self._arrivals.announce(at.attempt_id)


def claimed(subject: str, body: bytes) -> tuple[AttemptSubject, ArtifactStored]:
    """Whose announcement of what; what it may claim is checked. Raises: Rejected."""
    at = subjects.parse_ingest(subject)
    try:
        announced = ArtifactStored.model_validate_json(body)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Rejected("message-malformed", f"ArtifactStored.{where}: {first['msg']}") from e
    admission.check_claim(at, announced)
    return at, announced


def _storable(text: str) -> str:
    return text.replace("\x00", "\ufffd")  # Postgres has no NUL in text
