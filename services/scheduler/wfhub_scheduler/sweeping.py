"""Sweeping in batches, of which one poisoned row takes no other with it.

A batch is one transaction. Where it fails for no outage, each of its tasks is swept alone: the one
that is why is counted, and in the end put aside (dead_letters.guarded); the others are done.
Raises: what is an outage; what failed before any task was found.
"""

from collections.abc import Awaitable, Callable
from functools import partial

from wfhub_common import db
from wfhub_common.log import get_logger

from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.dead_letters import OUTAGES, SWEEP, guarded, not_aside

# Of the task `t`: not put aside, and the one that is asked for, if one is.
SWEPT = f"""{not_aside(SWEEP, "t.task_id")}
   AND (CAST(:only AS text) IS NULL OR t.task_id = CAST(:only AS text))"""

# Works on what is due, of one task where it is named; notes the tasks that it found before it does.
Batch = Callable[[Tx, str | None, list[str]], Awaitable[int]]

log = get_logger(__name__)


async def swept(core: Core, batch: Batch) -> int:
    """What `batch` answers: how many it did."""
    found: list[str] = []

    async def together(tx: Tx) -> int:
        found.clear()
        return await batch(tx, None, found)

    async def alone(task_id: str) -> None:
        await core.commit(lambda tx: batch(tx, task_id, []))

    try:
        return await core.commit(together)
    except OUTAGES:
        raise
    except Exception as e:
        if db.is_unready(e) or not found:
            raise
        log.warning("swept together failed, each alone now", tasks=len(found), error=repr(e)[:500])
    done = 0
    for task_id in tuple(found):
        done += await guarded(core, SWEEP, task_id, partial(alone, task_id))
    return done
