"""Command `update_pool`: how much runs in a pool, of all projects, and whether it is paused.

Runners name their pool when they claim, tasks in their spec; a pool is there once a task or an
operator named it. A change waits for the claim at work and holds for every later one.
Raises: Rejected (422 `pool-limit-unclear`).
"""

from sqlalchemy import text
from wfhub_common.errors import Rejected
from wfhub_common.messages import Pool, UpdatePool

from wfhub_scheduler.core import Core, Tx

_CHANGE = text("""
INSERT INTO sched.pool AS p (pool, running_limit, paused)
VALUES (:pool, :running_limit, coalesce(:paused, false))
ON CONFLICT (pool) DO UPDATE
   SET running_limit = CASE WHEN NOT :unlimited
                            THEN coalesce(excluded.running_limit, p.running_limit) END,
       paused = coalesce(:paused, p.paused)
RETURNING pool, running_limit, paused
""")


async def update_pool(core: Core, command: UpdatePool) -> Pool:
    if command.unlimited and command.running_limit is not None:
        raise Rejected("pool-limit-unclear", "give a running_limit or unlimited, not both")

    async def work(tx: Tx) -> Pool:
        row = (await tx.connection.execute(_CHANGE, command.model_dump())).one()
        tx.after.units_ready = True
        return Pool(**row)

    return await core.commit(work)
