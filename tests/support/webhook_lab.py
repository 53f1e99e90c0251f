"""Test support: what tests of webhooks do to the API, and how they wait for what comes of it."""

import asyncio
import time
from typing import Any

import receiver as receivers
from receiver import Receiver
from wfhub_common import ids, sealed, standard_webhooks

PATH = "/in"
KEYS = sealed.grown(sealed.Keys(), 1)
LOCAL = {
    "webhook_private_hosts": "127.0.0.1",
    "webhook_http_hosts": "127.0.0.1",
    "sealing_keys": KEYS.to_json(),
}


async def made(hub: Any, receiver: Receiver, path: str = PATH, **body: Any) -> Any:
    answer = await hub.http.post("/v1/webhooks", json={"url": receiver.url + path, **body})
    assert answer.status_code == 201, answer.text
    return answer.json()


async def shown(hub: Any, webhook_id: str) -> Any:
    answer = await hub.http.get(f"/v1/webhooks/{webhook_id}")
    assert answer.status_code == 200, answer.text
    return answer.json()


async def until(hub: Any, webhook_id: str, **wanted: Any) -> Any:
    """Its row, once it is so: it follows the receiver's answer by a moment."""
    async with asyncio.timeout(receivers.WAIT_S):
        while True:
            found = await shown(hub, webhook_id)
            if all(found[name] == value for name, value in wanted.items()):
                return found
            await asyncio.sleep(0.01)


async def events(hub: Any, count: int, type_: str = "task.state_changed", **more: Any) -> None:
    for number in range(count):
        await hub.scheduler.event(ids.new_task_id(), type_, {"n": number}, **more)


def delivered(hub: Any, outcome: str) -> float:
    metrics = hub.app.state.hub.metrics
    labels = {"outcome": outcome}
    return float(
        metrics.registry.get_sample_value("wfhub_api_webhook_deliveries_total", labels) or 0
    )


def signed_by(secret: str, one: receivers.Received) -> bool:
    given = {"now_s": time.time(), "tolerance_s": 60}
    return standard_webhooks.fault(one.headers, one.body, [secret], **given) is None
