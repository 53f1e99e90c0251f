"""Dead letters: look at them, have them replayed or discarded by the service that keeps them."""

from typing import Annotated

from fastapi import APIRouter, Query
from wfhub_common.messages import DeadLetterDecided, DiscardDeadLetter, ReplayDeadLetter

from wfhub_api import dead_letter_views
from wfhub_api.dead_letter_shapes import (
    DEAD_LETTER_ID,
    DeadLetterDetail,
    DeadLetterId,
    DeadLetterPage,
    DeadLetterState,
    Service,
)
from wfhub_api.hub import Caller, HubDep
from wfhub_api.openapi import errors

PAGE_MAX = 200
DECIDE_TIMEOUT_S = 25.0  # a replay may ask a neighbour itself
_REPLAY = {
    Service.SCHEDULER: "replay_dead_letter",
    Service.PROOF_STORE: "replay_ingest_letter",
}
_DISCARD = {
    Service.SCHEDULER: "discard_dead_letter",
    Service.PROOF_STORE: "discard_ingest_letter",
}

router = APIRouter(prefix="/v1/dead-letters", tags=["dead letters"])


@router.get("", summary="List what was put aside, newest first", responses=errors())
async def list_dead_letters(
    hub: HubDep,
    state: DeadLetterState | None = None,
    source: Annotated[str | None, Query(max_length=64, pattern=r"^[a-z][a-z-]*$")] = None,
    cursor: Annotated[str | None, Query(pattern=DEAD_LETTER_ID)] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
) -> DeadLetterPage:
    found = await dead_letter_views.page(
        hub.engine, state=state, source=source, before=cursor, limit=limit + 1
    )
    more = len(found) > limit
    return DeadLetterPage(
        dead_letters=found[:limit], next_cursor=found[limit - 1].dead_letter_id if more else None
    )


@router.get("/{dead_letter_id}", summary="A dead letter with its body", responses=errors(404))
async def get_dead_letter(hub: HubDep, dead_letter_id: DeadLetterId) -> DeadLetterDetail:
    return await dead_letter_views.one(hub.engine, dead_letter_id)


@router.post(
    "/{dead_letter_id}/replay",
    summary="Do again what failed, once: of what was decided nothing is done",
    responses=errors(404, 409),
)
async def replay_dead_letter(
    hub: HubDep, caller: Caller, dead_letter_id: DeadLetterId
) -> DeadLetterDecided:
    letter = await dead_letter_views.one(hub.engine, dead_letter_id)
    asked = ReplayDeadLetter(dead_letter_id=dead_letter_id, by=caller)
    command = _REPLAY[letter.service]
    return await hub.ask(command, asked, DeadLetterDecided, timeout_s=DECIDE_TIMEOUT_S)


@router.post(
    "/{dead_letter_id}/discard",
    summary="Close it without a replay",
    responses=errors(404, 409),
)
async def discard_dead_letter(
    hub: HubDep, caller: Caller, dead_letter_id: DeadLetterId
) -> DeadLetterDecided:
    letter = await dead_letter_views.one(hub.engine, dead_letter_id)
    asked = DiscardDeadLetter(dead_letter_id=dead_letter_id, by=caller)
    command = _DISCARD[letter.service]
    return await hub.ask(command, asked, DeadLetterDecided, timeout_s=DECIDE_TIMEOUT_S)
