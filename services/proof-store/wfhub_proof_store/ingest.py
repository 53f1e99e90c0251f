"""Ingest: each ArtifactStored on the work queue becomes a receipt, a refusal, or a dead letter.

A message is acknowledged after the commit: a crash in between repeats it, and the repeat changes
nothing. What cannot be decided now (blob not here yet, database down) goes back with a delay.
Order for a dead letter: row, copy on the DLQ, terminate.
"""

import asyncio
from datetime import UTC, datetime

import nats.errors
from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub
from nats.js.api import ConsumerConfig
from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import db, digests, receipts, signing, subjects
from wfhub_common.errors import Rejected, RetryLater
from wfhub_common.log import get_logger
from wfhub_common.messages import ArtifactStored, Receipt
from wfhub_common.subjects import AttemptSubject

from wfhub_proof_store import admission, artifacts
from wfhub_proof_store.arrivals import Arrivals
from wfhub_proof_store.blobs import Blobs
from wfhub_proof_store.clock import now_text

DURABLE = "proof-store"
WORKERS = 8  # messages at once in one process; each is one short transaction
ACK_WAIT_S = 30.0
ACK_PENDING_MAX = 10_000  # messages of missing blobs wait here and must not hold up the others
DLQ_TIMEOUT_S = 5.0

log = get_logger(__name__)


class Ingest:
    def __init__(
        self,
        *,
        engine: AsyncEngine,
        broker: NatsBroker,
        blobs: Blobs,
        key: signing.PrivateKey,
        arrivals: Arrivals,
        blob_wait_s: float,
    ) -> None:
        self._engine, self._broker, self._blobs = engine, broker, blobs
        self._key, self._arrivals, self._blob_wait_s = key, arrivals, blob_wait_s

    def subscribe(self, *, inbox_user: str) -> None:
        """Declare the durable consumer; it starts with the broker, once the stream exists."""
        subscriber = self._broker.subscriber(
            subjects.INGEST_FILTER,
            stream=JStream(subjects.INGEST_STREAM, declare=False),
            durable=DURABLE,
            pull_sub=PullSub(batch_size=1),  # a larger batch waits for its slowest message
            max_workers=WORKERS,
            ack_policy=AckPolicy.MANUAL,
            config=ConsumerConfig(
                ack_wait=ACK_WAIT_S, max_ack_pending=ACK_PENDING_MAX, max_deliver=-1
            ),
            inbox_prefix=f"_INBOX.{inbox_user}.".encode(),  # FastStream's default is not ours
            decoder=_raw,
        )
        subscriber(self.handle)

    async def handle(self, body: bytes, message: NatsMessage) -> None:
        try:
            await self._settle(body, message)
        except RetryLater as e:
            log.warning("ingest postponed", error=e.code, reason=e.message)
            await message.nack(delay=admission.backoff_s(_deliveries(message)))
        except Exception:
            log.exception("ingest failed", subject=message.raw_message.subject)
            await message.nack(delay=admission.RETRY_MAX_S)

    async def _settle(self, body: bytes, message: NatsMessage) -> None:
        try:
            at = subjects.parse_ingest(message.raw_message.subject)
            announced = _parsed(body)
            admission.check_claim(at, announced)
        except Rejected as e:
            await self._bury(message, e)
            return
        try:
            admission.check_fields(announced)
        except Rejected as e:
            await self._refuse(at, announced, e.message)
            await self._bury(message, e)
            return
        stored_bytes = await asyncio.to_thread(self._blobs.size, digests.parse(announced.digest))
        match admission.decide(
            announced,
            stored_bytes=stored_bytes,
            age_s=(datetime.now(UTC) - message.raw_message.metadata.timestamp).total_seconds(),
            deliveries=_deliveries(message),
            blob_wait_s=self._blob_wait_s,
        ):
            case admission.Admitted():
                await self._give_receipt(at, announced)
                await message.ack()
            case admission.Refused(reason):
                log.warning("artifact refused", attempt_id=at.attempt_id, reason=reason)
                await self._refuse(at, announced, reason)
                await message.ack()
            case admission.NotYet(retry_after_s):
                await message.nack(delay=retry_after_s)

    async def _give_receipt(self, at: AttemptSubject, announced: ArtifactStored) -> None:
        receipt = Receipt(
            attempt_id=at.attempt_id,
            name=announced.name,
            digest=announced.digest,
            size=announced.size,
            media_type=announced.media_type,
            sender=at.runner_id,
            stored_at=now_text(),
        )
        async with db.transaction(self._engine) as connection:
            await artifacts.record(connection, receipts.sign(receipt, self._key))
        self._arrivals.announce(at.attempt_id)

    async def _refuse(self, at: AttemptSubject, announced: ArtifactStored, reason: str) -> None:
        async with db.transaction(self._engine) as connection:
            await artifacts.refuse(
                connection,
                attempt_id=at.attempt_id,
                name=_storable(announced.name),
                sender=at.runner_id,
                reason=_storable(reason),
            )
        self._arrivals.announce(at.attempt_id)

    async def _bury(self, message: NatsMessage, error: Rejected) -> None:
        raw = message.raw_message
        letter = artifacts.DeadLetter(
            stream_seq=raw.metadata.sequence.stream,
            published_at=raw.metadata.timestamp,
            subject=raw.subject,
            body=raw.data,
            code=error.code,
            reason=_storable(error.message),
        )
        async with db.transaction(self._engine) as connection:
            await artifacts.bury(connection, letter)
        try:
            await self._broker.publish(
                raw.data,
                subjects.dlq(subjects.PROOF_STORE),
                headers={"wfhub-subject": raw.subject, "wfhub-code": error.code},
                stream=subjects.DLQ_STREAM,
                timeout=DLQ_TIMEOUT_S,
            )
        except (nats.errors.Error, OSError) as e:
            raise RetryLater("dlq-down", f"the dead-letter stream did not answer: {e}") from e
        log.warning("dead letter", subject=raw.subject, error=error.code, reason=error.message)
        await message.reject()


async def _raw(message: NatsMessage) -> bytes:
    return bytes(message.body)


def _parsed(body: bytes) -> ArtifactStored:
    try:
        return ArtifactStored.model_validate_json(body)
    except ValidationError as e:
        first = e.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Rejected("message-malformed", f"ArtifactStored.{where}: {first['msg']}") from e


def _storable(text: str) -> str:
    return text.replace("\x00", "\ufffd")  # Postgres has no NUL in text


def _deliveries(message: NatsMessage) -> int:
    return int(message.raw_message.metadata.num_delivered)
