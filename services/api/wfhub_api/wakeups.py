"""Wake-ups: an event on NATS says that a task's streams have something to read in Postgres.

Only a hint: what a stream sends is read from the database, and it looks each second anyway.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from faststream.nats import NatsBroker, NatsMessage
from wfhub_common import subjects


class Wakeups:
    def __init__(self) -> None:
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._of_all: set[asyncio.Event] = set()

    @contextmanager
    def of_all(self, event: asyncio.Event) -> Iterator[None]:
        """`event` is set whenever anything happened."""
        self._of_all.add(event)
        try:
            yield
        finally:
            self._of_all.discard(event)

    @contextmanager
    def of(self, task_id: str) -> Iterator[asyncio.Event]:
        """An event that is set whenever something happened to the task."""
        event = asyncio.Event()
        self._waiting[task_id].add(event)
        try:
            yield event
        finally:
            self._waiting[task_id].discard(event)
            if not self._waiting[task_id]:
                del self._waiting[task_id]

    def notify(self, task_id: str) -> None:
        for event in self._waiting.get(task_id, ()):
            event.set()

    def listen(self, broker: NatsBroker) -> None:
        async def raw(message: NatsMessage) -> bytes:
            return bytes(message.body)

        @broker.subscriber(subjects.EVENTS_FILTER, decoder=raw, no_reply=True)
        async def heard(body: bytes) -> None:
            for event in self._of_all:
                event.set()
            if self._waiting:
                self.notify(task_of(body))


def task_of(body: bytes) -> str:
    """The task that a CloudEvent tells of, or ""."""
    try:
        event = json.loads(body)
        return str(event["data"].get("task_id") or event.get("subject") or "")
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        return ""


async def wait(event: asyncio.Event, timeout_s: float) -> None:
    """Until woken or `timeout_s` later."""
    # Not wait_for: before Python 3.12 it can swallow a cancellation that comes with the event.
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            await event.wait()
    event.clear()
