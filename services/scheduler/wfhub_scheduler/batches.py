"""Atomic batches: events written to the stream all or none, and only behind the one we know.

JetStream's rules (nats-server 2.12): messages of a batch carry its id and their number from 1; the
last says commit and is answered; the first also names the stream's last sequence, which is checked
when the batch commits. At most 1000 messages, at most 10 s between two of them. How many bytes is
ours to bound: all of them have to be through before the answer is given up.
The fence is that sequence, not the dedupe window: a relay that lost its lock, or bytes of an
earlier try that were still in a buffer, are refused as a whole.
Raises: OutOfStep (compare and replay), NotStored, StreamMissing, and nats.errors of the connection.
"""

import json
import secrets
from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import nats.errors
from nats.aio.client import Client
from nats.js.api import Header
from wfhub_common.log import get_logger

from wfhub_scheduler.positions import Position

BATCH_MESSAGES_MAX = 1000
BATCH_BYTES_MAX = 8 * 1024 * 1024
ACK_TIMEOUT_S = 4.0
POS_HEADER = "wfhub-pos"
GENERATION_HEADER = "wfhub-generation"
_DUPLICATE_MESSAGE_ID = 10201
_BATCH_ID = Header.BATCH_ID.value
_BATCH_SEQUENCE = Header.BATCH_SEQUENCE.value
_BATCH_COMMIT = Header.BATCH_COMMIT.value
_EXPECTED_LAST_SEQUENCE = Header.EXPECTED_LAST_SEQUENCE.value
_MSG_ID = Header.MSG_ID.value
# No resources, no storage, a write that failed, and a batch of which not all was written.
_NOT_STORED = frozenset({10023, 10047, 10077, 10176})

log = get_logger(__name__)


class OutOfStep(Exception):
    """The stream is not where we thought."""


class StreamMissing(Exception):
    pass


class NotStored(Exception):
    """NATS does not write what it is given. One whose disk was full once goes on like that, and
    answers nothing, when there is room again."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"{why}: most likely the disk of NATS is or was full (`no space left` in its log): make"
            " room and restart NATS"
        )


class Entry(NamedTuple):
    """An event as it is published; `body` is a CloudEvent."""

    at: Position
    event_id: str
    subject: str
    body: bytes


def first_batch(entries: Sequence[Entry]) -> list[Entry]:
    """As many of the first as fit; one that is larger is a batch of its own."""
    sizes = accumulate(len(entry.body) for entry in entries)
    fit = sum(size <= BATCH_BYTES_MAX for size in sizes)
    return list(entries[: max(fit, 1)])


async def publish(client: Client, entries: Sequence[Entry], *, last_seq: int) -> int:
    """Write `entries` right behind `last_seq`; the sequence of the last one."""
    assert 0 < len(entries) <= BATCH_MESSAGES_MAX
    try:
        answer = await _send(client, entries, last_seq, with_ids=True)
        if _error_code(answer) == _DUPLICATE_MESSAGE_ID:
            # A purge empties a stream but not its dedupe window: these events are not in it (we
            # compared), yet their ids are still remembered. Subscribers dedupe by id themselves.
            log.info("events replayed within the dedupe window", count=len(entries))
            answer = await _send(client, entries, last_seq, with_ids=False)
    except nats.errors.NoRespondersError as e:
        raise StreamMissing from e
    except nats.errors.TimeoutError as e:
        raise NotStored(f"no answer to a batch within {ACK_TIMEOUT_S:.0f} s") from e
    if _error_code(answer) in _NOT_STORED:
        raise NotStored(str(answer["error"]))
    if "error" in answer or "seq" not in answer:
        raise OutOfStep(str(answer.get("error", "the batch was not acknowledged")))
    return int(str(answer["seq"]))


async def _send(
    client: Client, entries: Sequence[Entry], last_seq: int, *, with_ids: bool
) -> dict[str, object]:
    """Only the last message is waited for: what was wrong with an earlier one is its answer."""
    batch_id = secrets.token_hex(16)

    def headers(number: int, entry: Entry) -> str:
        """Lines, as NATS has them on the wire. Names and values are our own."""
        at = entry.at
        lines = (
            f"{_BATCH_ID}: {batch_id}\r\n{_BATCH_SEQUENCE}: {number}\r\n"
            f"{POS_HEADER}: {at.pos}\r\n{GENERATION_HEADER}: {at.generation}\r\n"
        )
        if with_ids:
            lines += f"{_MSG_ID}: {entry.event_id}\r\n"
        if number == 1:
            lines += f"{_EXPECTED_LAST_SEQUENCE}: {last_seq}\r\n"
        return lines

    if not client.is_connected:
        raise nats.errors.ConnectionClosedError
    *before, last = entries
    frames = b"".join(_frame(each, headers(n, each)) for n, each in enumerate(before, start=1))
    # Past `publish`, which checks and builds each header anew: a fifth of the relay's work. The
    # request below is written behind it.
    await client._send_command(frames)
    commits = dict(line.split(": ", 1) for line in headers(len(entries), last).splitlines())
    commits[_BATCH_COMMIT] = "1"
    answered = await client.request(last.subject, last.body, ACK_TIMEOUT_S, headers=commits)
    answer: dict[str, object] = json.loads(answered.data) if answered.data else {}
    return answer


def _frame(entry: Entry, headers: str) -> bytes:
    """A message with headers, as NATS has it on the wire."""
    head = f"NATS/1.0\r\n{headers}\r\n".encode()
    size = len(head) + len(entry.body)
    return b"HPUB %b %d %d\r\n%b%b\r\n" % (
        entry.subject.encode(),
        len(head),
        size,
        head,
        entry.body,
    )


def _error_code(answer: dict[str, object]) -> int:
    error = answer.get("error")
    return int(error.get("err_code", 0)) if isinstance(error, dict) else 0
