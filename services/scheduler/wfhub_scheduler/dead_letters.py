"""What the scheduler puts aside, so that it blocks nobody (wfhub_common.dead_letters has the rows).

source    | what failed                           | open from
rpc       | a request whose handler raised        | the RPC_FAILURES_MAX-th time, by its digest
seal      | a proof that was refused              | the first time: the refusal is final
sealing   | our own work on a task's proof        | the TURN_FAILURES_MAX-th time
schedule  | firing a schedule                     | the same
workflow  | bringing a workflow on                | the same
sweep     | ending a task whose time or lease is over | the same

The last four are turns: while its letter is open, the entity has none. An outage (database,
broker, network) is never counted. Open letters are decided by replays.py, and told on WFHUB_DLQ as
a hint.
A turn looks only at what is not put aside: `WHERE … AND {not_aside("workflow", "w.workflow_id")}`
and works on each through `guarded`.
"""

import json
from collections.abc import Awaitable, Callable

import nats.errors
from wfhub_common import broker, db, subjects
from wfhub_common.dead_letters import DeadLetters, Letter, code_of, described
from wfhub_common.errors import Rejected, RetryLater
from wfhub_common.log import get_logger
from wfhub_common.sql import Connection

from wfhub_scheduler.core import Core, Tx

__all__ = ["Letter"]

RPC_FAILURES_MAX = 5
TURN_FAILURES_MAX = 10
RPC, SEAL = "rpc", "seal"
SEALING, SCHEDULE, SWEEP = "sealing", "schedule", "sweep"
LETTERS = DeadLetters("sched")
OUTAGES = (RetryLater, nats.errors.Error, OSError, TimeoutError)

log = get_logger(__name__)


async def bury(connection: Connection, letter: Letter) -> None:
    """Open at once, in the caller's transaction: what is final, and kept for people to see."""
    await LETTERS.bury(connection, letter)


async def put_aside(core: Core, letter: Letter, *, failures_max: int) -> bool:
    """Count a failure; True: from now on it is put aside."""

    async def work(tx: Tx) -> bool:
        buried = await LETTERS.bury(tx.connection, letter, failures_max=failures_max)
        return buried is not None and buried.opened

    opened = await core.commit(work)
    if opened and core.connected:
        hint = {"source": letter.source, "subject": letter.subject, "code": letter.code}
        try:
            await core.broker.publish(json.dumps(hint).encode(), subjects.dlq(subjects.SCHEDULER))
        except (nats.errors.Error, OSError) as e:
            log.info("dead letter not told", error=str(e))
    return opened


async def count_request(core: Core, failure: broker.Failure) -> None:
    """A request failed; who asked is answered to ask again, and may do so for ever."""
    error = failure.error
    if isinstance(error, OUTAGES):
        return
    try:
        sender = subjects.rpc_sender(failure.subject)
    except Rejected:
        sender = ""
    letter = Letter(
        RPC, failure.subject, code_of(error), described(error), failure.body, sender=sender
    )
    await put_aside(core, letter, failures_max=RPC_FAILURES_MAX)


async def guarded(
    core: Core, source: str, subject: str, work: Callable[[], Awaitable[object]]
) -> bool:
    """`work` for one entity of a turn; True: it was done. A failure of its own is counted and not
    raised, so that the others have their turn. Ask for more at once only if some were done.
    Raises: what is an outage, for the whole turn to wait."""
    try:
        await work()
    except OUTAGES:
        raise
    except Exception as e:
        if db.is_unready(e):
            raise
        log.exception("turn failed for one", source=source, subject=subject)
        letter = Letter(source, subject, code_of(e), described(e))
        await put_aside(core, letter, failures_max=TURN_FAILURES_MAX)
        return False
    return True


def not_aside(source: str, column: str) -> str:
    """A condition of SQL: `column`, an entity's id, is not put aside. Both are our own words."""
    aside = "SELECT FROM sched.dead_letter aside WHERE aside.state = 'open'"
    return f"NOT EXISTS ({aside} AND aside.source = '{source}' AND aside.subject = {column})"
