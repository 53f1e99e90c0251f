"""Dead letters: what failed again and again, one row a failure, visible and decided by people.

A row counts (`counting`, shown to nobody) until it failed `failures_max` times, then it is `open`;
a person has it replayed or discarded, once. The same failure has one live row, by its digest.
What is stored is bounded, a sender's share of it too, and secrets are taken out by their shapes;
a body that is not whole cannot be replayed.
A service keeps its letters in `<schema>.dead_letter` (its migration has the columns).
Raises: Rejected (404 `dead-letter-unknown`; 409 `replay-refused`, `not-replayable`), RetryLater
(`replay-failed`: it failed again, the letter stays open).
"""

import base64
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from wfhub_common import ids
from wfhub_common.errors import Rejected, RetryLater, WfhubError
from wfhub_common.flood import FloodGate
from wfhub_common.log import get_logger
from wfhub_common.messages import DeadLetterDecided, DiscardDeadLetter, ReplayDeadLetter
from wfhub_common.redaction import redacted
from wfhub_common.sql import Connection

LIVE_ROWS_MAX = 1000  # of one source and sender: what comes then is only logged
BODY_BYTES_MAX = 256 * 1024
ERROR_CHARS_MAX = 2000
SUBJECT_CHARS_MAX = 300
OUTCOME_CHARS_MAX = 500
COUNTING_FOR = "1 hour"  # a failure later than that is the first again
DECIDED_FOR = "90 days"

log = get_logger(__name__)

_COUNT = """
INSERT INTO {schema}.dead_letter AS d
       (dead_letter_id, source, sender, subject, digest, code, error, body, body_is_base64, whole,
        state)
SELECT :dead_letter_id, :source, :sender, :subject, :digest, :code, :error, :body,
       :body_is_base64, :whole,
       CASE WHEN CAST(:failures_max AS integer) <= 1 THEN 'open' ELSE 'counting' END
 WHERE EXISTS (SELECT FROM {schema}.dead_letter
                WHERE source = :source AND digest = :digest AND state IN ('counting', 'open'))
    OR :live_rows_max > (SELECT count(*) FROM (
           SELECT FROM {schema}.dead_letter
            WHERE source = :source AND sender = :sender AND state IN ('counting', 'open')
            LIMIT :live_rows_max) live)
ON CONFLICT (source, digest) WHERE state IN ('counting', 'open') DO UPDATE
   SET failures = CASE WHEN d.state = 'counting'
                        AND d.last_at < now() - CAST('{counting_for}' AS interval)
                       THEN 1 ELSE d.failures + 1 END,
       state = CASE WHEN d.state = 'counting'
                     AND (d.last_at < now() - CAST('{counting_for}' AS interval)
                          OR d.failures + 1 < :failures_max)
                    THEN 'counting' ELSE 'open' END,
       code = excluded.code, error = excluded.error, last_at = now()
RETURNING dead_letter_id, state, failures
"""
_LETTER = """
SELECT dead_letter_id, source, sender, subject, body, body_is_base64, whole, state, outcome
  FROM {schema}.dead_letter
 WHERE dead_letter_id = :dead_letter_id AND state <> 'counting' FOR UPDATE
"""
_DECIDE = """
UPDATE {schema}.dead_letter
   SET state = :state, decided_at = now(), decided_by = :by, outcome = :outcome
 WHERE dead_letter_id = :dead_letter_id AND state = 'open'
"""
_FORGET = """
DELETE FROM {schema}.dead_letter
 WHERE (state = 'counting' AND last_at < now() - CAST('{counting_for}' AS interval))
    OR (state IN ('replayed', 'discarded')
        AND decided_at < now() - CAST('{decided_for}' AS interval))
"""


@dataclass(frozen=True)
class Letter:
    """`subject`: what it was about, a NATS subject or an id; `sender`: whose share it counts to;
    `body`: what to do again, as it came; `same`: what makes it the same failure, if not these."""

    source: str
    subject: str
    code: str
    error: str
    body: str | bytes = ""
    sender: str = ""
    same: str = ""


@dataclass(frozen=True)
class Buried:
    """`opened`: by this very failure."""

    dead_letter_id: str
    failures: int
    is_open: bool
    opened: bool


@dataclass(frozen=True)
class Stored:
    """A letter as it is replayed."""

    dead_letter_id: str
    source: str
    sender: str
    subject: str
    body: bytes


Again = Callable[[Stored], Awaitable[str]]  # does it again and says what came of it


