"""Atomic batches: events written to the stream all or none, and only behind the one we know.

JetStream's rules (nats-server 2.12): messages of a batch carry its id and their number from 1; the
last says commit and is answered; the first also names the stream's last sequence, which is checked
when the batch commits. At most 1000 messages, at most 10 s between two of them.
The fence is that sequence, not the dedupe window: a relay that lost its lock, or bytes of an
earlier try that were still in a buffer, are refused as a whole.
Raises: OutOfStep (compare and replay), StreamMissing, and nats.errors of the connection.
"""

import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

import nats.errors
from faststream.nats import NatsBroker
from nats.js.api import Header
from wfhub_common.log import get_logger
from wfhub_common.messages import CloudEvent

BATCH_MESSAGES_MAX = 500
ACK_TIMEOUT_S = 5.0
POS_HEADER = "wfhub-pos"
GENERATION_HEADER = "wfhub-generation"
_DUPLICATE_MESSAGE_ID = 10201

log = get_logger(__name__)


class OutOfStep(Exception):
    """The stream is not where we thought."""


class StreamMissing(Exception):
    pass


@dataclass(frozen=True)
class Entry:
    subject: str
    event: CloudEvent


async def publish(broker: NatsBroker, entries: Sequence[Entry], *, last_seq: int) -> int:
    """Write `entries` right behind `last_seq`; the sequence of the last one."""
    assert 0 < len(entries) <= BATCH_MESSAGES_MAX
    try:
        answer = await _send(broker, entries, last_seq, with_ids=True)
        if _error_code(answer) == _DUPLICATE_MESSAGE_ID:
            # A purge empties a stream but not its dedupe window: these events are not in it (we
            # compared), yet their ids are still remembered. Subscribers dedupe by id themselves.
            log.info("events replayed within the dedupe window", count=len(entries))
            answer = await _send(broker, entries, last_seq, with_ids=False)
    except nats.errors.NoRespondersError as e:
        raise StreamMissing from e
    if "error" in answer:
        raise OutOfStep(str(answer["error"]))
    return int(str(answer["seq"]))


async def _send(
    broker: NatsBroker, entries: Sequence[Entry], last_seq: int, *, with_ids: bool
) -> dict[str, object]:
    batch_id = secrets.token_hex(16)
    answer: dict[str, object] = {}
    for number, entry in enumerate(entries, start=1):
        event = entry.event
        headers = {
            Header.BATCH_ID.value: batch_id,
            Header.BATCH_SEQUENCE.value: str(number),
            POS_HEADER: str(event.wfhubpos),
            GENERATION_HEADER: str(event.wfhubgeneration),
        }
        if with_ids:
            headers[Header.MSG_ID.value] = event.id
        if number == 1:
            headers[Header.EXPECTED_LAST_SEQUENCE.value] = str(last_seq)
        if number == len(entries):
            headers[Header.BATCH_COMMIT.value] = "1"
        body = event.model_dump_json().encode()
        if number in (1, len(entries)):  # the first to learn early that nobody is there
            message = await broker.request(
                body, entry.subject, headers=headers, timeout=ACK_TIMEOUT_S
            )
            answer = json.loads(message.body) if message.body else {}
            if "error" in answer:
                return answer
        else:
            await broker.publish(body, entry.subject, headers=headers)
    return answer


def _error_code(answer: dict[str, object]) -> int:
    error = answer.get("error")
    return int(error.get("err_code", 0)) if isinstance(error, dict) else 0
