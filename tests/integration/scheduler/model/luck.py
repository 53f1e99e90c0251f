"""All choices of one step, from one number: commands that run at once end as they like, so what
there is to choose from is not the same twice, and Hypothesis must not be told of it."""

from collections.abc import Sequence
from random import Random
from typing import TypeVar

from hypothesis import strategies as st

T = TypeVar("T")


class Luck:
    def __init__(self, seed: int) -> None:
        self._random = Random(seed)

    def one_of(self, options: Sequence[T]) -> T:
        return self._random.choice(options)

    def some(self, options: Sequence[T], *, at_least: int = 0, at_most: int) -> list[T]:
        return self._random.sample(options, self.between(at_least, min(at_most, len(options))))

    def between(self, least: int, most: int) -> int:
        return self._random.randint(least, most)

    def flip(self) -> bool:
        return self._random.random() < 0.5

    def once_in(self, count: int) -> bool:
        return self._random.randrange(count) == 0


LUCK = st.integers(0, 2**32 - 1).map(Luck)
