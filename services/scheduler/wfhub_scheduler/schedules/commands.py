"""Commands of the API: put, pause, delete and fire a schedule, and preview its instants.

A schedule is versioned by its content: to put the same again changes nothing. Where what its
instants depend on is changed, it waits for the first one after now; the past is not made up for.
While it is paused no instant is fired, nor later: resuming writes them down as skipped.
Raises: Rejected (404 `project-unknown`, `schedule-unknown`; 409 `schedule-busy`; 422
`cron-invalid`, `limit-above-maximum`, `time-zone-unknown`, `schedule-times`, `schedule-never`,
`nul-character`, `workflow-invalid` with `faults`; 413 `workflow-too-large`; 429 `schedules-full`).
"""

import hashlib
from dataclasses import asdict, replace
from datetime import timedelta

from sqlalchemy import text
from wfhub_common import digests, ids
from wfhub_common.errors import Rejected, RetryLater
from wfhub_common.messages import (
    DeleteSchedule,
    FireSchedule,
    Firing,
    FiringOutcome,
    PauseSchedule,
    Preview,
    PreviewSchedule,
    PutSchedule,
    ScheduleSpec,
    UpcomingFiring,
)
from wfhub_common.messages import Schedule as ScheduleReply

from wfhub_scheduler import projects, stored_json
from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.schedules import starting
from wfhub_scheduler.schedules.firing import ByHand, fire, let_go
from wfhub_scheduler.schedules.plans import Span, Upcoming
from wfhub_scheduler.schedules.rows import Schedule, lock, lock_known, stand, tell

SCHEDULES_PER_PROJECT_MAX = 1000  # counted without a lock: a few may slip in beyond it
_MAKE_ITS_INSTANTS = ("cron", "time_zone", "jitter_s", "starts_at", "ends_at")

_NOW_AND_COUNT = text("""
SELECT now() AS now, count(*) AS schedules FROM sched.schedule WHERE project_id = :project_id
""")
_NEW = text("""
INSERT INTO sched.schedule (schedule_id, project_id, name, version, spec, workflow, spec_sha256,
                            paused, anchor_at, changed_by)
VALUES (:schedule_id, :project_id, :name, :version, CAST(:spec AS jsonb), CAST(:workflow AS json),
        :spec_sha256, :paused, :anchor_at, :changed_by)
ON CONFLICT DO NOTHING
""")
_CHANGE = text("""
UPDATE sched.schedule
   SET version = :version, spec = CAST(:spec AS jsonb), workflow = CAST(:workflow AS json),
       spec_sha256 = :spec_sha256, paused = :paused, anchor_at = :anchor_at,
       changed_by = :changed_by, updated_at = now()
 WHERE schedule_id = :schedule_id
""")
_DELETE = text("DELETE FROM sched.schedule WHERE schedule_id = :schedule_id")
_BY_KEY = text("""
SELECT fire_at, outcome, reason, task_id, workflow_id FROM sched.firing
 WHERE schedule_id = :schedule_id AND idempotency_key = :key
""")


async def put_schedule(core: Core, command: PutSchedule) -> ScheduleReply:
    spec = command.spec
    unsaid = {"workflow"} if spec.workflow is None else set()  # as before there were any
    content = spec.model_dump(mode="json", exclude={"paused", *unsaid})
    plan = await starting.read(spec)
    if not stored_json.storable(content):
        raise Rejected("nul-character", "a schedule must not hold the character U+0000: remove it")
    sha256 = hashlib.sha256(digests.canonical_json(content)).hexdigest()

    async def work(tx: Tx) -> ScheduleReply:
        project = await projects.find(tx.connection, command.project)
        before = await lock_known(tx.connection, project.project_id, command.name)
        if before is None or before.spec_sha256 != sha256:
            starting.check(spec, plan, project)
        if before is None:
            made = await _make(tx, project, command, sha256)
            if made is not None:
                return made
            before = await lock(tx.connection, command.project, command.name)  # a rival's
        paused = before.paused if spec.paused is None else spec.paused
        after = replace(before, paused=paused)
        if sha256 != before.spec_sha256:
            version = before.version + 1
            after = replace(after, spec=spec, spec_sha256=sha256, version=version)
        return await _change(tx, before, after, command.changed_by)

    return await core.commit(work)