class DeadLetters:
    def __init__(self, schema: str) -> None:
        def sql(statement: str) -> Any:
            times = {"counting_for": COUNTING_FOR, "decided_for": DECIDED_FOR}
            return text(statement.format(schema=schema, **times))

        self._count, self._letter, self._decide = sql(_COUNT), sql(_LETTER), sql(_DECIDE)
        self._forget = sql(_FORGET)
        self._gate = FloodGate()

    async def bury(
        self, connection: Connection, letter: Letter, *, failures_max: int = 1
    ) -> Buried | None:
        """Count a failure, in the caller's transaction. None: too many, it is not kept."""
        row = {**_row(letter), "failures_max": failures_max, "live_rows_max": LIVE_ROWS_MAX}
        found = (await connection.execute(self._count, row)).one_or_none()
        if found is None:
            fields = {"source": letter.source, "sender": letter.sender, "code": letter.code}
            if (unsaid := self._gate.admit(letter.source, letter.sender)) is not None:
                log.error("too many dead letters, one is not kept", **fields, unsaid=unsaid)
            return None
        is_open = found.state == "open"
        opened = is_open and found.failures == max(failures_max, 1)
        if opened:
            log.error(
                "dead letter",
                dead_letter_id=found.dead_letter_id,
                failures=found.failures,
                **{name: row[name] for name in ("source", "subject", "code", "error")},
            )
        return Buried(found.dead_letter_id, found.failures, is_open, opened)

    async def replay(
        self, connection: Connection, asked: ReplayDeadLetter, again: Again
    ) -> DeadLetterDecided:
        """The row's lock is held while it is done: who asks at the same time finds it decided."""
        row = await self._locked(connection, asked.dead_letter_id)
        if row.state != "open":
            return _repeated(row)
        outcome = await _done_again(row, again)
        return await self._decided(connection, row, "replayed", asked.by, outcome)

    async def discard(self, connection: Connection, asked: DiscardDeadLetter) -> DeadLetterDecided:
        row = await self._locked(connection, asked.dead_letter_id)
        if row.state != "open":
            return _repeated(row)
        return await self._decided(connection, row, "discarded", asked.by, "")

    async def forget_old(self, connection: Connection) -> None:
        await connection.execute(self._forget)

    async def _locked(self, connection: Connection, dead_letter_id: str) -> Any:
        wanted = {"dead_letter_id": _storable(dead_letter_id)}
        row = (await connection.execute(self._letter, wanted)).one_or_none()
        if row is None:
            raise Rejected(
                "dead-letter-unknown", f"there is no dead letter {dead_letter_id!r}", status=404
            )
        return row

    async def _decided(
        self,
        connection: Connection,
        row: Any,
        state: Literal["replayed", "discarded"],
        by: str,
        outcome: str,
    ) -> DeadLetterDecided:
        outcome = _storable(redacted(outcome))[:OUTCOME_CHARS_MAX]
        values = {"dead_letter_id": row.dead_letter_id, "state": state, "by": _storable(by)}
        await connection.execute(self._decide, {**values, "outcome": outcome})
        log.warning("dead letter decided", **values, outcome=outcome)
        return DeadLetterDecided(dead_letter_id=row.dead_letter_id, state=state, outcome=outcome)


def code_of(error: BaseException) -> str:
    return error.code if isinstance(error, WfhubError) else "internal"


def described(error: BaseException) -> str:
    """Without the statement and its parameters, which hold what people sent."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    return f"{type(cause).__name__}: {cause}"


async def _done_again(row: Any, again: Again) -> str:
    if not row.whole:
        raise Rejected(
            "not-replayable", "what is stored of it is not whole: discard the letter", status=409
        )
    body = base64.b64decode(row.body) if row.body_is_base64 else row.body.encode()
    try:
        return await again(Stored(row.dead_letter_id, row.source, row.sender, row.subject, body))
    except RetryLater:
        raise
    except Rejected as e:
        if e.code == "not-replayable":
            raise
        raise _refused_again(e) from e
    except WfhubError as e:
        raise _refused_again(e) from e
    except Exception as e:
        log.exception("replay failed", dead_letter_id=row.dead_letter_id)
        why = redacted(described(e))[:200]
        raise RetryLater("replay-failed", f"it failed again ({why}); it can be asked again") from e


def _refused_again(error: WfhubError) -> Rejected:
    return Rejected(
        "replay-refused",
        f"it was refused again ({error}): mend that and replay it, or discard the letter",
        status=409,
    )


def _repeated(row: Any) -> DeadLetterDecided:
    return DeadLetterDecided(
        dead_letter_id=row.dead_letter_id, state=row.state, outcome=row.outcome, repeated=True
    )


def kept(body: bytes) -> bytes:
    """What is stored of it: cut, and without what looks like a secret."""
    # Any bytes survive this decoding, so that a secret is found in what is no text as well.
    text_ = redacted(body[:BODY_BYTES_MAX].decode("utf-8", "surrogateescape"))
    return text_.encode("utf-8", "surrogateescape")


def _row(letter: Letter) -> dict[str, Any]:
    raw = letter.body.encode("utf-8", "replace") if isinstance(letter.body, str) else letter.body
    stored = kept(raw)
    is_text = _is_text(stored)
    same = letter.same or f"{letter.subject}\n{raw!r}"
    return {
        "dead_letter_id": ids.new_dead_letter_id(),
        "source": letter.source,
        "sender": _storable(letter.sender)[:SUBJECT_CHARS_MAX],
        "subject": _storable(letter.subject)[:SUBJECT_CHARS_MAX],
        "digest": hashlib.sha256(same.encode("utf-8", "surrogatepass")).hexdigest(),
        "code": letter.code,
        "error": _storable(redacted(letter.error))[:ERROR_CHARS_MAX],
        "body": (stored if is_text else base64.b64encode(stored)).decode(),
        "body_is_base64": not is_text,
        "whole": stored == raw,
    }


def _is_text(raw: bytes) -> bool:
    """As Postgres takes it: UTF-8 without U+0000."""
    try:
        return "\x00" not in raw.decode()
    except UnicodeDecodeError:
        return False


def _storable(text: str) -> str:
    """As Postgres takes it: no U+0000, no lone surrogate."""
    return text.replace("\x00", "\ufffd").encode("utf-8", "replace").decode()
