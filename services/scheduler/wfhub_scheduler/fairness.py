"""Fairness: whose turn it is in a pool, and how many units each project may start.

Start-time fair queueing: a unit started adds 1/weight to its project's virtual time, and the
project with the lowest goes next. The pool's own virtual time is the start of the last turn given;
a project that was idle, paused or full counts from there, so that it neither saves up turns nor
waits for old debts.

What runs is counted, not kept: the units that are leased, of a project over all pools, of a pool
over all projects. Claims of a pool go one at a time (its row is locked), and hold a lock on each
project that they start something of: nobody else raises what they counted. Whatever ends work only
lowers it, and locks nothing here.
"""

import heapq
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import text
from wfhub_common.messages import UnitKind
from wfhub_common.sql import Connection

# While a pause lasts only this is started: it ends what was won, and no model is paid for it.
STARTED_WHILE_PAUSED = UnitKind.PUBLISH.value

# For a claim's transaction. A scheduler that stops in it loses the pool after so long.
_SETTINGS = {"idle_in_transaction_session_timeout": "5s"}
DUE_UNITS_MAX = 1000  # made due by one claim; the next one takes on more
_LOCK_POOL = text(f"""
WITH due AS (
    -- Units whose time has come: from now on claims find them.
    UPDATE sched.unit SET due = true WHERE unit_id IN (
        SELECT unit_id FROM sched.unit
         WHERE state = 'ready' AND NOT due AND pool = :pool AND run_at <= now()
         ORDER BY run_at LIMIT :count FOR UPDATE SKIP LOCKED))
SELECT vtime, running_limit, paused,
       {", ".join(f"set_config('{name}', '{value}', true)" for name, value in _SETTINGS.items())}
  FROM sched.pool WHERE pool = :pool FOR NO KEY UPDATE
""")  # noqa: S608 - our own text
_POOL_RUNNING = text("""
SELECT count(*) FROM sched.unit WHERE state = 'leased' AND pool = :pool
""")
# Of a project's few pools, each a range of unit_leased. A plain join is planned the other way,
# and look the pools up once for each unit that is leased.
RUNNING = """(SELECT coalesce(sum(leased.units), 0) FROM sched.pool_project its
                  CROSS JOIN LATERAL (
                    SELECT count(*) AS units FROM sched.unit u WHERE u.state = 'leased'
                       AND u.pool = its.pool AND u.project_id = its.project_id) leased
                 WHERE its.project_id = {project_id})"""
# Of unit `u`: nobody has what it wants for itself. What waits for that is passed over.
NOT_HELD = """(u.exclusive IS NULL OR NOT EXISTS (
                    SELECT FROM sched.unit h
                     WHERE h.exclusive = u.exclusive AND h.state = 'leased'))"""
_CANDIDATES = f"""
-- Projects by turn that have something for such a runner, and room: looked at one by one until
-- there are enough. An EXISTS here would be planned as a hash of all units;
-- a LATERAL with ORDER BY and LIMIT is one step into unit_ready.
SELECT c.project_id FROM (
    SELECT m.project_id, greatest(m.vtime, l.vtime) AS start, m.vtime, l.paused
      FROM sched.pool l JOIN sched.pool_project m USING (pool)
     WHERE l.pool = :pool AND m.project_id <> ALL(CAST(:tried AS text[]))
     ORDER BY start, vtime, project_id OFFSET 0) c
  JOIN sched.project p USING (project_id)
 CROSS JOIN LATERAL (
    SELECT 1 FROM sched.lane l CROSS JOIN unnest(CAST(:kinds AS text[])) AS k (kind)
     CROSS JOIN LATERAL (
        SELECT 1 FROM sched.unit u
         WHERE u.lane_id = l.lane_id AND u.kind = k.kind AND u.state = 'ready' AND u.due
           AND {NOT_HELD}
         ORDER BY u.priority DESC, u.created_at LIMIT 1) first
     WHERE l.pool = :pool AND l.project_id = c.project_id AND l.labels <@ CAST(:labels AS text[])
       AND (NOT (c.paused OR p.paused) OR k.kind = '{STARTED_WHILE_PAUSED}')
     LIMIT 1) fit
 WHERE p.running_limit > {RUNNING.format(project_id="c.project_id")}
 ORDER BY c.start, c.vtime, c.project_id LIMIT :count
"""  # noqa: S608 - our own text
_SEEN = text(_CANDIDATES)
_LOCK_CANDIDATES = text(f"""
-- In the order of their ids, as everybody locks them.
SELECT project_id, pg_advisory_xact_lock(hashtextextended('running of ' || project_id, 0))
  FROM (SELECT project_id FROM ({_CANDIDATES}) found ORDER BY project_id OFFSET 0) ordered
""")  # noqa: S608 - our own text
_LOCK_PROJECTS = text("""
SELECT pg_advisory_xact_lock(hashtextextended('running of ' || project_id, 0))
  FROM unnest(CAST(:projects AS text[])) AS p (project_id)
""")
_SHARES = text(f"""
SELECT p.project_id, m.vtime, p.weight, p.paused,
       CAST(p.running_limit - {RUNNING.format(project_id="p.project_id")} AS integer) AS room
  FROM sched.project p JOIN sched.pool_project m USING (project_id)
 WHERE m.pool = :pool AND p.project_id = ANY(CAST(:projects AS text[]))
""")  # noqa: S608 - our own text
# Parts of a WITH, for the statement that starts what was counted; its values: `advanced`.
ADVANCE = """
clock AS (UPDATE sched.pool SET vtime = :clock WHERE pool = :pool),
clocks AS (
    UPDATE sched.pool_project m SET vtime = n.vtime
      FROM unnest(CAST(:clock_projects AS text[]), CAST(:clock_vtimes AS double precision[]))
           AS n (project_id, vtime)
     WHERE m.pool = :pool AND m.project_id = n.project_id)
"""


