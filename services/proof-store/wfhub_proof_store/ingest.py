"""Ingest: each ArtifactStored on the work queue becomes a receipt, a refusal, or a dead letter.

A message is acknowledged after the commit: a crash in between repeats it, and the repeat changes
nothing. What cannot be decided now (blob not here yet, database down) goes back with a delay, and
so does a message on which the handler fails, until it has failed often enough (letters.py). A
runner's wait for their blobs in a place of their own (waiting.py).
Order for a dead letter: row, copy on the DLQ, terminate.
"""

import time
from datetime import UTC, datetime

import nats.errors
from faststream import AckPolicy
from faststream.nats import JStream, NatsBroker, NatsMessage, PullSub
from nats.js.api import ConsumerConfig
from wfhub_common import dead_letters, subjects, tracing
from wfhub_common.errors import Rejected, RetryLater
from wfhub_common.flood import FloodGate
from wfhub_common.log import get_logger

from wfhub_proof_store import admission, waiting
from wfhub_proof_store.admission import Admitted, NotYet, Refused
from wfhub_proof_store.letters import Letters, is_outage
from wfhub_proof_store.metrics import Metrics
from wfhub_proof_store.settlement import Settlement, claimed

DURABLE = "proof-store"
WORKERS = 32  # messages at once in one process; those at the same step share a transaction
PULLS = 8  # requests for the next message that are open: one alone is a round trip a message
ACK_WAIT_S = 30.0
ACK_PENDING_MAX = 10_000  # messages of missing blobs wait here and must not hold up the others
DLQ_TIMEOUT_S = 5.0
OUTCOMES = {Admitted: "receipt", Refused: "refused"}  # as metrics call them

log = get_logger(__name__)


