"""Messages that are lost or come twice, at the moment where it matters."""

import asyncio
import contextlib
import json
from collections.abc import Sequence

from chaos.faults.parts import Proof, back
from chaos.field import Field, ReplyTap, within
from chaos.nodes import APIS
from chaos.proxy import TO_CLIENT, Link, Proxy
from chaos.wire import Frame


async def completion_unanswered(field: Field) -> Proof | None:
    """The scheduler's answer to `complete` is dropped, and its runner killed at that moment."""
    name = field.one_of(field.cluster.lean)
    field.driver.burst_soon(12, "busy", 300)
    return await _unanswered(field, name, field.cluster.nats_proxies[name], "complete", kill=True)


async def claim_unanswered(field: Field) -> Proof | None:
    """The answer to a claim is dropped: asked again, it must be the same attempts."""
    name = field.one_of(field.cluster.lean)
    field.driver.burst_soon(12, "busy", 300)
    return await _unanswered(field, name, field.cluster.nats_proxies[name], "claim", kill=False)


async def submission_unanswered(field: Field) -> Proof | None:
    """An API is killed between the scheduler's commit and its own answer."""
    name = field.one_of(APIS)
    asking = [
        asyncio.create_task(field.driver.submit("p3", name="unanswered", api=name))
        for _ in range(4)
    ]
    proof = await _unanswered(
        field, name, field.cluster.nats_proxies[name], "submit_task", kill=True
    )
    await asyncio.gather(*asking)
    return proof


async def delivered_twice(field: Field) -> Proof | None:
    """Each message of the product twice: what runners send, and what anybody is handed."""
    doubled = 0

    async def tap(way: str, frame: Frame, _link: Link) -> Sequence[bytes] | None:
        nonlocal doubled
        if not frame.subject.startswith("wfhub."):
            return None
        doubled += 1
        return (frame.raw, frame.raw)

    async def handed(way: str, frame: Frame, link: Link) -> Sequence[bytes] | None:
        return await tap(way, frame, link) if way == TO_CLIENT else None

    proxies = field.cluster.nats_proxies
    taps = {name: tap if name in field.cluster.lean else handed for name in proxies}
    for name, each in taps.items():
        proxies[name].taps.append(each)
    await field.driver.burst(12, "twice", 200)
    await asyncio.sleep(3.0)
    for name, each in taps.items():
        proxies[name].taps.remove(each)
    return {"messages": doubled} if doubled else None


async def _unanswered(
    field: Field, name: str, proxy: Proxy, command: str, *, kill: bool
) -> Proof | None:
    """The reply to `command` is dropped, and `name` killed where asked: always in the window."""

    def is_wanted(payload: bytes) -> bool:
        with contextlib.suppress(ValueError):
            told = json.loads(payload).get("ok")
            return bool(told and (command != "claim" or told.get("assignments")))
        return False

    def seen() -> None:
        if kill:
            field.cluster.kill(name)

    tap = ReplyTap(command, is_wanted, seen)
    proxy.taps.append(tap)
    met = await within(tap.caught)
    proxy.taps.remove(tap)
    if not met or tap.dropped is None:
        return None
    if kill:
        await back(field, name)
    told = json.loads(tap.dropped)["ok"]
    ids = [each["attempt_id"] for each in told.get("assignments", ())]
    return {"node": name, "told": ids or told.get("task_state") or told.get("task_id")}
