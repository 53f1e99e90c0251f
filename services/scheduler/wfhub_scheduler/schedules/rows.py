"""A schedule's row, its lock, and where it stands in its calendar.

Whoever changes a schedule or its firings holds the schedule's row lock. Time is the database's, so
that a scheduler with a wrong clock fires nothing early.
Raises: Rejected (404 `schedule-unknown`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from wfhub_common.errors import Rejected
from wfhub_common.messages import ScheduleSpec
from wfhub_common.sql import Connection

from wfhub_scheduler import projects, stored_json
from wfhub_scheduler.outbox import emit
from wfhub_scheduler.schedules.plans import Calendar, Upcoming
from wfhub_scheduler.schedules.triggers import trigger_of

COLUMNS = """s.schedule_id, s.project_id, s.name, s.version, s.spec, s.workflow, s.spec_sha256,
    s.paused, s.anchor_at, s.next_fire_at, s.next_jitter_ms, now() AS now"""
_LOCK = text(f"""
SELECT {COLUMNS} FROM sched.schedule s
 WHERE (s.project_id = :project_id AND s.name = :schedule) OR s.schedule_id = :schedule
   FOR UPDATE
""")  # noqa: S608 - our own column list
_STAND = text("""
UPDATE sched.schedule SET next_fire_at = :fire_at, next_jitter_ms = :jitter_ms
 WHERE schedule_id = :schedule_id
""")


@dataclass(frozen=True)
class Schedule:
    """`now` is the database's, of the transaction that holds the lock."""

    schedule_id: str
    project_id: str
    name: str
    version: int
    spec: ScheduleSpec
    spec_sha256: str
    paused: bool
    anchor_at: datetime
    upcoming: Upcoming | None  # None: it has ended
    now: datetime

    @property
    def calendar(self) -> Calendar:
        return calendar_of(self.schedule_id, self.spec, self.anchor_at)


def calendar_of(schedule_id: str, spec: ScheduleSpec, anchor_at: datetime) -> Calendar:
    """Raises: Rejected, if the spec names instants that cannot be."""
    trigger = trigger_of(
        spec.cron,
        spec.time_zone,
        anchor_at=anchor_at,
        starts_at=spec.starts_at,
        ends_at=spec.ends_at,
    )
    return Calendar(schedule_id, trigger, spec.jitter_s)


def of_row(row: Any) -> Schedule:
    values: dict[str, Any] = dict(row)
    fire_at, jitter_ms = values.pop("next_fire_at"), values.pop("next_jitter_ms")
    upcoming = None if fire_at is None else Upcoming(fire_at, jitter_ms)
    workflow = values.pop("workflow")
    spec = ScheduleSpec.model_validate({**values.pop("spec"), "workflow": workflow})
    return Schedule(**values, spec=spec, upcoming=upcoming)


async def lock(connection: Connection, project: str, schedule: str) -> Schedule:
    """By its id, or by its name in a project."""
    of = await projects.find(connection, project)
    found = await lock_known(connection, of.project_id, schedule)
    if found is None:
        raise Rejected(
            "schedule-unknown",
            f"project {of.name!r} has no schedule {schedule[:64]!r}",
            status=404,
        )
    return found


async def lock_known(connection: Connection, project_id: str, schedule: str) -> Schedule | None:
    wanted = {"project_id": project_id, "schedule": stored_json.clean(schedule)}
    row = (await connection.execute(_LOCK, wanted)).one_or_none()
    return None if row is None else of_row(row)


async def stand(connection: Connection, schedule_id: str, upcoming: Upcoming | None) -> None:
    """From now on the schedule waits for `upcoming`; None: for nothing any more."""
    fire_at = None if upcoming is None else upcoming.fire_at
    jitter_ms = 0 if upcoming is None else upcoming.jitter_ms
    at = {"schedule_id": schedule_id, "fire_at": fire_at, "jitter_ms": jitter_ms}
    await connection.execute(_STAND, at)


async def tell(
    connection: Connection,
    type_: str,
    schedule: Schedule,
    data: Mapping[str, Any],
    *,
    task_id: str | None = None,
) -> None:
    """An event of the schedule, which always carries its name."""
    await emit(
        connection,
        type_,
        schedule.schedule_id,
        {"name": schedule.name, **data},
        project_id=schedule.project_id,
        task_id=task_id,
    )
