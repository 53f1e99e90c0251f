"""Webhooks: made, looked at, paused, resumed, tested, given another secret, deleted."""

import asyncio
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query, Response
from wfhub_common import ids
from wfhub_common.errors import Rejected
from wfhub_common.messages import CloudEvent

from wfhub_api.hub import Caller, HubDep
from wfhub_api.openapi import errors
from wfhub_api.positions import Cursor, decode_cursor, encode_cursor
from wfhub_api.shapes import KeyHeader, ProjectRef
from wfhub_api.webhooks import retries, rows, targets
from wfhub_api.webhooks.shapes import (
    NewWebhook,
    Rotation,
    Tested,
    Webhook,
    WebhookId,
    WebhookPage,
    WebhookWithSecret,
)

PAGE_MAX = 200
TESTS_MAX = 8  # at once, of one process
TEST_TYPE, TEST_SOURCE = "webhook.test", "/wfhub/api"

router = APIRouter(prefix="/v1/webhooks", tags=["webhooks"])
_tests = asyncio.Semaphore(TESTS_MAX)


@router.post(
    "",
    status_code=201,
    response_model=WebhookWithSecret,
    summary="Have public events sent to a URL",
    responses={
        200: {"model": WebhookWithSecret, "description": "this Idempotency-Key had made it before"},
        **errors(404, 409, 413),
    },
)
async def create_webhook(
    hub: HubDep,
    caller: Caller,
    body: NewWebhook,
    response: Response,
    idempotency_key: KeyHeader = None,
) -> WebhookWithSecret:
    if not hub.settings.webhooks_enabled:
        raise Rejected("webhooks-off", "the operator has set WEBHOOKS_ENABLED=false", status=409)
    targets.parse(body.url, hub.webhooks.rules)
    made, is_new = await rows.create(
        hub.engine, hub.webhooks.keys, body, created_by=caller, key=idempotency_key
    )
    response.status_code = 201 if is_new else 200
    response.headers["Location"] = f"/v1/webhooks/{made.webhook_id}"
    hub.webhooks.wake()
    return made


@router.get("", summary="List webhooks, newest first", responses=errors())
async def list_webhooks(
    hub: HubDep,
    project: Annotated[ProjectRef | None, Query(description="a name or an id")] = None,
    cursor: Annotated[str | None, Query(max_length=200)] = None,
    limit: Annotated[int, Query(ge=1, le=PAGE_MAX)] = 50,
) -> WebhookPage:
    before = None if cursor is None else decode_cursor(cursor, "whk")
    found = await rows.every(hub.engine, project=project, before=before, limit=limit + 1)
    page, more = found[:limit], len(found) > limit
    last = Cursor(page[-1].created_at, page[-1].webhook_id) if more else None
    return WebhookPage(webhooks=page, next_cursor=encode_cursor(last) if last else None)


@router.get("/{webhook_id}", summary="A webhook, and how far it has come", responses=errors(404))
async def get_webhook(hub: HubDep, webhook_id: WebhookId) -> Webhook:
    return await rows.get(hub.engine, webhook_id)


@router.post("/{webhook_id}/pause", summary="Send nothing until resumed", responses=errors(404))
async def pause_webhook(hub: HubDep, webhook_id: WebhookId) -> Webhook:
    return await rows.pause(hub.engine, webhook_id)


@router.post(
    "/{webhook_id}/resume",
    summary="Go on where it was, paused or disabled",
    responses=errors(404),
)
async def resume_webhook(hub: HubDep, webhook_id: WebhookId) -> Webhook:
    resumed = await rows.resume(hub.engine, webhook_id)
    hub.webhooks.wake()
    return resumed


@router.post(
    "/{webhook_id}/rotate",
    summary="Make a new secret; the old one signs too for a while",
    responses=errors(404, 409, 413),
)
async def rotate_webhook(
    hub: HubDep, webhook_id: WebhookId, body: Rotation | None = None
) -> WebhookWithSecret:
    overlap_s = (body or Rotation()).overlap_s
    return await rows.rotate(hub.engine, hub.webhooks.keys, webhook_id, overlap_s)


@router.post(
    "/{webhook_id}/test",
    summary="Send an event of type webhook.test now, whatever its state",
    responses=errors(404, 409),
)
async def test_webhook(hub: HubDep, webhook_id: WebhookId) -> Tested:
    hook = await rows.get(hub.engine, webhook_id)
    if not hub.settings.webhooks_enabled or _tests.locked():
        raise Rejected("webhooks-busy", "webhooks are off, or too many tests run", status=409)
    async with _tests:
        secrets = await rows.secrets_for_test(hub.engine, webhook_id)
        channel = hub.webhooks.channel(hook.url)
        try:
            event = _test_event(hook)
            outcome = await hub.webhooks.attempt(channel, event, webhook_id, secrets)
        finally:
            await channel.close()
    why = outcome.why if isinstance(outcome, retries.Unreached) else None
    return Tested(event_id=event.id, outcome=outcome.outcome, status=outcome.status, why=why)


@router.delete("/{webhook_id}", status_code=204, summary="Delete a webhook", responses=errors(404))
async def delete_webhook(hub: HubDep, webhook_id: WebhookId) -> None:
    await rows.delete(hub.engine, webhook_id)


def _test_event(hook: Webhook) -> CloudEvent:
    """At no position: it is not in the log."""
    return CloudEvent(
        id=ids.new_event_ids(1)[0],
        source=TEST_SOURCE,
        type=TEST_TYPE,
        subject=hook.webhook_id,
        time=datetime.now(UTC),
        data={"webhook_id": hook.webhook_id},
        wfhubproject=hook.project_id or "",
        wfhubpos=0,
        wfhubgeneration=0,
    )
