"""Log sources: where an attempt's log lines come from, as pieces in order.

`live` reads the stream WFHUB_LOGS with an ordered consumer of nats-py: ephemeral, kept in order
and re-made by the client after a gap, so there is no durable consumer to own (ADR on FastStream's
exceptions). `stored` reads the log artifacts of an ended attempt from the proof-store.
"""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple

import nats.errors
import nats.js.errors
from nats.js import JetStreamContext
from wfhub_common import limits, subjects
from wfhub_common.errors import RetryLater
from wfhub_common.messages import Receipt

from wfhub_api.proof_store import ProofStore

LOG_SUFFIX = ".log"
POLL_S = 1.0
QUIET_S = 0.5  # nothing for so long: caught up
AT_DIGITS_MAX = 15


class Piece(NamedTuple):
    """`at`: how many bytes of the log come before it; None: of what was left out nobody knows how
    many there were."""

    attempt_id: str
    log: str
    data: bytes
    at: int | None


async def live(
    js: JetStreamContext, attempt_id: str, *, follow: bool, ended: Callable[[], Awaitable[bool]]
) -> AsyncIterator[Piece]:
    """What the stream has of the attempt; with `follow`, on until `ended()` and caught up."""
    try:
        subscription = await js.subscribe(
            subjects.log_filter(attempt_id), stream=subjects.LOGS_STREAM, ordered_consumer=True
        )
    except nats.js.errors.NotFoundError:
        return  # no stream yet: nothing was logged
    except (nats.errors.Error, TimeoutError, OSError) as e:
        raise RetryLater("broker-down", f"cannot read live logs from the broker: {e}") from e
    counted: Counter[str] = Counter()
    try:
        over = not follow
        while True:
            try:
                message = await subscription.next_msg(timeout=QUIET_S if over else POLL_S)
            except (TimeoutError, nats.errors.TimeoutError):
                if over:
                    return
                over = await ended()
                continue
            headers = message.headers or {}
            log = headers.get(subjects.LOG_HEADER, "agent")
            at = _at(headers, counted[log])
            counted[log] = at + len(message.data)
            yield Piece(attempt_id, log, message.data, at)
            if not follow and message.metadata.num_pending == 0:
                return
    finally:
        await subscription.unsubscribe()


def _at(headers: Mapping[str, str], counted: int) -> int:
    """A runner of the version before does not say."""
    told = headers.get(subjects.LOG_AT_HEADER, "")
    return int(told) if told.isdecimal() and len(told) <= AT_DIGITS_MAX else counted


async def stored(
    store: ProofStore, attempt_id: str, artifacts: Iterable[Receipt]
) -> AsyncIterator[Piece]:
    for receipt in logs_of(artifacts):
        whole_until = receipt.size
        if receipt.size > limits.LOG_BYTES_MAX:  # head and tail of a longer one
            whole_until = limits.LOG_BYTES_MAX // 2
        at = 0
        async for chunk in store.blob(receipt.digest):
            head = chunk[: max(whole_until - at, 0)]
            if head:
                yield Piece(attempt_id, receipt.name, head, at)
            if rest := chunk[len(head) :]:
                yield Piece(attempt_id, receipt.name, rest, None)
            at += len(chunk)


def logs_of(artifacts: Iterable[Receipt]) -> list[Receipt]:
    """The log artifacts, the agent's first."""
    logs = [receipt for receipt in artifacts if receipt.name.endswith(LOG_SUFFIX)]
    return sorted(logs, key=lambda receipt: (not receipt.name.startswith("agent"), receipt.name))
