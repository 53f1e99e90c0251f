"""Log sources: where an attempt's log lines come from, as (log name, bytes) pieces in order.

`live` reads the stream WFHUB_LOGS with an ordered consumer of nats-py: ephemeral, kept in order
and re-made by the client after a gap, so there is no durable consumer to own (ADR on FastStream's
exceptions). `stored` reads the log artifacts of an ended attempt from the proof-store.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import NamedTuple

import nats.errors
import nats.js.errors
from nats.js import JetStreamContext
from wfhub_common import subjects
from wfhub_common.errors import RetryLater
from wfhub_common.messages import Receipt

from wfhub_api.proof_store import ProofStore

LOG_HEADER = "wfhub-log"  # agent | verify | base-verify | runner
LOG_SUFFIX = ".log"
POLL_S = 1.0
QUIET_S = 0.5  # nothing for so long: caught up


class Piece(NamedTuple):
    log: str
    data: bytes


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
            yield Piece((message.headers or {}).get(LOG_HEADER, "agent"), message.data)
            if not follow and message.metadata.num_pending == 0:
                return
    finally:
        await subscription.unsubscribe()


async def stored(store: ProofStore, artifacts: Iterable[Receipt]) -> AsyncIterator[Piece]:
    for receipt in logs_of(artifacts):
        async for chunk in store.blob(receipt.digest):
            yield Piece(receipt.name, chunk)


def logs_of(artifacts: Iterable[Receipt]) -> list[Receipt]:
    """The log artifacts, the agent's first."""
    logs = [receipt for receipt in artifacts if receipt.name.endswith(LOG_SUFFIX)]
    return sorted(logs, key=lambda receipt: (not receipt.name.startswith("agent"), receipt.name))
