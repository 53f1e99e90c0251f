"""What the service needs before it can work, waited for; and the stream, watched while it does.

Waits are bounded per try and go on until it is there: a supervisor starts services in any order.
A pull subscriber stays deaf on a recreated stream or consumer, so the process ends then and its
supervisor starts it anew.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime

import nats.errors
from nats.js import JetStreamContext
from nats.js.errors import APIError, NotFoundError
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import signing, subjects
from wfhub_common.errors import RetryLater
from wfhub_common.log import get_logger
from wfhub_common.service import Stop

from wfhub_proof_store import ingest, transparency

RETRY_FIRST_S = 0.1
RETRY_MAX_S = 2.0
WATCH_S = 2.0

log = get_logger(__name__)


async def database(engine: AsyncEngine, key: signing.PrivateKey) -> None:
    """Returns when the schema is there and its checkpoint is signed by our key."""

    async def look() -> str:
        try:
            await transparency.ensure_checkpoint(engine, key)
        except RetryLater as e:
            return e.message
        except ProgrammingError as e:
            return f"run `wfhub-proof-store migrate` first: {e.orig}"
        except DBAPIError as e:  # no such database, wrong password
            return str(e.orig)
        return ""

    await _until_there("waiting for the database", look)


async def ingest_stream(js: JetStreamContext) -> datetime:
    """Returns when the scheduler has made the stream, with the time it did."""
    created: list[datetime] = []

    async def look() -> str:
        try:
            created.append(await _created(js))
        except (nats.errors.Error, APIError, OSError) as e:
            return f"{subjects.INGEST_STREAM}: {e}"
        return ""

    await _until_there("waiting for the scheduler to make the ingest stream", look)
    return created[0]


async def watch(js: JetStreamContext, created: datetime, stop: Stop) -> None:
    """Ends the process when the stream or our consumer is no longer the one subscribed to."""
    while not stop.event.is_set():
        await asyncio.sleep(WATCH_S)
        try:
            if await _created(js) != created:
                stop("the ingest stream was recreated")
            await js.consumer_info(subjects.INGEST_STREAM, ingest.DURABLE)
        except NotFoundError:
            stop("the ingest stream or its consumer is gone")
        except (nats.errors.Error, APIError, OSError):
            log.warning(
                "cannot look at the ingest stream"
            )  # reconnecting, or no leader: look again


async def _created(js: JetStreamContext) -> datetime:
    info = await js.stream_info(subjects.INGEST_STREAM)
    assert info.created is not None
    return info.created


async def _until_there(what: str, look: Callable[[], Awaitable[str]]) -> None:
    wait_s = RETRY_FIRST_S
    while missing := await look():
        log.info(what, reason=missing)
        await asyncio.sleep(wait_s)
        wait_s = min(RETRY_MAX_S, wait_s * 2)
