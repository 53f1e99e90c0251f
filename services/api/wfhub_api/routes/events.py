"""Events: a task's as a stream (SSE), everybody's as JSON pages to fill gaps from."""

from collections.abc import AsyncGenerator
from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.responses import StreamingResponse

from wfhub_api import feed, views
from wfhub_api.held_streams import HeldStream, kept_alive
from wfhub_api.hub import Caller, HubDep, StillAllowed
from wfhub_api.openapi import errors
from wfhub_api.positions import Position, parse_position
from wfhub_api.shapes import POSITION, EventPage, TaskId

PAGE_MAX = 1000
_AFTER = Query(pattern=POSITION, description="generation-pos of the last event seen")

router = APIRouter(prefix="/v1", tags=["events"])


@router.get(
    "/tasks/{task_id}/events",
    summary="A task's events, as server-sent events",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/event-stream": {}}},
        **errors(404, 429),
    },
)
async def task_events(
    hub: HubDep,
    caller: Caller,
    still_allowed: StillAllowed,
    task_id: TaskId,
    after: Annotated[str | None, _AFTER] = None,
    last_event_id: Annotated[str | None, Header(pattern=POSITION)] = None,
    follow: bool = True,
) -> HeldStream:
    start = parse_position(last_event_id or after)
    await views.task(hub.engine, task_id)  # 404 before the stream begins

    async def chunks() -> AsyncGenerator[bytes, None]:
        with hub.wakeups.of(task_id) as woken:
            async for chunk in feed.stream(
                hub.engine,
                task_id,
                start,
                follow=follow,
                woken=woken,
                stop=hub.stop,
            ):
                yield chunk

    return HeldStream(
        kept_alive(chunks()),
        media_type="text/event-stream",
        streams=hub.streams,
        caller=caller,
        still_allowed=still_allowed,
    )


@router.get("/events", summary="Events after a position, to fill a gap", responses=errors())
async def list_events(
    hub: HubDep,
    after: Annotated[str | None, _AFTER] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 200,
) -> EventPage:
    start = parse_position(after)
    found = await views.events(hub.engine, after=start, limit=limit)
    last = Position(found[-1].wfhubgeneration, found[-1].wfhubpos) if found else start
    return EventPage(events=found, next_after=str(last))
