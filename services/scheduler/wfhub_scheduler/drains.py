"""Command `drain_runner`: a runner gets nothing new and ends what it has, until it is undone.

It outlives a restart of the runner: only the command undoes it. Answered after the claim at work,
if any; no later one gives the runner anything.
Raises: Rejected (404 `runner-unknown`).
"""

from sqlalchemy import text
from wfhub_common.errors import Rejected
from wfhub_common.log import get_logger
from wfhub_common.messages import Drained, DrainRunner

from wfhub_scheduler import stored_json
from wfhub_scheduler.core import Core, Tx

log = get_logger(__name__)

_DRAIN = text("UPDATE sched.runner SET draining = :drain WHERE runner_id = :runner_id")
_RUNNING = text("""
SELECT count(*) FROM sched.attempt
 WHERE runner_id = :runner_id AND state IN ('leased', 'running', 'verifying')
""")


async def drain_runner(core: Core, command: DrainRunner) -> Drained:
    at = {"runner_id": stored_json.clean(command.runner_id)}

    async def work(tx: Tx) -> Drained:
        found = await tx.connection.execute(_DRAIN, {**at, "drain": command.drain})
        if found.rowcount == 0:
            raise Rejected(
                "runner-unknown",
                f"no runner {command.runner_id[:64]!r} ever registered here",
                status=404,
            )
        running = (await tx.connection.execute(_RUNNING, at)).scalar_one()
        tx.after.units_ready = not command.drain
        return Drained(runner_id=command.runner_id, draining=command.drain, running=running)

    drained = await core.commit(work)
    log.info("runner drained" if command.drain else "runner undrained", **at)
    return drained
