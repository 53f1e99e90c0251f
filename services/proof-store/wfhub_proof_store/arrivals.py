"""Wakes who waits for an attempt's receipts when this process gives or refuses one.

Another replica may have done it: waiters also look again every POLL_S. Closed, when the process
stops, nobody waits any more: who asked is answered with what there is.
"""

import asyncio
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager


class Arrivals:
    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self.closed = False

    def close(self) -> None:
        self.closed = True
        for attempt_id in [*self._waiting]:
            self.announce(attempt_id)

    def announce(self, attempt_id: str) -> None:
        for event in self._waiting.get(attempt_id, ()):
            event.set()

    @contextmanager
    def waiting(self, attempt_id: str) -> Iterator[asyncio.Event]:
        """An event to clear before looking and to wait on after."""
        event = asyncio.Event()
        self._waiting[attempt_id].add(event)
        try:
            yield event
        finally:
            self._waiting[attempt_id].discard(event)
            if not self._waiting[attempt_id]:
                del self._waiting[attempt_id]