async def pause_schedule(core: Core, command: PauseSchedule) -> ScheduleReply:
    async def work(tx: Tx) -> ScheduleReply:
        before = await lock(tx.connection, command.project, command.schedule)
        after = replace(before, paused=command.paused)
        return await _change(tx, before, after, command.changed_by)

    return await core.commit(work)


async def delete_schedule(core: Core, command: DeleteSchedule) -> ScheduleReply:
    async def work(tx: Tx) -> ScheduleReply:
        schedule = await lock(tx.connection, command.project, command.schedule)
        await tx.connection.execute(_DELETE, {"schedule_id": schedule.schedule_id})
        await _tell_change(tx, schedule, "deleted", command.changed_by)
        return _reply(replace(schedule, upcoming=None), changed=True)

    return await core.commit(work)


async def fire_schedule(core: Core, command: FireSchedule) -> Firing:
    key = command.idempotency_key and stored_json.clean(command.idempotency_key)
    by_hand = ByHand(stored_json.clean(command.fired_by), key)

    async def work(tx: Tx) -> Firing:
        schedule = await lock(tx.connection, command.project, command.schedule)
        if key is not None:
            at = {"schedule_id": schedule.schedule_id, "key": key}
            known = (await tx.connection.execute(_BY_KEY, at)).one_or_none()
            if known is not None:
                return Firing(schedule_id=schedule.schedule_id, **known)
        fired = await fire(tx, schedule, schedule.now, by_hand)
        if fired is None:
            raise RetryLater("instant-taken", "the schedule fired at this very moment; ask again")
        if fired.outcome is FiringOutcome.SKIPPED:  # refused: rolled back, nothing is written down
            raise Rejected("schedule-busy", f"not fired: {fired.message}", status=409)
        return Firing(
            schedule_id=schedule.schedule_id,
            fire_at=schedule.now,
            outcome=fired.outcome,
            reason=fired.reason,
            created=True,
            **(asdict(fired.started) if fired.started else {}),
        )

    return await core.commit(work)


async def preview_schedule(core: Core, command: PreviewSchedule) -> Preview:
    async def work(tx: Tx) -> Schedule:
        return await lock(tx.connection, command.project, command.schedule)

    schedule = await core.commit(work)
    calendar, after = schedule.calendar, schedule.now
    if schedule.upcoming is not None and schedule.upcoming.due_at > after:  # maybe in its jitter
        after = min(after, schedule.upcoming.fire_at - timedelta(microseconds=1))
    found: list[Upcoming] = []
    while len(found) < command.count and (upcoming := calendar.upcoming(after)) is not None:
        found.append(upcoming)
        after = upcoming.fire_at
    return Preview(
        schedule_id=schedule.schedule_id,
        time_zone=schedule.spec.time_zone,
        firings=tuple(
            UpcomingFiring(
                fire_at=one.fire_at,
                local=one.fire_at.astimezone(calendar.trigger.zone).isoformat(),
                due_at=one.due_at,
            )
            for one in found
        ),
    )


async def _make(
    tx: Tx, project: projects.ProjectRow, command: PutSchedule, sha256: str
) -> ScheduleReply | None:
    """None: a rival has made one of that name meanwhile."""
    of_project = {"project_id": project.project_id}
    found = (await tx.connection.execute(_NOW_AND_COUNT, of_project)).one()
    if found.schedules >= SCHEDULES_PER_PROJECT_MAX:
        raise Rejected(
            "schedules-full",
            f"project {project.name!r} has {found.schedules} schedules, which is the limit:"
            " delete some first",
            status=429,
        )
    schedule = _standing_anew(
        Schedule(
            schedule_id=ids.new_schedule_id(),
            project_id=project.project_id,
            name=command.name,
            version=1,
            spec=command.spec,
            spec_sha256=sha256,
            paused=bool(command.spec.paused),
            anchor_at=found.now.replace(microsecond=0),
            upcoming=None,
            now=found.now,
        )
    )
    row = {**of_project, "name": command.name, **_columns(schedule, command.changed_by)}
    if (await tx.connection.execute(_NEW, row)).rowcount == 0:
        return None
    await stand(tx.connection, schedule.schedule_id, schedule.upcoming)
    await _tell_change(tx, schedule, "created", command.changed_by)
    return _reply(schedule, changed=True).model_copy(update={"created": True})


