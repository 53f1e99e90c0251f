"""Feed: a task's events as server-sent events, read from Postgres, in the log's order.

Each event is `id: <generation>-<pos>`, `event: <type>`, `data: <CloudEvent>`. A stream ends after
the task's change to a final state; one that is resumed behind it ends at once.
Units: seconds.
"""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common.messages import FINAL_TASK_STATES, CloudEvent
from wfhub_common.service import Stop

from wfhub_api import views, wakeups
from wfhub_api.positions import Position

POLL_S = 1.0
PAGE_EVENTS = 200
# A final event that is not in the log so long after the end was dropped with age.
FINAL_EVENT_WAIT_S = 60.0


def as_sse(event: CloudEvent) -> bytes:
    # One line of JSON: `data:` must not be split, and model_dump_json never breaks a line.
    return (
        f"id: {event.wfhubgeneration}-{event.wfhubpos}\nevent: {event.type}\n"
        f"data: {event.model_dump_json()}\n\n"
    ).encode()


async def stream(
    engine: AsyncEngine,
    task_id: str,
    after: Position,
    *,
    follow: bool,
    woken: asyncio.Event,
    stop: Stop,
) -> AsyncIterator[bytes]:
    while not stop.event.is_set():
        # Asked before reading: what came before the final event is then read below.
        over = not follow or await _over(engine, task_id)
        while page := await views.events(engine, after=after, limit=PAGE_EVENTS, task_id=task_id):
            for event in page:
                yield as_sse(event)
                after = Position(event.wfhubgeneration, event.wfhubpos)
        if over:
            return
        await wakeups.wait(woken, POLL_S)


async def _over(engine: AsyncEngine, task_id: str) -> bool:
    task = await views.task(engine, task_id)
    if task.state not in FINAL_TASK_STATES:
        return False
    if await views.final_event_is_out(engine, task_id):
        return True
    ended = task.finished_at or task.updated_at
    return datetime.now(UTC) - ended > timedelta(seconds=FINAL_EVENT_WAIT_S)
