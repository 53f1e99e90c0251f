"""NATS: what the gateway asks, answers and hears.

Asks `introspect` and `introspect_many` of the scheduler; answers `exchanges` (proof-store) and
`usage` (API) from the ledger; every gateway hears that an attempt ended and cuts what that attempt
has open.
"""

from faststream.nats import NatsBroker, NatsMessage
from pydantic import ValidationError
from wfhub_common import subjects
from wfhub_common.broker import ask, serve
from wfhub_common.flood import FloodGate
from wfhub_common.log import get_logger
from wfhub_common.messages import (
    AttemptEnded,
    AttemptsEnded,
    Exchanges,
    ExchangesOf,
    Introspect,
    IntrospectMany,
    TokenInfo,
    TokenInfos,
    Usage,
    UsageOf,
)

from wfhub_llm_gateway import cuts
from wfhub_llm_gateway.evidence import Evidence
from wfhub_llm_gateway.exchanger import Exchanger

QUEUE = "gateway"

log = get_logger(__name__)


async def introspect(broker: NatsBroker, token_sha256: str) -> TokenInfo:
    question = Introspect(token_sha256=token_sha256)
    return await ask(broker, subjects.GATEWAY, "introspect", question, TokenInfo)


async def introspect_many(broker: NatsBroker, digests: tuple[str, ...]) -> tuple[TokenInfo, ...]:
    question = IntrospectMany(token_sha256s=digests)
    answer = await ask(broker, subjects.GATEWAY, "introspect_many", question, TokenInfos)
    return answer.tokens


def register(broker: NatsBroker, evidence: Evidence, exchanger: Exchanger) -> None:
    async def exchanges(_sender: str, request: ExchangesOf) -> Exchanges:
        return await evidence.exchanges(request.attempt_id)

    async def usage(_sender: str, request: UsageOf) -> Usage:
        return await evidence.usage(request.task_id)

    serve(broker, "exchanges", ExchangesOf, exchanges, queue=QUEUE)
    serve(broker, "usage", UsageOf, usage, queue=QUEUE)

    gate = FloodGate()

    # No queue group: the streams to cut may be open in any gateway.
    @broker.subscriber(subjects.CTL_ATTEMPT_ENDED, decoder=_raw, no_reply=True)
    async def attempt_ended(body: bytes) -> None:
        try:
            ended(AttemptEnded.model_validate_json(body).attempt_id)
        except ValidationError:
            malformed(subjects.CTL_ATTEMPT_ENDED)

    @broker.subscriber(subjects.CTL_ATTEMPTS_ENDED, decoder=_raw, no_reply=True)
    async def attempts_ended(body: bytes) -> None:
        try:
            attempt_ids = AttemptsEnded.model_validate_json(body).attempt_ids
        except ValidationError:
            malformed(subjects.CTL_ATTEMPTS_ENDED)
            return
        for attempt_id in attempt_ids:
            ended(attempt_id)

    def ended(attempt_id: str) -> None:
        exchanger.tokens.ended(attempt_id)
        exchanger.provider.forget(attempt_id)
        exchanger.tapes.forget(attempt_id)
        cut = exchanger.streams.cut_attempt(attempt_id, cuts.attempt_ended())
        log.info("attempt ended", attempt_id=attempt_id, streams_cut=cut)

    def malformed(subject: str) -> None:
        if (unsaid := gate.admit("malformed")) is not None:
            log.warning("malformed hint ignored", subject=subject, unsaid=unsaid)


async def _raw(message: NatsMessage) -> bytes:
    return bytes(message.body)
