"""Dead letters of the proof-store: announcements that nobody can use, and requests that fail.

source  | what failed                                 | open from
ingest  | a message that is refused                   | the first time
ingest  | a message on which the handler raises       | the FAILURES_MAX-th time
rpc     | a request (seal, receipts)                  | the FAILURES_MAX-th time
Requests are asked again by who asked; those letters are for people to see, not to replay.
A replay of an announcement settles it again as its sender's, here: to publish it once more would
take the right to speak on every runner's subject. An outage is never counted.
Commands: replay_ingest_letter, discard_ingest_letter, from the API alone.
"""

import asyncio
from datetime import datetime

import nats.errors
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import broker, db, subjects
from wfhub_common.dead_letters import Buried, DeadLetters, Letter, Stored, code_of, described
from wfhub_common.errors import Rejected, RetryLater
from wfhub_common.log import get_logger
from wfhub_common.messages import DeadLetterDecided, DiscardDeadLetter, ReplayDeadLetter
from wfhub_common.sql import Connection

from wfhub_proof_store.admission import Admitted, NotYet, Refused
from wfhub_proof_store.settlement import Settlement

FAILURES_MAX = 5
FORGET_S = 3600.0
INGEST, RPC = "ingest", "rpc"
OUTAGES = (RetryLater, nats.errors.Error, OSError, TimeoutError)
LETTERS = DeadLetters("proofs")

log = get_logger(__name__)


def is_outage(error: Exception) -> bool:
    """Nothing of the message's: the database, the broker, the disk or the schema is not there."""
    return isinstance(error, OUTAGES) or db.is_unready(error)


class Letters:
    def __init__(self, engine: AsyncEngine, settlement: Settlement) -> None:
        self._engine, self._settlement = engine, settlement

    async def count(
        self, subject: str, body: bytes, error: Exception, *, seq: int, published_at: datetime
    ) -> Buried | None:
        """One message of the work queue, however often it is delivered."""
        refused = isinstance(error, Rejected)
        letter = Letter(
            source=INGEST,
            subject=subject,
            code=code_of(error),
            error=error.message if isinstance(error, Rejected) else described(error),
            body=body,
            sender=_sender(subject),
            same=f"{seq} {published_at.isoformat()}",
        )
        async with db.transaction(self._engine) as connection:
            failures_max = 1 if refused else FAILURES_MAX
            return await LETTERS.bury(connection, letter, failures_max=failures_max)

    async def count_request(self, failure: broker.Failure) -> None:
        if is_outage(failure.error):
            return
        letter = Letter(
            source=RPC,
            subject=failure.subject,
            code=code_of(failure.error),
            error=described(failure.error),
            body=failure.body,
            sender=_sender(failure.subject),
        )
        async with db.transaction(self._engine) as connection:
            await LETTERS.bury(connection, letter, failures_max=FAILURES_MAX)

    async def replay(self, sender: str, asked: ReplayDeadLetter) -> DeadLetterDecided:
        _check_sender(sender)

        async def work(connection: Connection) -> DeadLetterDecided:
            return await LETTERS.replay(connection, asked, self._again)

        return await db.retried(self._engine, work)

    async def discard(self, sender: str, asked: DiscardDeadLetter) -> DeadLetterDecided:
        _check_sender(sender)

        async def work(connection: Connection) -> DeadLetterDecided:
            return await LETTERS.discard(connection, asked)

        return await db.retried(self._engine, work)

    async def _again(self, letter: Stored) -> str:
        if letter.source != INGEST:
            raise Rejected(
                "not-replayable", "who asked asks again by itself: discard the letter", status=409
            )
        decision = await self._settlement.settle(
            letter.subject, letter.body, age_s=0.0, deliveries=1
        )
        match decision:
            case Admitted():
                return "the artifact has its receipt"
            case Refused(reason):
                raise Rejected("artifact-refused", reason)
            case NotYet():
                raise Rejected("blob-missing", "its blob is not here")


async def forgetting(engine: AsyncEngine) -> None:
    """Until cancelled: drop what is too old to matter."""
    while True:
        await asyncio.sleep(FORGET_S)
        try:
            async with db.transaction(engine) as connection:
                await LETTERS.forget_old(connection)
        except (RetryLater, DBAPIError) as e:
            log.warning("old dead letters not forgotten yet", why=str(e)[:300])


def _check_sender(sender: str) -> None:
    if sender != subjects.API:
        raise Rejected("not-allowed", f"{sender[:64]} may not decide dead letters", status=403)


def _sender(subject: str) -> str:
    """The fourth token of every subject that somebody speaks on."""
    parts = subject.split(".")
    return parts[3] if len(parts) > 3 else ""
