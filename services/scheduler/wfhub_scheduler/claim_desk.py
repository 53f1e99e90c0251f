"""The claim desk: claims of one pool that wait in this process are served together.

One transaction at a time serves all that wait, in the order they came; so a wake-up for one ready
unit is one look at the database, however many runners wait for it. A claim is answered when it has
units, when it is refused, or when its wait is over; never while a transaction that may give it
units is at work, since those would then be nobody's.
Units: seconds, monotonic (`give_up_at`).
"""

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from wfhub_common.errors import RetryLater, WfhubError
from wfhub_common.log import get_logger
from wfhub_common.messages import Claim, Claimed

from wfhub_scheduler.wakeups import Bell, Ticket

CLAIM_POLL_S = 1.0
REST_S = 0.005  # between two looks that found nothing: a storm of wake-ups is a few looks
GROUP_SLOTS_MAX = 200  # units that one transaction may give out to runners of one kind

log = get_logger(__name__)


@dataclass(eq=False)
class Waiting:
    """One claim. `looked`: it was admitted, and nothing was there; what it was admitted as."""

    runner_id: str
    incarnation: str
    claim_id: str
    command: Claim
    give_up_at: float
    answer: "asyncio.Future[Claimed]"
    looked: bool = False
    labels: tuple[str, ...] = ()
    draining: bool = False

    def is_same(self, other: "Waiting") -> bool:
        mine = (self.runner_id, self.incarnation, self.claim_id)
        return mine == (other.runner_id, other.incarnation, other.claim_id)


# Answers for some of a group; whoever has none is marked `looked`, and goes on waiting.
Served = dict[Waiting, Claimed | WfhubError]
Serve = Callable[[Sequence[Waiting]], Awaitable[Served]]


@dataclass
class Desk:
    """`serve` is one transaction; `left` is called when nobody waits any more."""

    serve: Serve
    bell: Bell  # rung when a unit became ready
    left: Callable[[], None]
    waiting: list[Waiting] = field(default_factory=list)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)
    _clerk: asyncio.Task[None] | None = None

    async def claim(self, claim: Waiting) -> Claimed:
        same = next((other for other in self.waiting if other.is_same(claim)), None)
        if same is not None:  # asked again before the first was answered: one answer for both
            same.give_up_at = max(same.give_up_at, claim.give_up_at)
            return await asyncio.shield(same.answer)
        self.waiting.append(claim)
        self._arrived.set()
        if self._clerk is None:
            self._clerk = asyncio.create_task(self._work())
        return await asyncio.shield(claim.answer)

    async def _work(self) -> None:
        try:
            while self.waiting:
                ticket = self.bell.ticket()
                self._arrived.clear()
                group = self._group()
                await self._turn(group)
                looked_at = time.monotonic()
                self._give_up(looked_at)
                if all(claim.looked for claim in self.waiting):
                    await self._rest(ticket, looked_at)
        finally:
            self._clerk = None
            for claim in self.waiting:  # only when this was cancelled, or has a bug
                claim.answer.cancel()
            self.left()

    def _group(self) -> list[Waiting]:
        """The first in line of each kind, those that were not looked at before the others: a crowd
        of one kind keeps no look from the rest."""
        group: list[Waiting] = []
        slots: Counter[object] = Counter()
        for claim in sorted(self.waiting, key=lambda claim: claim.looked):
            kind = (claim.labels, claim.command.kinds, claim.draining)
            if not slots[kind] or slots[kind] + claim.command.slots <= GROUP_SLOTS_MAX:
                group.append(claim)
            slots[kind] += claim.command.slots
        return group

    async def _turn(self, group: Sequence[Waiting]) -> None:
        served: Mapping[Waiting, Claimed | Exception]
        try:
            served = await self.serve(group)
        except RetryLater as e:
            served = dict.fromkeys(group, e)
        except Exception as e:  # noqa: BLE001 - it is the answer of the claim it belongs to
            if len(group) > 1:  # one of them is the reason: the others must not suffer for it
                log.warning("claims failed, each alone now", claims=len(group), error=repr(e)[:500])
                for claim in group:
                    await self._turn([claim])
                return
            served = {group[0]: e}
        for claim in group:
            _settle(claim, served.get(claim))

    def _give_up(self, now: float) -> None:
        for claim in self.waiting:
            if claim.looked and (self.bell.closed or claim.give_up_at <= now):
                _settle(claim, Claimed())
        self.waiting = [claim for claim in self.waiting if not claim.answer.done()]

    async def _rest(self, ticket: Ticket, looked_at: float) -> None:
        """Until a unit became ready, a claim arrived, one's wait is over, or a poll is due."""
        if not self.waiting:
            return
        until = min(claim.give_up_at for claim in self.waiting)
        left_s = min(until - time.monotonic(), CLAIM_POLL_S)
        arrival = Ticket(self._arrived)
        waits = [asyncio.create_task(each.wait(left_s)) for each in (ticket, arrival)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
        await arrival.wait(max(0.0, looked_at + REST_S - time.monotonic()))


def _settle(claim: Waiting, answer: Claimed | Exception | None) -> None:
    if answer is None or claim.answer.done():
        return
    if isinstance(answer, Exception):
        claim.answer.set_exception(answer)
    else:
        claim.answer.set_result(answer)
