"""Grouping: who shares a turn, who is answered what, and that nobody waits for company."""

import asyncio
import threading
from collections.abc import Sequence

import pytest
from wfhub_common.errors import Rejected, RetryLater, WfhubError
from wfhub_common.grouping import Grouped, in_threads


class Worker:
    """Answers n with 10 n; refuses what it is told to; `gate` holds it back."""

    def __init__(self) -> None:
        self.groups: list[list[int]] = []
        self.refuse: set[int] = set()
        self.fail: dict[int, Exception] = {}  # the whole group that has such an item
        self.gate = asyncio.Event()
        self.gate.set()
        self.began = asyncio.Event()

    async def __call__(self, items: Sequence[int]) -> list[int | WfhubError]:
        self.groups.append(list(items))
        self.began.set()
        await self.gate.wait()
        for item in items:
            if item in self.fail:
                raise self.fail[item]
        return [Rejected("no", f"{n}") if n in self.refuse else 10 * n for n in items]


async def answers(grouped: Grouped[int, int], *items: int) -> list[object]:
    async with asyncio.timeout(5):
        return await asyncio.gather(*(grouped(n) for n in items), return_exceptions=True)


async def test_what_comes_at_once_is_one_group_in_order() -> None:
    worker = Worker()
    assert await answers(Grouped(worker, max_items=10), 3, 1, 2) == [30, 10, 20]
    assert worker.groups == [[3, 1, 2]]


async def test_what_comes_while_a_group_is_worked_on_is_the_next_one() -> None:
    worker = Worker()
    grouped = Grouped(worker, max_items=2)
    worker.gate.clear()
    first = asyncio.create_task(grouped(1))
    await worker.began.wait()
    rest = asyncio.gather(*(grouped(n) for n in (2, 3, 4)))
    await asyncio.sleep(0)
    worker.gate.set()
    assert [await first, *(await rest)] == [10, 20, 30, 40]
    assert worker.groups == [[1], [2, 3], [4]]


async def test_one_after_the_other_each_is_worked_on_at_once() -> None:
    worker = Worker()
    grouped = Grouped(worker, max_items=2)
    for n in range(50):
        async with asyncio.timeout(1):
            assert await grouped(n) == 10 * n
    assert worker.groups == [[n] for n in range(50)]


async def test_a_refused_item_harms_no_other() -> None:
    worker = Worker()
    worker.refuse = {2}
    one, two, three = await answers(Grouped(worker, max_items=10), 1, 2, 3)
    assert (one, three) == (10, 30)
    assert isinstance(two, Rejected)


async def test_an_item_that_breaks_its_group_harms_no_other() -> None:
    worker = Worker()
    worker.fail[2] = ZeroDivisionError()
    one, two, three = await answers(Grouped(worker, max_items=10), 1, 2, 3)
    assert (one, three) == (10, 30)
    assert isinstance(two, ZeroDivisionError)
    assert worker.groups == [[1, 2, 3], [1], [2], [3]]


async def test_retry_later_is_everybodys_and_is_not_tried_item_by_item() -> None:
    worker = Worker()
    worker.fail[2] = RetryLater("database-down", "later")
    found = await answers(Grouped(worker, max_items=10), 1, 2, 3)
    assert [type(each) for each in found] == [RetryLater] * 3
    assert len(worker.groups) == 1


async def test_a_caller_that_left_before_its_turn_is_left_out() -> None:
    worker = Worker()
    grouped = Grouped(worker, max_items=10)
    worker.gate.clear()
    first = asyncio.create_task(grouped(1))
    await worker.began.wait()
    second, third = asyncio.create_task(grouped(2)), asyncio.create_task(grouped(3))
    await asyncio.sleep(0)
    second.cancel()
    first.cancel()  # its turn goes on, its answer is dropped
    await asyncio.sleep(0)
    worker.gate.set()
    assert await third == 30
    assert worker.groups == [[1], [3]]
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_groups_may_overlap_where_that_is_asked_for() -> None:
    worker = Worker()
    grouped = Grouped(worker, max_items=1, at_once=2)
    worker.gate.clear()
    both = asyncio.gather(grouped(1), grouped(2), grouped(3))
    for _ in range(3):  # turns of the loop: both groups begin in the first
        await asyncio.sleep(0)
    assert worker.groups == [[1], [2]]
    worker.gate.set()
    assert await both == [10, 20, 30]


async def test_what_blocks_is_done_in_few_threads_and_each_is_answered_for_itself() -> None:
    threads: set[int] = set()

    def work(n: int) -> int:
        threads.add(threading.get_ident())
        if n == 3:
            raise Rejected("no", f"{n}")
        return 10 * n

    looked = in_threads(work, max_items=10, at_once=2)
    async with asyncio.timeout(5):
        said = await asyncio.gather(*map(looked, range(8)), return_exceptions=True)
    assert [each for each in said if not isinstance(each, Rejected)] == [0, 10, 20, 40, 50, 60, 70]
    assert isinstance(said[3], Rejected)
    assert threading.get_ident() not in threads
    assert len(threads) <= 2
