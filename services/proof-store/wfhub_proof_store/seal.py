"""RPC `seal` and `seal_many`: a won attempt becomes a signed statement and a leaf of the log, once.

Nothing is believed that can be looked up: receipts are checked against our own key and the disk,
exchanges with models come from the gateway. Asked again for an attempt, the same proof is the
answer, whatever else the question says. What is sealed at the same time shares a transaction of the
log; each is answered for itself.
Raises: Rejected; RetryLater (gateway or database down); Corrupt (a forged receipt, a lost blob).
"""

import asyncio
import time
from collections.abc import Sequence

from faststream.nats import NatsBroker
from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import broker as rpc
from wfhub_common import db, digests, dsse, ids, proofs, receipts, signing, subjects, tracing
from wfhub_common.errors import Corrupt, Rejected, RetryLater, WfhubError, to_wire
from wfhub_common.grouping import Grouped, in_threads
from wfhub_common.log import get_logger
from wfhub_common.messages import (
    Exchanges,
    ExchangesOf,
    Receipt,
    Sealed,
    SealedMany,
    SealMany,
    SealProof,
    SealResult,
)
from wfhub_common.sql import Connection

from wfhub_proof_store import statement, transparency
from wfhub_proof_store.blobs import LOOKS_AT_ONCE, LOOKS_IN_A_THREAD_MAX, Blobs
from wfhub_proof_store.clock import now_text
from wfhub_proof_store.metrics import Metrics

log = get_logger(__name__)


APPENDS_AT_ONCE_MAX = 100  # leaves in one transaction


class Sealer:
    def __init__(
        self,
        *,
        engine: AsyncEngine,
        broker: NatsBroker,
        blobs: Blobs,
        key: signing.PrivateKey,
        metrics: Metrics | None = None,
    ) -> None:
        self._engine, self._broker, self._blobs, self._key = engine, broker, blobs, key
        self._metrics = metrics or Metrics()
        self._append = Grouped(self._append_all, max_items=APPENDS_AT_ONCE_MAX)
        self._checked = in_threads(
            self._check_receipts, max_items=LOOKS_IN_A_THREAD_MAX, at_once=LOOKS_AT_ONCE
        )

    async def seal(self, sender: str, asked: SealProof) -> Sealed:
        (answer,) = await self._seal_all(sender, (asked,))
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def seal_many(self, sender: str, asked: SealMany) -> SealedMany:
        answers = await self._seal_all(sender, asked.proofs)
        return SealedMany(results=tuple(_result(answer) for answer in answers))

    async def _seal_all(
        self, sender: str, asked: Sequence[SealProof]
    ) -> list[Sealed | BaseException]:
        if sender != subjects.SCHEDULER:
            raise Rejected("not-allowed", f"{sender[:64]} may not ask for proofs", status=403)
        attempt_ids = [each.scheduler.attempt_id for each in asked]
        async with db.transaction(self._engine) as connection:
            known = await transparency.sealed(connection, [i for i in attempt_ids if "\0" not in i])
        sealing = (
            _known(known[attempt_id]) if attempt_id in known else self._sealed(each)
            for attempt_id, each in zip(attempt_ids, asked, strict=True)
        )
        return list(await asyncio.gather(*sealing, return_exceptions=True))

    async def _sealed(self, asked: SealProof) -> Sealed:
        began, outcome = time.monotonic(), "failed"
        seen = asked.scheduler
        about = {"task_id": seen.task_id, "attempt_id": seen.attempt_id}
        try:
            # Many may be asked for at once: each belongs to its own task's trace.
            with tracing.within(tracing.parsed(seen.traceparent)), tracing.span("seal", **about):
                sealed = await self._made(asked)
            outcome = "sealed"
            return sealed
        except RetryLater:
            outcome = "later"
            raise
        except WfhubError:
            outcome = "refused"
            raise
        finally:
            self._metrics.sealed(outcome, time.monotonic() - began)

    async def _made(self, asked: SealProof) -> Sealed:
        attempt_id = ids.checked(asked.scheduler.attempt_id, "att")
        statement.check(asked)
        try:
            await self._checked(asked.receipts)
        except WfhubError:
            self._metrics.checked("receipt", good=False)
            raise
        self._metrics.checked("receipt", good=True)
        sealed = await self._append(self._proof(asked, await self._exchanges(attempt_id)))
        log.info("proof sealed", attempt_id=attempt_id, proof_id=sealed.proof_id)
        return sealed

    async def _append_all(self, proofs_: Sequence[transparency.NewProof]) -> list[Sealed]:
        async def append(connection: Connection) -> list[Sealed]:
            return await transparency.append(connection, proofs_, self._key)

        return await db.retried(self._engine, append)

    def _check_receipts(self, given: tuple[Receipt, ...]) -> None:
        for receipt in given:
            receipts.verify(receipt, self._key.public_key())
            stored_bytes = self._blobs.size(digests.parse(receipt.digest))
            if stored_bytes != receipt.size:
                raise Corrupt(
                    "blob-lost",
                    f"the blob of {receipt.name!r} ({receipt.digest}) has {stored_bytes} bytes on"
                    f" disk, its receipt says {receipt.size}: restore it below PROOFS_ROOT",
                    digest=receipt.digest,
                )

    async def _exchanges(self, attempt_id: str) -> Exchanges:
        found = await rpc.ask(
            self._broker,
            subjects.PROOF_STORE,
            "exchanges",
            ExchangesOf(attempt_id=attempt_id),
            Exchanges,
        )
        if found.attempt_id != attempt_id:
            raise Corrupt("exchanges-mismatch", f"the gateway answered for {found.attempt_id}")
        return found

    def _proof(self, asked: SealProof, exchanges: Exchanges) -> transparency.NewProof:
        proof_id = ids.new_proof_id()
        payload = statement.payload(
            asked,
            exchanges,
            proof_id=proof_id,
            key_id=signing.key_id(self._key.public_key()),
            sealed_at=now_text(),
        )
        envelope = dsse.seal(proofs.PAYLOAD_TYPE, payload, self._key)
        return transparency.NewProof(
            proof_id=proof_id,
            attempt_id=asked.scheduler.attempt_id,
            task_id=asked.scheduler.task_id,
            envelope=proofs.leaf_data(envelope.model_dump(mode="json")),
            tokens=exchanges.prompt_tokens + exchanges.completion_tokens,
        )


async def _known(sealed: Sealed) -> Sealed:
    return sealed


def _result(answer: Sealed | BaseException) -> SealResult:
    if isinstance(answer, Sealed):
        return SealResult(sealed=answer)
    if isinstance(answer, WfhubError):
        return SealResult(error=to_wire(answer))
    log.error("seal failed", exc_info=answer)
    return SealResult(error=to_wire(RetryLater("internal", "seal failed; it is safe to ask again")))
