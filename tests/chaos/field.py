"""What a fault works with, and how it waits for its window."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from chaos.cluster import Cluster
from chaos.driver import Driver
from chaos.history import History
from chaos.observer import Observer
from chaos.proxy import TO_CLIENT, TO_SERVER, Link
from chaos.settings import Options
from chaos.wire import Frame

WINDOW_S_MAX = 12.0  # how long a fault tries to fall into its window
T = TypeVar("T")


@dataclass
class Field:
    cluster: Cluster
    observer: Observer
    driver: Driver
    history: History
    options: Options
    rng: random.Random

    def one_of(self, names: Sequence[str]) -> str:
        return self.rng.choice(list(names))


async def until(
    look: Callable[[], Awaitable[T]], *, within_s: float = WINDOW_S_MAX, every_s: float = 0.02
) -> T | None:
    """What `look` finds, or None when it found nothing in time."""
    deadline = time.monotonic() + within_s
    while True:
        if found := await look():
            return found
        if time.monotonic() > deadline:
            return None
        await asyncio.sleep(every_s)


async def stopped_in_transaction(field: Field, scheduler: str) -> dict[str, Any] | None:
    """Stop it with SIGSTOP until it is inside of a transaction; it stays stopped then."""
    field.driver.burst_soon(12, "busy", 200)
    links = field.cluster.pg_proxies[scheduler].links

    async def look() -> dict[str, Any] | None:
        await asyncio.sleep(field.rng.uniform(0.0, 0.03))
        field.cluster.pause(scheduler)
        found = await field.observer.open_transactions({link.server_side_port for link in links})
        wrote = [row for row in found if row["xid"]]
        if wrote:
            return wrote[0]
        field.cluster.resume(scheduler)
        return None

    return await until(look)


async def stopped_with_work(field: Field, runner: str) -> list[str]:
    """Stop it with SIGSTOP while it holds attempts that run; it stays stopped then."""
    field.driver.burst_soon(12, "busy", 1500)
    runner_id = field.cluster.runner_ids[runner]

    async def look() -> list[str] | None:
        field.cluster.pause(runner)
        rows = await field.observer.live_attempts(runner_id)
        if rows:
            return [row["attempt_id"] for row in rows]
        field.cluster.resume(runner)
        await asyncio.sleep(0.1)
        return None

    return await until(look) or []


class ReplyTap:
    """Drops the first reply to `command` that `wanted` wants, and tells of it at once."""

    def __init__(self, command: str, wanted: Callable[[bytes], bool], seen: Callable[[], None]):
        self._command, self._wanted, self._seen = command, wanted, seen
        self._asked: set[str] = set()
        self.dropped: bytes | None = None
        self.caught = asyncio.Event()

    async def __call__(self, way: str, frame: Frame, _link: Link) -> Sequence[bytes] | None:
        if way == TO_SERVER and frame.subject.endswith(f".{self._command}"):
            self._asked.add(frame.reply)
            return None
        is_answer = way == TO_CLIENT and frame.subject in self._asked and self.dropped is None
        if not is_answer or not self._wanted(frame.payload):
            return None
        self.dropped = frame.payload
        self._seen()
        self.caught.set()
        return ()


async def within(event: asyncio.Event, seconds: float = WINDOW_S_MAX) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return False
    return True
