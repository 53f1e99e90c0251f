"""Grouping: what is asked while one group is worked on becomes the next group.

`Grouped(work, max_items=…)` is called with one item (of size 1, unless `size` says otherwise) and
answers for it; `work` is given all the items of a group, in the order they came, and answers each,
in the same order, with its result or the WfhubError that is its alone. Nothing is delayed for
company: an item that finds no group at work starts one at once, with whatever else came in the same
turn of the event loop.

RetryLater from `work` (the transaction, say) goes to everybody. Any other error must be some
item's: each is then worked on alone, so that it harms none but its own. `work` is therefore one
transaction: when it raises, nothing has happened.
A caller that is cancelled before its group began is left out; later, its answer is dropped.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

from wfhub_common import tracing
from wfhub_common.errors import RetryLater, WfhubError
from wfhub_common.log import get_logger

log = get_logger(__name__)

Q = TypeVar("Q")
A = TypeVar("A")


class Grouped(Generic[Q, A]):
    def __init__(
        self,
        work: Callable[[Sequence[Q]], Awaitable[Sequence[A | WfhubError]]],
        *,
        max_items: int,
        at_once: int = 1,  # groups worked on at the same time
        size: Callable[[Q], int] = lambda _: 1,  # what an item counts for
    ) -> None:
        self._work = work
        self._max_items = max_items
        self._size = size
        self._at_once = at_once
        self._waiting: deque[tuple[Q, asyncio.Future[A]]] = deque()
        self._working = 0
        self._workers: set[asyncio.Task[None]] = set()  # the loop itself holds tasks weakly

    async def __call__(self, item: Q) -> A:
        answer: asyncio.Future[A] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, answer))
        if self._working < self._at_once:
            self._working += 1
            worker = asyncio.create_task(self._drain(), context=tracing.detached())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)
        return await answer

    async def _drain(self) -> None:
        try:
            while self._waiting:
                await self._turn(self._next_group())
        finally:
            self._working -= 1  # in the same step as the last look: nothing is left behind

    def _next_group(self) -> list[tuple[Q, "asyncio.Future[A]"]]:
        group: list[tuple[Q, asyncio.Future[A]]] = []
        room = self._max_items
        while self._waiting and (not group or self._size(self._waiting[0][0]) <= room):
            item, answer = self._waiting.popleft()
            if not answer.done():
                group.append((item, answer))
                room -= self._size(item)
        return group

    async def _turn(self, group: list[tuple[Q, asyncio.Future[A]]]) -> None:
        if not group:
            return
        try:
            results = await self._work([item for item, _ in group])
            for (_, answer), result in zip(group, results, strict=True):
                _settle(answer, result)
        except asyncio.CancelledError:
            for _, answer in group:
                answer.cancel()
            raise
        except Exception as e:  # noqa: BLE001 - whatever it is, it is an answer
            if len(group) == 1 or isinstance(e, RetryLater):
                for _, answer in group:
                    _settle(answer, e)
                return
            log.warning("group failed, each alone now", items=len(group), error=repr(e)[:500])
            for each in group:
                await self._turn([each])


def in_threads(
    work: Callable[[Q], A], *, max_items: int, at_once: int
) -> Callable[[Q], Awaitable[A]]:
    """`work`, which may block, in another thread: what comes meanwhile shares a thread, which costs
    less than one each. Up to `at_once` threads, so that one that hangs does not hold up all."""

    def answer(item: Q) -> A | WfhubError:
        try:
            return work(item)
        except WfhubError as e:
            return e

    async def group(items: Sequence[Q]) -> Sequence[A | WfhubError]:
        return await asyncio.to_thread(lambda: [answer(item) for item in items])

    return Grouped(group, max_items=max_items, at_once=at_once)


def _settle(answer: "asyncio.Future[A]", result: A | Exception) -> None:
    if answer.done():
        return
    if isinstance(result, Exception):
        answer.set_exception(result)
    else:
        answer.set_result(result)
