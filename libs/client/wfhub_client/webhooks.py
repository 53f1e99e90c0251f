"""Webhooks: for who receives them, `verify`; for who sets them up, calls of the REST API.

    event = verify(request.headers, request.body, [secret])   # a CloudEvent, as a dict

A delivery may come again: its event's `id` tells. Raises: NotVerified; as client.py.
"""

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wfhub_common import standard_webhooks

from wfhub_client.errors import ClientError
from wfhub_client.rest import Rest, part

TOLERANCE_S = 300.0


class NotVerified(ClientError):
    """Nobody who has the secret sent that, or not now: answer 400 and drop it."""


def verify(
    headers: Mapping[str, str],
    body: bytes,
    secrets: Sequence[str],
    tolerance_s: float = TOLERANCE_S,
    *,
    now_s: float | None = None,
) -> dict[str, Any]:
    """The event in `body`, bytes as they came. `secrets`: of the webhook, two while one replaces
    the other. Raises: NotVerified; ValueError for a secret that is none."""
    now_s = time.time() if now_s is None else now_s
    why = standard_webhooks.fault(headers, body, secrets, now_s=now_s, tolerance_s=tolerance_s)
    if why is not None:
        raise NotVerified(why)
    try:
        event = json.loads(body)
    except (ValueError, RecursionError) as e:
        raise NotVerified(f"it is signed, but no JSON: {e}") from e
    if not isinstance(event, dict):
        raise NotVerified("it is signed, but no event")
    return event


class WebhookCalls:
    """`Client.webhooks`."""

    def __init__(self, rest: Rest) -> None:
        self._rest = rest

    def create(
        self, url: str, *, idempotency_key: str | None = None, **more: Any
    ) -> dict[str, Any]:
        """With `secret`, this once. `more`: project, events, after."""
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        body = {"url": url, **{name: value for name, value in more.items() if value is not None}}
        return self._call("POST", json=body, headers=headers)

    def list(self, *, project: str | None = None) -> Iterator[dict[str, Any]]:
        """Newest first, page by page."""
        params = {"project": project} if project else {}
        while True:
            page = self._call("GET", params=params)
            yield from page["webhooks"]
            if not page["next_cursor"]:
                return
            params["cursor"] = page["next_cursor"]

    def get(self, webhook_id: str) -> dict[str, Any]:
        return self._call("GET", webhook_id)

    def pause(self, webhook_id: str) -> dict[str, Any]:
        return self._call("POST", webhook_id, "pause")

    def resume(self, webhook_id: str) -> dict[str, Any]:
        return self._call("POST", webhook_id, "resume")

    def test(self, webhook_id: str) -> dict[str, Any]:
        """How an event of type `webhook.test` was received."""
        return self._call("POST", webhook_id, "test")

    def rotate(self, webhook_id: str, *, overlap_s: int | None = None) -> dict[str, Any]:
        """With the new `secret`, this once."""
        body = {} if overlap_s is None else {"overlap_s": overlap_s}
        return self._call("POST", webhook_id, "rotate", json=body)

    def delete(self, webhook_id: str) -> None:
        self._rest.answer("DELETE", _path(webhook_id))

    def _call(self, method: str, *parts: str, **options: Any) -> dict[str, Any]:
        return self._rest.json(method, _path(*parts), **options)


def _path(*parts: str) -> str:
    return "/".join(["/v1/webhooks", *map(part, parts)])
