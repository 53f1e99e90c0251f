"""Fairness: within a pool, the project with the lowest virtual time and room goes next.

A unit leased adds 1/weight to its project's virtual time. A project that was idle joins at the
level of the busy ones, so that it neither saves up turns nor waits for old debts.
`running` never passes `running_limit`: both change only under the row's lock.
pool_project is locked last by every writer but a claim, which locks it first and then waits for
nothing (SKIP LOCKED), so that no circle can close.
"""

from collections.abc import Collection
from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

_JOIN = text("""
INSERT INTO sched.pool_project (pool, project_id, running_limit, weight)
SELECT :pool, project_id, running_limit, weight FROM sched.project WHERE project_id = :project_id
ON CONFLICT DO NOTHING
""")
_BUSY = """(pp.running > 0 OR EXISTS (SELECT FROM sched.unit u WHERE u.state = 'ready'
            AND u.pool = pp.pool AND u.project_id = pp.project_id))"""
# What is put into SQL text below are this module's own constants.
_IS_BUSY = text(
    f"SELECT {_BUSY} FROM sched.pool_project pp WHERE pool = :pool AND project_id = :project_id"  # noqa: S608
)
_LEVEL = text(f"""
-- To the level of the busy projects, or, where none is, to the furthest ever reached.
UPDATE sched.pool_project SET vtime = greatest(vtime, coalesce(
    (SELECT min(pp.vtime) FROM sched.pool_project pp
      WHERE pp.pool = :pool AND pp.project_id <> :project_id AND {_BUSY}),
    (SELECT max(pp.vtime) FROM sched.pool_project pp WHERE pp.pool = :pool)))
 WHERE pool = :pool AND project_id = :project_id
""")  # noqa: S608
_PICK = """
SELECT pp.project_id, pp.running_limit - pp.running AS room
  FROM sched.pool_project pp
 WHERE pp.pool = :pool AND pp.running < pp.running_limit
   AND pp.project_id <> ALL(CAST(:tried AS text[]))
   AND EXISTS (SELECT FROM sched.unit u WHERE u.state = 'ready' AND u.pool = pp.pool
                  AND u.project_id = pp.project_id AND u.run_at <= now()
                  AND u.kind = ANY(CAST(:kinds AS text[])))
 ORDER BY pp.vtime, pp.project_id LIMIT 1
   FOR UPDATE OF pp
"""
# First one that nobody holds; if there is none, wait for a busy one rather than answer "nothing".
_PICK_FREE, _PICK_WAIT = text(_PICK + " SKIP LOCKED"), text(_PICK)
_TAKE = text("""
UPDATE sched.pool_project
   SET running = running + :count, vtime = vtime + CAST(:count AS double precision) / weight
 WHERE pool = :pool AND project_id = :project_id
""")
_RELEASE = text("""
UPDATE sched.pool_project SET running = running - 1
 WHERE pool = :pool AND project_id = :project_id
""")


@dataclass(frozen=True)
class Turn:
    project_id: str
    room: int  # units the project may still have running


async def join(connection: AsyncConnection, pool: str, project_id: str) -> None:
    """Before a unit of the project is made ready by a new task."""
    at = {"pool": pool, "project_id": project_id}
    await connection.execute(_JOIN, at)
    if not (await connection.execute(_IS_BUSY, at)).scalar_one():
        await connection.execute(_LEVEL, at)


async def next_project(
    connection: AsyncConnection, pool: str, kinds: Collection[str], tried: Collection[str]
) -> Turn | None:
    """Whose turn it is, its row locked. `tried`: projects this claim found nothing in."""
    wanted = {"pool": pool, "kinds": list(kinds), "tried": list(tried)}
    for statement in (_PICK_FREE, _PICK_WAIT):
        row = (await connection.execute(statement, wanted)).one_or_none()
        if row is not None:
            return Turn(row.project_id, row.room)
    return None


async def take(connection: AsyncConnection, pool: str, project_id: str, count: int) -> None:
    await connection.execute(_TAKE, {"pool": pool, "project_id": project_id, "count": count})


async def release(connection: AsyncConnection, pool: str, project_id: str) -> None:
    await connection.execute(_RELEASE, {"pool": pool, "project_id": project_id})
