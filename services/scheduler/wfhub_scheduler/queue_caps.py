"""Queue caps: how many tasks a project may have waiting.

`queue_limit` bounds a project's ready and blocked tasks whenever a task is accepted; a task that
comes back for another try is never refused. `project_queue.bound` is at least their number, with
those that are at work and may come back: it grows with each task accepted, under the row's lock,
and is counted anew only when it reaches the limit. So nothing that takes tasks out of the queue has
to touch a shared row. A count stops at the limit: where the limit is changed, the next submission
counts anew.
Raises: Rejected (429 `queue-full`, field `retry_after_s`).
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import text
from wfhub_common.errors import Rejected
from wfhub_common.sql import Connection, Row

from wfhub_scheduler.fairness import RUNNING

QUEUE_FULL_RETRY_S = 5.0

_NEW_QUEUES = text("""
INSERT INTO sched.project_queue (project_id) SELECT unnest(CAST(:projects AS text[])) ORDER BY 1
ON CONFLICT DO NOTHING
""")
_LOCK = text("""
SELECT q.project_id, q.bound, p.queue_limit
  FROM sched.project_queue q JOIN sched.project p USING (project_id)
 WHERE q.project_id = ANY(CAST(:projects AS text[])) ORDER BY q.project_id FOR UPDATE OF q
""")
_TAKE = text("""
-- Where `bound` leaves room: the usual case is one statement.
WITH wanted AS (SELECT * FROM unnest(CAST(:projects AS text[]), CAST(:counts AS bigint[]))
                  AS w (project_id, count)),
     locked AS MATERIALIZED (
        SELECT q.project_id, q.bound, p.queue_limit, w.count
          FROM wanted w JOIN sched.project_queue q USING (project_id)
          JOIN sched.project p USING (project_id) ORDER BY q.project_id FOR UPDATE OF q),
     taken AS (
        UPDATE sched.project_queue q SET bound = q.bound + l.count FROM locked l
         WHERE q.project_id = l.project_id AND l.bound + l.count <= l.queue_limit)
SELECT project_id FROM locked WHERE bound + count <= queue_limit
""")
_COUNT = text(f"""
-- A statement of its own: it sees what was committed by those who held the lock before us.
SELECT p.project_id, (SELECT count(*) FROM (
           SELECT FROM sched.task t
            WHERE t.project_id = p.project_id AND t.state IN ('ready', 'blocked')
            LIMIT p.queue_limit) counted) AS queued,
       CAST({RUNNING.format(project_id="p.project_id")} AS bigint) AS at_work
  FROM sched.project p WHERE p.project_id = ANY(CAST(:projects AS text[]))
""")  # noqa: S608 - our own text
_SET = text("""
UPDATE sched.project_queue q SET bound = n.bound
  FROM unnest(CAST(:projects AS text[]), CAST(:bounds AS bigint[])) AS n (project_id, bound)
 WHERE q.project_id = n.project_id
""")
_COUNT_ANEW = text("""
UPDATE sched.project_queue SET bound = greatest(bound, :queue_limit) WHERE project_id = :project_id
""")


async def lock(connection: Connection, projects: Sequence[str]) -> Sequence[Row]:
    """(project_id, bound, queue_limit) of each: nobody else submits to them until we are done."""
    rows = (await connection.execute(_LOCK, {"projects": projects})).all()
    if len(rows) < len(projects):
        await connection.execute(_NEW_QUEUES, {"projects": projects})
        rows = (await connection.execute(_LOCK, {"projects": projects})).all()
    return rows


async def changed(connection: Connection, project_id: str, queue_limit: int) -> None:
    """The next submission counts; the project is locked."""
    of = {"project_id": project_id, "queue_limit": queue_limit}
    await connection.execute(_COUNT_ANEW, of)


async def admit(connection: Connection, wanted: Mapping[str, int]) -> dict[str, int]:
    """How many of the `wanted` new tasks of each project fit; their places are taken."""
    asked = {"projects": list(wanted), "counts": list(wanted.values())}
    taken = set((await connection.execute(_TAKE, asked)).scalars())
    fit = {project: wanted[project] for project in taken}
    unsure = {project: count for project, count in wanted.items() if project not in taken}
    return fit | (await _admit_counted(connection, unsure) if unsure else {})


async def _admit_counted(connection: Connection, wanted: Mapping[str, int]) -> dict[str, int]:
    """What waits is counted anew."""
    projects = sorted(wanted)
    limits = {row.project_id: row.queue_limit for row in await lock(connection, projects)}
    counted = (await connection.execute(_COUNT, {"projects": projects})).all()
    queued = {row.project_id: row.queued for row in counted}
    at_work = {row.project_id: row.at_work for row in counted}
    fit = {
        project: min(wanted[project], max(0, limits[project] - queued[project]))
        for project in projects
    }
    bounds = [queued[each] + at_work[each] + fit[each] for each in projects]
    await connection.execute(_SET, {"projects": projects, "bounds": bounds})
    return fit


def queue_full(project: str) -> Rejected:
    return Rejected(
        "queue-full",
        f"project {project[:64]!r} has as many tasks waiting as its queue_limit allows:"
        f" submit again in {QUEUE_FULL_RETRY_S:.0f} s or later, or raise the limit",
        status=429,
        retry_after_s=QUEUE_FULL_RETRY_S,
    )
