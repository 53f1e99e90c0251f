"""Waiting: why a task that is ready has not begun, in sentences, as far as it can be seen.

What is looked at is what a claim looks at: its project, its pool, and the runners that are there.
None of it holds it up: it waits for one of those runners to have room. Raises: as views.py.
"""

import json
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import limits
from wfhub_common.sql import Row

from wfhub_api.shapes import TaskSummary
from wfhub_api.views import select

_SEEN = """
SELECT p.name, p.paused, p.running_limit, l.running,
       o.pool IS NOT NULL AS pool_known, o.paused AS pool_paused,
       o.running_limit AS pool_limit, o.running AS pool_running,
       (SELECT count(*) FROM sched.api_runner r
         WHERE NOT r.draining AND r.seen_at >= now() - make_interval(secs => :silent_s)
           AND r.labels @> CAST(:labels AS jsonb)) AS able
  FROM sched.api_project p JOIN sched.api_project_load l USING (project_id)
  LEFT JOIN sched.api_pool o ON o.pool = :pool
 WHERE p.project_id = :project_id
"""


async def reasons(engine: AsyncEngine, task: TaskSummary) -> list[str]:
    pool, labels = task.spec.get("pool") or "default", task.spec.get("labels") or []
    rows = await select(
        engine,
        _SEEN,
        silent_s=limits.LEASE_TTL_S,
        labels=json.dumps(labels),
        pool=pool,
        project_id=task.project_id,
    )
    run_at = task.spec.get("run_at")
    later = run_at is not None and datetime.fromisoformat(run_at) > datetime.now(UTC)
    found = [f"it is not to begin before {run_at}"] if later else []
    return [*found, *(sentence for row in rows for sentence in _of(row, pool, labels))]


def _of(row: Row, pool: str, labels: list[str]) -> list[str]:
    found = []
    if row.paused:
        found.append(f"project {row.name} is paused")
    elif row.running >= row.running_limit:
        found.append(f"project {row.name} has as many at work as it may: {row.running_limit}")
    if row.pool_paused:
        found.append(f"pool {pool} is paused")
    elif row.pool_limit is not None and row.pool_running >= row.pool_limit:
        found.append(f"pool {pool} has as many at work as it may: {row.pool_limit}")
    with_labels = f" with the labels {', '.join(labels)}" if labels else ""
    if not row.able:
        found.append(f"there is no active runner{with_labels}")
    elif not row.pool_known:  # a runner's pool stands in its claims alone, and the first makes it
        found.append(f"no runner of pool {pool} has asked for work yet: RUNNER_POOL is a runner's")
    return found or [
        f"no runner of pool {pool}{with_labels} has room: all are full, or none is there"
    ]