@dataclass(frozen=True)
class PoolTurn:
    """A pool whose claims wait for us. `room` None: as many as the projects allow."""

    clock: float
    room: int | None
    paused: bool


@dataclass(frozen=True)
class Share:
    """A project, locked. `start`: its next turn's virtual time."""

    project_id: str
    start: float
    vtime: float
    weight: int
    room: int
    paused: bool


def allot(shares: Collection[Share], slots: int) -> dict[Share, int]:
    """How many of `slots` each project gets, turn by turn, within its room."""
    line = [
        (share.start, share.vtime, share.project_id, share) for share in shares if share.room > 0
    ]
    heapq.heapify(line)
    given: dict[Share, int] = {}
    while line and slots > 0:
        start, vtime, project_id, share = heapq.heappop(line)
        slots -= 1
        given[share] = given.get(share, 0) + 1
        if given[share] < share.room:
            heapq.heappush(line, (start + 1 / share.weight, vtime, project_id, share))
    return given


async def lock_pool(connection: Connection, pool: str) -> PoolTurn | None:
    """None: no task was ever submitted to it. Else what is due in it is marked as such."""
    asked = {"pool": pool, "count": DUE_UNITS_MAX}
    row = (await connection.execute(_LOCK_POOL, asked)).one_or_none()
    if row is None:
        return None
    room = None
    if row.running_limit is not None:
        running = (await connection.execute(_POOL_RUNNING, {"pool": pool})).scalar_one()
        room = max(0, row.running_limit - running)
    return PoolTurn(row.vtime, room, row.paused)


async def seen(
    connection: Connection, pool: str, kinds: Sequence[str], labels: Collection[str]
) -> bool:
    """Whether a project seems to have a unit for such a runner."""
    wanted = {"pool": pool, "kinds": list(kinds), "labels": list(labels)}
    found = await connection.execute(_SEEN, {**wanted, "tried": [], "count": 1})
    return found.first() is not None


async def lock_candidates(
    connection: Connection,
    pool: str,
    kinds: Sequence[str],
    labels: Collection[str],
    *,
    tried: Collection[str],
    count: int,
) -> list[str]:
    """The first `count` projects by turn that seem to have a unit for such a runner. Until the
    transaction ends nobody else starts anything of them, nor changes their limits."""
    wanted = {"pool": pool, "kinds": list(kinds), "labels": list(labels)}
    found = await connection.execute(
        _LOCK_CANDIDATES, {**wanted, "tried": list(tried), "count": count}
    )
    return found.scalars()


async def lock_projects(connection: Connection, projects: Collection[str]) -> None:
    """As `lock_candidates` does."""
    await connection.execute(_LOCK_PROJECTS, {"projects": sorted(projects)})


async def shares(
    connection: Connection, pool: str, turn: PoolTurn, projects: Collection[str]
) -> list[Share]:
    """What each of the locked `projects` may start now."""
    rows = await connection.execute(_SHARES, {"pool": pool, "projects": list(projects)})
    return [
        Share(
            row.project_id,
            max(row.vtime, turn.clock),
            row.vtime,
            row.weight,
            max(0, row.room),
            row.paused or turn.paused,
        )
        for row in rows
    ]


def advanced(
    pool: str, turn: PoolTurn, taken: Mapping[Share, int]
) -> tuple[PoolTurn, dict[str, Any]]:
    """The pool's turn that is left after `taken` units of each share were started, and the values
    of ADVANCE, which puts the clocks there."""
    started = {share: count for share, count in taken.items() if count}
    last = max(share.start + (count - 1) / share.weight for share, count in started.items())
    clock = max(turn.clock, last)
    values = {
        "pool": pool,
        "clock": clock,
        "clock_projects": [share.project_id for share in started],
        "clock_vtimes": [share.start + count / share.weight for share, count in started.items()],
    }
    room = None if turn.room is None else turn.room - sum(taken.values())
    return replace(turn, clock=clock, room=room), values
