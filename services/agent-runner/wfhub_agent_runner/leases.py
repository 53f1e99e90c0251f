"""Leases held by this runner: heartbeats out, cancellations and losses in.

One heartbeat for all attempts. A runner that lost contact works on, for CONTACT_GRACE_S: whether it
may finish is the scheduler's to say, and a completion from a stale attempt changes nothing there.
After an outage of its own the scheduler gives leases another term, so that what went on is kept.
Units: seconds.
"""

import asyncio
import time
from dataclasses import dataclass, field
from datetime import datetime

from faststream.nats import NatsBroker
from wfhub_common import broker as rpc
from wfhub_common import messages
from wfhub_common.errors import Rejected, RetryLater
from wfhub_common.log import get_logger

from wfhub_agent_runner.steering import Inbox

CONTACT_GRACE_S = 900.0  # without an answer; by then another attempt has long begun

log = get_logger(__name__)


@dataclass
class Held:
    """One attempt here. `cancel` stops its sandbox; once `dropped`, nobody wants the rest; `inbox`
    is what its agent is told meanwhile."""

    attempt_id: str
    lease_until: datetime
    cancel: asyncio.Event = field(default_factory=asyncio.Event)
    dropped: asyncio.Event = field(default_factory=asyncio.Event)
    inbox: Inbox = field(default_factory=Inbox)
    renewed_at: float = field(default_factory=time.monotonic)
    stopped: bool = False  # this process ends: the lease was not lost, it is given up

    @property
    def lost(self) -> bool:
        return self.dropped.is_set()

    def lose(self) -> None:
        self.dropped.set()
        self.cancel.set()


class Leases:
    def __init__(
        self,
        *,
        broker: NatsBroker,
        runner_id: str,
        incarnation: str,
        grace_s: float = CONTACT_GRACE_S,
    ) -> None:
        self._broker = broker
        self._grace_s = grace_s
        self._runner_id = runner_id
        self._incarnation = incarnation
        self._held: dict[str, Held] = {}
        self.unknown_here = asyncio.Event()  # the scheduler does not know us: register again
        self.takes_token_keys = False  # as the scheduler said when we registered

    def hold(self, assignment: messages.Assignment) -> Held:
        held = Held(assignment.attempt_id, assignment.lease_until)
        self._held[assignment.attempt_id] = held
        return held

    def take_up(self, held: Held) -> None:
        """One that an earlier process of this runner had."""
        self._held[held.attempt_id] = held

    def release(self, attempt_id: str) -> None:
        self._held.pop(attempt_id, None)

    def holds(self, attempt_id: str) -> bool:
        return attempt_id in self._held

    def inbox_of(self, attempt_id: str) -> Inbox | None:
        held = self._held.get(attempt_id)
        return None if held is None or held.lost else held.inbox

    def cancel_all(self) -> None:
        for held in self._held.values():
            held.stopped = True
            held.lose()

    async def keep(self, *, every_s: float) -> None:
        """Beat until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            await self.beat()

    async def beat(self) -> None:
        request = messages.Heartbeat(incarnation=self._incarnation, attempts=tuple(self._held))
        try:
            reply = await rpc.ask(
                self._broker, self._runner_id, "heartbeat", request, messages.HeartbeatReply
            )
        except RetryLater as e:
            log.warning("heartbeat not answered", error=e.code, reason=e.message)
            self._give_up()
            return
        except Rejected as e:
            log.warning("heartbeat refused", error=e.code, reason=e.message)
            self.unknown_here.set()
            return
        for attempt_id, until in reply.lease_until.items():
            if held := self._held.get(attempt_id):
                held.lease_until, held.renewed_at = until, time.monotonic()
        for attempt_id in reply.cancel:
            if (held := self._held.get(attempt_id)) and not held.cancel.is_set():
                log.info("attempt to be cancelled", attempt_id=attempt_id)
                held.cancel.set()
        for attempt_id in reply.lost:
            if (held := self._held.get(attempt_id)) and not held.lost:
                log.warning("lease lost, dropping the work", attempt_id=attempt_id)
                held.lose()

    def _give_up(self) -> None:
        for held in self._held.values():
            if not held.lost and time.monotonic() - held.renewed_at > self._grace_s:
                log.warning("no contact for too long, work dropped", attempt_id=held.attempt_id)
                held.lose()