async def _change(tx: Tx, before: Schedule, after: Schedule, changed_by: str) -> ScheduleReply:
    """`after` as it was asked for; where it stands then follows from that."""
    if after == before:
        return _reply(before)
    if _instants_differ(before.spec, after.spec):
        if after.spec.cron != before.spec.cron:
            after = replace(after, anchor_at=after.now.replace(microsecond=0))
        after = _standing_anew(after)
    elif before.paused and not after.paused:
        after = await _resumed(tx, after)
    await tx.connection.execute(_CHANGE, _columns(after, changed_by))
    await stand(tx.connection, after.schedule_id, after.upcoming)
    await _tell_change(tx, after, _what_changed(before, after), changed_by)
    return _reply(after, changed=True)


async def _resumed(tx: Tx, schedule: Schedule) -> Schedule:
    """It waits for what comes now; the instants since it was paused are let go, as one range."""
    upcoming = schedule.upcoming
    if upcoming is None or upcoming.fire_at > schedule.now:
        return schedule
    passed = schedule.calendar.trigger.newest(upcoming.fire_at, schedule.now, 1)
    if passed:
        span, outcome = Span(upcoming.fire_at, passed[-1]), FiringOutcome.SKIPPED
        await let_go(tx.connection, schedule, span, outcome, "paused", "the schedule was paused")
    return replace(schedule, upcoming=schedule.calendar.upcoming(schedule.now))


def _standing_anew(schedule: Schedule) -> Schedule:
    upcoming = schedule.calendar.upcoming(schedule.now)
    if upcoming is None:
        raise Rejected(
            "schedule-never",
            f"{schedule.spec.cron!r} has no instant from now on: look at it, and at ends_at",
            field="cron",
        )
    return replace(schedule, upcoming=upcoming)


def _instants_differ(before: ScheduleSpec, after: ScheduleSpec) -> bool:
    return any(getattr(before, name) != getattr(after, name) for name in _MAKE_ITS_INSTANTS)


def _what_changed(before: Schedule, after: Schedule) -> str:
    if before.version != after.version:
        return "changed"
    return "paused" if after.paused else "resumed"


def _columns(schedule: Schedule, changed_by: str) -> dict[str, object]:
    spec = schedule.spec
    return {
        "schedule_id": schedule.schedule_id,
        "version": schedule.version,
        "spec": stored_json.dumped(spec.model_copy(update={"paused": None, "workflow": None})),
        "workflow": None if spec.workflow is None else stored_json.dumped(spec.workflow),
        "spec_sha256": schedule.spec_sha256,
        "paused": schedule.paused,
        "anchor_at": schedule.anchor_at,
        "changed_by": stored_json.clean(changed_by),
    }


async def _tell_change(tx: Tx, schedule: Schedule, change: str, changed_by: str) -> None:
    data = {
        "change": change,
        "version": schedule.version,
        "paused": schedule.paused,
        "by": stored_json.clean(changed_by),
    }
    await tell(tx.connection, "schedule.changed", schedule, data)


def _reply(schedule: Schedule, *, changed: bool = False) -> ScheduleReply:
    waits = schedule.upcoming is not None and not schedule.paused
    return ScheduleReply(
        schedule_id=schedule.schedule_id,
        project_id=schedule.project_id,
        name=schedule.name,
        version=schedule.version,
        paused=schedule.paused,
        next_fire_at=schedule.upcoming.fire_at if schedule.upcoming and waits else None,
        changed=changed,
    )
