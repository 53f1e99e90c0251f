"""RPC `seal`: a won attempt becomes a signed statement and a leaf of the log, once.

Nothing is believed that can be looked up: receipts are checked against our own key and the disk,
exchanges with models come from the gateway. Asked again for an attempt, the same proof is the
answer, whatever else the question says.
Raises: Rejected; RetryLater (gateway or database down); Corrupt (a forged receipt, a lost blob).
"""

import asyncio

from faststream.nats import NatsBroker
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from wfhub_common import broker as rpc
from wfhub_common import db, digests, dsse, ids, proofs, receipts, signing, subjects
from wfhub_common.errors import Corrupt, Rejected
from wfhub_common.log import get_logger
from wfhub_common.messages import Exchanges, ExchangesOf, Receipt, Sealed, SealProof

from wfhub_proof_store import statement, transparency
from wfhub_proof_store.blobs import Blobs
from wfhub_proof_store.clock import now_text

log = get_logger(__name__)


class Sealer:
    def __init__(
        self, *, engine: AsyncEngine, broker: NatsBroker, blobs: Blobs, key: signing.PrivateKey
    ) -> None:
        self._engine, self._broker, self._blobs, self._key = engine, broker, blobs, key

    async def seal(self, sender: str, asked: SealProof) -> Sealed:
        if sender != subjects.SCHEDULER:
            raise Rejected("not-allowed", f"{sender[:64]} may not ask for proofs", status=403)
        attempt_id = ids.checked(asked.scheduler.attempt_id, "att")
        async with db.transaction(self._engine) as connection:
            known = await transparency.sealed(connection, attempt_id)
        if known is not None:
            return known
        statement.check(asked)
        await asyncio.to_thread(self._check_receipts, asked.receipts)
        proof = self._proof(asked, await self._exchanges(attempt_id))

        async def append(connection: AsyncConnection) -> Sealed:
            return await transparency.append(connection, proof, self._key)

        sealed = await db.retried(self._engine, append)
        log.info("proof sealed", attempt_id=attempt_id, proof_id=sealed.proof_id)
        return sealed

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
