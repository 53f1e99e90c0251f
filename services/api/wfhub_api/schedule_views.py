"""Schedules as the API reads them, from the scheduler's views. Raises: as views.py; Rejected."""

from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common.errors import Rejected
from wfhub_common.sql import Row

from wfhub_api.schedule_shapes import PastFiring, ScheduleSummary
from wfhub_api.views import plain_json, select

FIRINGS_SHOWN = 20

_COLUMNS = """schedule_id, project_id, project, name, version, spec, workflow, paused,
    next_fire_at, next_due_at, changed_by, created_at, updated_at"""


async def schedules(
    engine: AsyncEngine, *, project: str | None, after: tuple[str, str], limit: int
) -> list[ScheduleSummary]:
    """By name, then project. `after` is such a pair; `project` a name, an id, or None: of all."""
    conditions = ["(name, project) > (:after_name, :after_project)"]
    values: dict[str, Any] = {"limit": limit, "after_name": after[0], "after_project": after[1]}
    if project is not None:
        conditions.append("(project = :project OR project_id = :project)")
        values["project"] = project
    rows = await select(
        engine,
        f"SELECT {_COLUMNS} FROM sched.api_schedule WHERE {' AND '.join(conditions)}"  # noqa: S608 - constant parts, values are bound
        " ORDER BY name, project LIMIT :limit",
        **values,
    )
    return [_schedule(row) for row in rows]


async def schedule(engine: AsyncEngine, project: str, ref: str) -> ScheduleSummary:
    rows = await select(
        engine,
        f"""
        SELECT {_COLUMNS} FROM sched.api_schedule
         WHERE schedule_id = :ref
            OR (name = :ref AND (project = :project OR project_id = :project))
        """,  # noqa: S608 - constant
        ref=ref,
        project=project,
    )
    if not rows:
        raise Rejected(
            "schedule-unknown", f"project {project!r} has no schedule {ref!r}", status=404
        )
    return _schedule(rows[0])


async def firings(engine: AsyncEngine, schedule_id: str) -> list[PastFiring]:
    """Newest first."""
    rows = await select(
        engine,
        """
        SELECT fire_at, until_at, outcome, reason, message, task_id, task_state,
               workflow_id, workflow_state, fired_by, created_at
          FROM sched.api_firing WHERE schedule_id = :id ORDER BY fire_at DESC LIMIT :limit
        """,
        id=schedule_id,
        limit=FIRINGS_SHOWN,
    )
    return [PastFiring.model_validate(dict(row)) for row in rows]


def _schedule(row: Row) -> ScheduleSummary:
    values = dict(row)
    spec = plain_json(row.spec) | {"workflow": plain_json(values.pop("workflow"))}
    return ScheduleSummary.model_validate({**values, "spec": spec})
