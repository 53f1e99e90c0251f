"""For operators: a project's limits and pause, pools, runners and their draining."""

from typing import Annotated

from fastapi import APIRouter, Path, Query
from wfhub_common.messages import Drained, DrainRunner
from wfhub_common.messages import Pool as PoolReply
from wfhub_common.messages import Project as ProjectReply

from wfhub_api import operation_views as views
from wfhub_api.hub import HubDep
from wfhub_api.openapi import errors
from wfhub_api.operation_shapes import (
    Drain,
    Pool,
    PoolChanges,
    PoolList,
    PoolName,
    ProjectChanges,
    ProjectDetail,
    Runner,
    RunnerId,
    RunnerPage,
)

PAGE_MAX = 200

router = APIRouter(prefix="/v1")
ProjectRef = Annotated[
    str, Path(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$", description="a name or an id")
]


@router.get(
    "/projects/{ref}",
    tags=["projects"],
    summary="A project, with what runs and what waits",
    responses=errors(404),
)
async def get_project(hub: HubDep, ref: ProjectRef) -> ProjectDetail:
    return await views.project(hub.engine, ref)


@router.patch(
    "/projects/{ref}",
    tags=["projects"],
    summary="Change a project's limits, or pause it",
    responses=errors(404),
)
async def update_project(hub: HubDep, ref: ProjectRef, body: ProjectChanges) -> ProjectDetail:
    """While paused, what runs goes on and what was won is published; nothing else is started."""
    changed = await hub.ask("update_project", body.command(ref), ProjectReply)
    return await views.project(hub.engine, changed.project_id)


@router.get("/pools", tags=["pools"], summary="List pools", responses=errors())
async def list_pools(hub: HubDep) -> PoolList:
    return PoolList(pools=await views.pools(hub.engine))


@router.patch(
    "/pools/{pool}",
    tags=["pools"],
    summary="Change a pool's limit, or pause it",
    responses=errors(),
)
async def update_pool(hub: HubDep, pool: PoolName, body: PoolChanges) -> Pool:
    """A pool that no task named yet is made."""
    changed = await hub.ask("update_pool", body.command(pool), PoolReply)
    (found,) = await views.pools(hub.engine, changed.pool)
    return found


@router.get("/runners", tags=["runners"], summary="List runners by id", responses=errors())
async def list_runners(
    hub: HubDep,
    cursor: Annotated[str, Query(max_length=63, pattern=r"^[A-Za-z0-9_-]*$")] = "",
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 100,
) -> RunnerPage:
    found = await views.runners(hub.engine, after=cursor, limit=limit + 1)
    more = len(found) > limit
    return RunnerPage(
        runners=found[:limit], next_cursor=found[limit - 1].runner_id if more else None
    )


@router.post(
    "/runners/{runner_id}/drain",
    tags=["runners"],
    summary="Give a runner nothing new, or again something",
    responses=errors(404),
)
async def drain_runner(hub: HubDep, runner_id: RunnerId, body: Drain | None = None) -> Runner:
    """It ends what it has. `drain: false` undoes it; a restart of the runner does not."""
    drain = (body or Drain()).drain
    drained = await hub.ask("drain_runner", DrainRunner(runner_id=runner_id, drain=drain), Drained)
    return await views.runner(hub.engine, drained.runner_id)