class Ingest:
    def __init__(
        self,
        *,
        broker: NatsBroker,
        settlement: Settlement,
        letters: Letters,
        metrics: Metrics | None = None,
    ) -> None:
        self._broker, self._settlement, self._letters = broker, settlement, letters
        self._metrics = metrics or Metrics()
        self._gate = FloodGate()
        self._waiting = waiting.Waiting()

    def subscribe(self, *, inbox_user: str) -> None:
        """Declare the durable consumer; it starts with the broker, once the stream exists."""
        for _ in range(PULLS):
            subscriber = self._broker.subscriber(
                subjects.INGEST_FILTER,
                stream=JStream(subjects.INGEST_STREAM, declare=False),
                durable=DURABLE,
                pull_sub=PullSub(batch_size=1),  # a larger batch waits until it is full
                max_workers=WORKERS // PULLS,
                ack_policy=AckPolicy.MANUAL,
                config=ConsumerConfig(
                    ack_wait=ACK_WAIT_S, max_ack_pending=ACK_PENDING_MAX, max_deliver=-1
                ),
                inbox_prefix=f"_INBOX.{inbox_user}.".encode(),  # FastStream's default is not ours
                decoder=_whole,
            )
            subscriber(self.handle)

    async def handle(self, message: NatsMessage) -> None:
        parent = tracing.parsed(message.headers.get(tracing.HEADER))
        if not parent:
            await self._handle(message)
            return
        with tracing.within(parent), tracing.span("ingest", tracing.SERVER):
            await self._handle(message)

    async def _handle(self, message: NatsMessage) -> None:
        try:
            await self._settle(message)
        except Exception as e:  # noqa: BLE001 - a message must come back, whatever it was
            self._metrics.ingested("postponed" if is_outage(e) else "failed")
            if not is_outage(e):
                self._say("ingest failed", message, type(e).__name__, exc_info=e)
                await self._failed(message, e)
                return
            self._say("ingest postponed", message, dead_letters.code_of(e), reason=str(e)[:500])
            await message.nack(delay=admission.backoff_s(_deliveries(message)))

    async def _settle(self, message: NatsMessage) -> None:
        raw = message.raw_message
        age = datetime.now(UTC) - raw.metadata.timestamp
        try:
            decision = await self._settlement.settle(
                raw.subject, raw.data, age_s=age.total_seconds(), deliveries=_deliveries(message)
            )
        except Rejected as e:
            self._metrics.ingested("refused")
            await self._bury(message, e)
            return
        runner_id = subjects.parse_ingest(raw.subject).runner_id
        seq = raw.metadata.sequence.stream
        if isinstance(decision, NotYet):
            waits = self._waiting.takes(runner_id, seq, time.monotonic())
            self._metrics.ingested("not-yet" if waits else "dropped")
            if waits:
                await message.nack(delay=decision.retry_after_s)
                return
            reason = f"{waiting.WAITING_OF_A_RUNNER_MAX} of this runner wait for their blobs"
            self._say("announcement dropped", message, "too-many-waiting", reason=reason)
            await message.reject()
            return
        self._waiting.ended(runner_id, seq)
        self._metrics.ingested(OUTCOMES[type(decision)])
        match decision:
            case Refused(reason):
                self._say("artifact refused", message, "artifact-refused", reason=reason)
        await message.ack()

    async def _failed(self, message: NatsMessage, error: Exception) -> None:
        try:
            await self._bury(message, error)
        except Exception as e:  # noqa: BLE001 - not counted this time: it comes back
            log.warning("ingest failure not counted", why=str(e)[:500])
            await message.nack(delay=admission.RETRY_MAX_S)

    async def _bury(self, message: NatsMessage, error: Exception) -> None:
        raw = message.raw_message
        buried = await self._letters.count(
            raw.subject,
            raw.data,
            error,
            seq=raw.metadata.sequence.stream,
            published_at=raw.metadata.timestamp,
        )
        refused = isinstance(error, Rejected)
        if buried is None and not refused:  # too many to keep: not to be lost for that
            await message.nack(delay=admission.RETRY_MAX_S)
            return
        if buried is not None and not buried.is_open:
            await message.nack(delay=admission.backoff_s(buried.failures + 2))
            return
        if buried is not None:
            if not refused:
                await self._tell_runner(message, buried.dead_letter_id)
            await self._copy(message, buried.dead_letter_id, dead_letters.code_of(error))
        await message.reject()

    async def _tell_runner(self, message: NatsMessage, dead_letter_id: str) -> None:
        """It waits for a receipt that will not come, unless the letter is replayed."""
        raw = message.raw_message
        reason = f"the proof-store fails on this announcement; see dead letter {dead_letter_id}"
        try:
            at, announced = claimed(raw.subject, raw.data)
            await self._settlement.refuse(at, announced.name, reason)
        except Exception as e:  # noqa: BLE001 - the letter is what counts
            log.warning("refusal not recorded", dead_letter_id=dead_letter_id, why=str(e)[:500])

    async def _copy(self, message: NatsMessage, dead_letter_id: str, code: str) -> None:
        raw = message.raw_message
        headers = {"Nats-Msg-Id": dead_letter_id, "wfhub-subject": raw.subject, "wfhub-code": code}
        try:
            await self._broker.publish(
                dead_letters.kept(raw.data),
                subjects.dlq(subjects.PROOF_STORE),
                headers=headers,
                stream=subjects.DLQ_STREAM,
                timeout=DLQ_TIMEOUT_S,
            )
        except (nats.errors.Error, OSError) as e:
            raise RetryLater("dlq-down", f"the dead-letter stream did not answer: {e}") from e

    def _say(self, event: str, message: NatsMessage, code: str, **fields: object) -> None:
        subject = message.raw_message.subject
        sender = ".".join(subject.split(".")[:4])
        if (unsaid := self._gate.admit(event, sender, code)) is not None:
            log.warning(event, subject=subject, error=code, unsaid=unsaid, **fields)


async def _whole(message: NatsMessage) -> NatsMessage:
    return message


def _deliveries(message: NatsMessage) -> int:
    return int(message.raw_message.metadata.num_delivered)
