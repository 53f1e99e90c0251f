"""Logs: what agent and verification printed, as safe text; live, or from the stored artifacts.
As plain text, or as server-sent events (log_feed) for who asks for them by `Accept`.

Which attempt: `attempt` is an id or a number; without it the latest agent attempt, and with
`follow` every later one too, until the task has ended. A line `==> agent <==` stands before each
change of log.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request
from starlette.responses import StreamingResponse
from wfhub_common.errors import Rejected, RetryLater
from wfhub_common.messages import FINAL_TASK_STATES, LIVE_ATTEMPT_STATES, UnitKind

from wfhub_api import log_feed, log_sources, views, wakeups
from wfhub_api.held_streams import HeldStream, kept_alive, primed
from wfhub_api.hub import Caller, Hub, HubDep, StillAllowed
from wfhub_api.log_sources import POLL_S, Piece
from wfhub_api.openapi import errors
from wfhub_api.plain_text import PlainText
from wfhub_api.shapes import Attempt, TaskId

EVENTS = "text/event-stream"
_PLACE = "of server-sent events, the last one seen: what came before it is not sent again"

router = APIRouter(prefix="/v1/tasks", tags=["logs"])


@router.get(
    "/{task_id}/logs",
    summary="A task's logs as plain text or as server-sent events",
    response_class=StreamingResponse,
    responses={
        200: {"content": {"text/plain": {"schema": {"type": "string"}}, EVENTS: {}}},
        **errors(404, 429),
    },
)
async def task_logs(
    request: Request,
    hub: HubDep,
    caller: Caller,
    still_allowed: StillAllowed,
    task_id: TaskId,
    attempt: Annotated[str | None, Query(pattern=r"^(att_[a-z2-7]{24}|[1-9][0-9]{0,3})$")] = None,
    follow: bool = False,
    last_event_id: Annotated[str | None, Header(description=_PLACE)] = None,
) -> HeldStream:
    as_events = EVENTS in request.headers.get("Accept", "")
    since = log_feed.parse_place(last_event_id) if as_events else None
    await views.task(hub.engine, task_id)
    if attempt is not None:
        chosen = await _chosen(hub, task_id, attempt)
        pieces = _of_attempt(hub, task_id, chosen, follow=follow)
    else:
        pieces = _of_task(hub, task_id, since.attempt_id if since else "", follow=follow)
    chunks = log_feed.as_events(pieces, since, hub.stop) if as_events else as_text(pieces)
    if not follow:
        chunks = await primed(chunks)
    return HeldStream(
        kept_alive(chunks) if as_events else chunks,
        media_type=EVENTS if as_events else "text/plain",
        streams=hub.streams,
        caller=caller,
        still_allowed=still_allowed,
    )


async def as_text(pieces: AsyncIterator[Piece]) -> AsyncGenerator[bytes, None]:
    """The pieces as safe text, each log under its header line."""
    current, clean, at_line_start = "", PlainText(), True
    async for piece in pieces:
        text = ""
        if piece.log != current:
            text = clean.finish()
            header = f"==> {piece.log} <==\n"
            text += header if at_line_start and not text else f"\n{header}"
            current, clean = piece.log, PlainText()
        text += clean.feed(piece.data)
        if text:
            at_line_start = text.endswith("\n")
            yield text.encode()
    if rest := clean.finish():
        yield rest.encode()


async def _chosen(hub: Hub, task_id: str, wanted: str) -> Attempt:
    for attempt in await views.attempts(hub.engine, task_id):
        number = str(attempt.number) if attempt.kind == UnitKind.AGENT else None
        if wanted in (attempt.attempt_id, number):
            return attempt
    raise Rejected("attempt-not-found", f"the task has no attempt {wanted}", status=404)


async def _of_task(hub: Hub, task_id: str, since: str, *, follow: bool) -> AsyncIterator[Piece]:
    """The attempt `since` and each later one, else the latest; then each later one while
    `follow`."""
    seen: set[str] = set()
    with hub.wakeups.of(task_id) as woken:
        while not hub.stop.event.is_set():
            # Asked before the attempts are read: none can begin after the end.
            over = (await views.task(hub.engine, task_id)).state in FINAL_TASK_STATES
            attempts = await _agent_attempts(hub, task_id)
            fresh = [a for a in attempts if a.attempt_id not in seen]
            if not seen:
                ids = [a.attempt_id for a in attempts]
                fresh = fresh[ids.index(since) :] if since in ids else fresh[-1:]
            for attempt in fresh:
                async for piece in _of_attempt(hub, task_id, attempt, follow=follow):
                    yield piece
            seen.update(attempt.attempt_id for attempt in attempts)
            if over or not follow:
                return
            await wakeups.wait(woken, POLL_S)


async def _agent_attempts(hub: Hub, task_id: str) -> list[Attempt]:
    return [a for a in await views.attempts(hub.engine, task_id) if a.kind == UnitKind.AGENT]


async def _of_attempt(
    hub: Hub, task_id: str, attempt: Attempt, *, follow: bool
) -> AsyncIterator[Piece]:
    if log_sources.logs_of(attempt.artifacts):
        stored = log_sources.stored(hub.proof_store, attempt.attempt_id, attempt.artifacts)
        async for piece in stored:
            yield piece
        return
    if not hub.broker_up.is_set():
        raise RetryLater("broker-down", "not connected to the broker yet, for live logs")
    js = hub.broker.connection.jetstream()

    async def ended() -> bool:
        if hub.stop.event.is_set():
            return True
        now = await views.attempts(hub.engine, task_id)
        states = {a.attempt_id: a.state for a in now}
        return states.get(attempt.attempt_id) not in LIVE_ATTEMPT_STATES

    # An ended attempt without artifacts (a lost one) may still be in the stream.
    live = attempt.state in LIVE_ATTEMPT_STATES
    async for piece in log_sources.live(
        js, attempt.attempt_id, follow=follow and live, ended=ended
    ):
        yield piece
