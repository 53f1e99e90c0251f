"""Schedules: put by name, looked at, paused, fired by hand, deleted."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from wfhub_common.messages import (
    DeleteSchedule,
    FireSchedule,
    Firing,
    PauseSchedule,
    Preview,
    PreviewSchedule,
    PutSchedule,
    Schedule,
    ScheduleSpec,
)

from wfhub_api import schedule_views
from wfhub_api.hub import Caller, Hub, HubDep
from wfhub_api.openapi import errors
from wfhub_api.schedule_shapes import (
    ScheduleBody,
    ScheduleDetail,
    ScheduleName,
    SchedulePage,
    ScheduleRef,
)
from wfhub_api.shapes import KeyHeader, ProjectRef

PAGE_MAX = 200
PREVIEW_MAX = 100

Project = Annotated[
    ProjectRef, Query(description="a name or an id; not looked at where a schedule's id is given")
]

router = APIRouter(prefix="/v1/schedules", tags=["schedules"])


@router.put(
    "/{schedule}",
    response_model=Schedule,
    summary="Make a schedule, or make it so",
    responses={
        200: {"model": Schedule, "description": "it was there; `changed` says whether it differed"},
        201: {"model": Schedule, "description": "it is new"},
        **errors(404, 413, 429),
    },
)
async def put_schedule(
    hub: HubDep,
    caller: Caller,
    schedule: ScheduleName,
    body: ScheduleBody,
    response: Response,
    project: Project = "default",
) -> Schedule:
    spec = ScheduleSpec.model_validate(body.model_dump())
    command = PutSchedule(project=project, name=schedule, spec=spec, changed_by=caller)
    put = await hub.ask("put_schedule", command, Schedule)
    response.status_code = 201 if put.created else 200
    response.headers["Location"] = f"/v1/schedules/{put.schedule_id}"
    return put


@router.get("", summary="List schedules by name", responses=errors())
async def list_schedules(
    hub: HubDep,
    project: Annotated[ProjectRef | None, Query(description="a name or an id")] = None,
    cursor: Annotated[str, Query(pattern=r"^([a-z0-9-]{1,63}/[a-z0-9-]{1,63})?$")] = "",
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 100,
) -> SchedulePage:
    name, _, of_project = cursor.partition("/")
    found = await schedule_views.schedules(
        hub.engine, project=project, after=(name, of_project), limit=limit + 1
    )
    page, more = found[:limit], len(found) > limit
    next_cursor = f"{page[-1].name}/{page[-1].project}" if more else None
    return SchedulePage(schedules=page, next_cursor=next_cursor)


@router.get("/{schedule}", summary="A schedule with its latest firings", responses=errors(404))
async def get_schedule(
    hub: HubDep, schedule: ScheduleRef, project: Project = "default"
) -> ScheduleDetail:
    found = await schedule_views.schedule(hub.engine, project, schedule)
    firings = await schedule_views.firings(hub.engine, found.schedule_id)
    return ScheduleDetail(**dict(found), firings=firings)


@router.get("/{schedule}/next", summary="The instants it will fire at", responses=errors(404))
async def next_instants(
    hub: HubDep,
    schedule: ScheduleRef,
    project: Project = "default",
    count: Annotated[int, Query(ge=1, le=PREVIEW_MAX)] = 10,
) -> Preview:
    command = PreviewSchedule(project=project, schedule=schedule, count=count)
    return await hub.ask("preview_schedule", command, Preview)


@router.delete(
    "/{schedule}",
    status_code=204,
    summary="Delete a schedule and its history; its tasks go on",
    responses=errors(404),
)
async def delete_schedule(
    hub: HubDep, caller: Caller, schedule: ScheduleRef, project: Project = "default"
) -> None:
    command = DeleteSchedule(project=project, schedule=schedule, changed_by=caller)
    await hub.ask("delete_schedule", command, Schedule)


@router.post(
    "/{schedule}/fire",
    status_code=201,
    response_model=Firing,
    summary="Fire it now, by hand",
    responses={
        200: {"model": Firing, "description": "this Idempotency-Key had fired it before"},
        **errors(404, 409),
    },
)
async def fire_schedule(
    hub: HubDep,
    caller: Caller,
    schedule: ScheduleRef,
    response: Response,
    project: Project = "default",
    idempotency_key: KeyHeader = None,
) -> Firing:
    command = FireSchedule(
        project=project, schedule=schedule, idempotency_key=idempotency_key, fired_by=caller
    )
    fired = await hub.ask("fire_schedule", command, Firing)
    response.status_code = 201 if fired.created else 200
    return fired


@router.post("/{schedule}/pause", summary="Fire nothing until resumed", responses=errors(404))
async def pause_schedule(
    hub: HubDep, caller: Caller, schedule: ScheduleRef, project: Project = "default"
) -> Schedule:
    return await _pause(hub, caller, project, schedule, paused=True)


@router.post(
    "/{schedule}/resume",
    summary="Fire again, from the next instant on",
    responses=errors(404),
)
async def resume_schedule(
    hub: HubDep, caller: Caller, schedule: ScheduleRef, project: Project = "default"
) -> Schedule:
    return await _pause(hub, caller, project, schedule, paused=False)


async def _pause(hub: Hub, caller: str, project: str, schedule: str, *, paused: bool) -> Schedule:
    command = PauseSchedule(project=project, schedule=schedule, paused=paused, changed_by=caller)
    return await hub.ask("pause_schedule", command, Schedule)
