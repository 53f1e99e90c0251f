"""Projects: made by the scheduler, read from its view."""

from typing import Annotated

from fastapi import APIRouter, Query, Response
from wfhub_common.messages import CreateProject
from wfhub_common.messages import Project as ProjectReply

from wfhub_api import operation_views
from wfhub_api.hub import HubDep
from wfhub_api.openapi import errors
from wfhub_api.operation_shapes import ProjectPage
from wfhub_api.shapes import Project

PAGE_MAX = 200

router = APIRouter(prefix="/v1/projects", tags=["projects"])


@router.post(
    "",
    status_code=201,
    response_model=Project,
    summary="Make a project",
    responses={
        200: {"model": Project, "description": "it was there, the same"},
        **errors(409, 413),
    },
)
async def create_project(hub: HubDep, body: CreateProject, response: Response) -> Project:
    reply = await hub.ask("create_project", body, ProjectReply)
    response.status_code = 201 if reply.created else 200
    return Project.model_validate(reply.model_dump(exclude_none=True))


@router.get("", summary="List projects by name, with what runs and what waits", responses=errors())
async def list_projects(
    hub: HubDep,
    cursor: Annotated[str, Query(max_length=63, pattern=r"^[a-z0-9-]*$")] = "",
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 100,
) -> ProjectPage:
    found = await operation_views.projects(hub.engine, after=cursor, limit=limit + 1)
    more = len(found) > limit
    return ProjectPage(projects=found[:limit], next_cursor=found[limit - 1].name if more else None)
