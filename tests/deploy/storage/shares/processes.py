"""Work in a process of its own, and what it tells on the way."""

import os
import pickle
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import BinaryIO

from wfhub_common.errors import RetryLater


@dataclass
class Child:
    pid: int
    pipe: BinaryIO

    def next(self) -> object:
        """What it tells next; waits for it."""
        return pickle.load(self.pipe)


def child(
    work: Callable[[], Iterator[object] | object], *, start: tuple[int, int] | None = None
) -> Child:
    """It tells what `work` returns, or yields, or raises. It begins when nobody holds the writing
    end of `start`, a pipe, any more."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return Child(pid, os.fdopen(reading, "rb"))
    try:
        os.close(reading)
        with os.fdopen(writing, "wb") as pipe:
            if start:
                os.close(start[1])
                os.read(start[0], 1)
            for answer in _answers(work):
                pickle.dump(answer, pipe)
                pipe.flush()
    finally:
        os._exit(0)


def _answers(work: Callable[[], Iterator[object] | object]) -> Iterator[object]:
    try:
        made = work()
        if isinstance(made, Iterator):
            yield from made
        else:
            yield made
    except RetryLater as e:
        yield e.code
    except Exception:  # noqa: BLE001 - the parent's to judge
        yield traceback.format_exc()


def told(ran: Child) -> list[object]:
    """All that it had to tell, once it has ended."""
    found = []
    with ran.pipe:
        while ran.pipe.peek(1):  # type: ignore[attr-defined]
            found.append(pickle.load(ran.pipe))
    os.waitpid(ran.pid, 0)
    return found
