"""Views of projects' load, pools and runners. Raises: Rejected (404), as views.py else."""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import limits
from wfhub_common.errors import Rejected

from wfhub_api.operation_shapes import Pool, ProjectDetail, Runner
from wfhub_api.views import plain_json, select

_RUNNER = """
SELECT *, CASE WHEN seen_at < now() - make_interval(secs => :silent_s) THEN 'lost'
               WHEN draining THEN 'draining' ELSE 'active' END AS state
  FROM sched.api_runner
"""


async def projects(engine: AsyncEngine, *, after: str, limit: int) -> list[ProjectDetail]:
    rows = await select(
        engine,
        """
        SELECT p.*, l.running, l.queued
          FROM sched.api_project p JOIN sched.api_project_load l USING (project_id)
         WHERE p.name > :after ORDER BY p.name LIMIT :limit
        """,
        after=after,
        limit=limit,
    )
    return [_project(dict(row)) for row in rows]


async def project(engine: AsyncEngine, ref: str) -> ProjectDetail:
    """`ref` is a name or an id."""
    found = await select(
        engine,
        """
        SELECT p.*, l.running, l.queued
          FROM sched.api_project p JOIN sched.api_project_load l USING (project_id)
         WHERE p.name = :ref OR p.project_id = :ref
        """,
        ref=ref,
    )
    if not found:
        raise Rejected("project-not-found", f"there is no project {ref!r}", status=404)
    return _project(dict(found[0]))


async def pools(engine: AsyncEngine, pool: str | None = None) -> list[Pool]:
    found = await select(
        engine,
        """
        SELECT pool, running_limit, paused, running, created_at FROM sched.api_pool
         WHERE pool = coalesce(CAST(:pool AS text), pool) ORDER BY pool
        """,
        pool=pool,
    )
    return [Pool.model_validate(dict(row)) for row in found]


async def runners(engine: AsyncEngine, *, after: str, limit: int) -> list[Runner]:
    """By id. One that was silent for a lease's length is `lost`, whatever else it is."""
    found = await select(
        engine,
        f"{_RUNNER} WHERE runner_id > :after ORDER BY runner_id LIMIT :limit",
        silent_s=limits.LEASE_TTL_S,
        after=after,
        limit=limit,
    )
    return [_runner(dict(row)) for row in found]


async def runner(engine: AsyncEngine, runner_id: str) -> Runner:
    found = await select(
        engine, f"{_RUNNER} WHERE runner_id = :id", silent_s=limits.LEASE_TTL_S, id=runner_id
    )
    if not found:
        raise Rejected("runner-not-found", f"there is no runner {runner_id}", status=404)
    return _runner(dict(found[0]))


def _project(values: dict[str, Any]) -> ProjectDetail:
    return ProjectDetail.model_validate({**values, "limits": plain_json(values["limits"])})


def _runner(values: dict[str, Any]) -> Runner:
    return Runner.model_validate({**values, "labels": plain_json(values["labels"])})
