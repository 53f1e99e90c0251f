"""Wake-ups: hints that something may be there to do. Losing one costs a poll interval, no more.

A waiter takes its ticket before it looks, so that what happens in between is not missed:
`ticket = bell.ticket(); found = await look(); if not found: await ticket.wait(1.0)`.
Units: seconds.
"""

import asyncio
from contextlib import suppress
from dataclasses import dataclass


@dataclass(frozen=True)
class Ticket:
    event: asyncio.Event

    async def wait(self, timeout_s: float) -> None:
        # Not wait_for: before Python 3.12 it loses a cancellation that comes with the event.
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self.event.wait()


class Bell:
    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.closed = False

    def ticket(self) -> Ticket:
        return Ticket(self._event)

    def ring(self) -> None:
        rung, self._event = self._event, self._event if self.closed else asyncio.Event()
        rung.set()

    def close(self) -> None:
        """From now on nobody waits: the process is stopping."""
        self.closed = True
        self._event.set()
