"""Which of what is kept is removed (pure)."""

from pathlib import Path

import pytest
from wfhub_agent_runner.gitwork import limits
from wfhub_agent_runner.gitwork.eviction import Budget, Kept, evicted

NOW = 1_000_000.0
PLENTY = Budget(bytes_max=10**12, age_s=10**6, free_bytes_min=0)


def tree(name: str, size: int, age_s: float) -> Kept:
    return Kept(Path("home/trees/m") / name, size, NOW - age_s)


FOUND = [tree("a", 10, 300), tree("b", 20, 200), tree("c", 30, 100)]


def gone(
    budget: Budget, found: list[Kept], *, free: int = 100, used: frozenset[str] = frozenset()
) -> list[str]:
    took = evicted(
        found, budget, now=NOW, free_bytes=free, remove=lambda one: one.path.name not in used
    )
    return [one.path.name for one in took]


@pytest.mark.parametrize(
    ("budget", "free", "used", "expected"),
    [
        (PLENTY, 100, "", []),
        (Budget(10**12, 150.0, 0), 100, "", ["a", "b"]),
        (Budget(50, 10**6, 0), 100, "", ["a"]),
        (Budget(49, 10**6, 0), 100, "", ["a", "b"]),
        (Budget(49, 10**6, 0), 100, "a", ["b"]),
        (Budget(0, 10**6, 0), 100, "b", ["a", "c"]),
        (Budget(10**12, 10**6, 125), 100, "", ["a", "b"]),
    ],
)
def test_by_age_budget_and_free_space(
    budget: Budget, free: int, used: str, expected: list[str]
) -> None:
    assert gone(budget, FOUND, free=free, used=frozenset(used)) == expected


def test_too_many_go_but_the_newest_stays_when_the_oldest_is_in_use(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "TREES_KEPT_MAX", 1)
    assert gone(PLENTY, FOUND, used=frozenset("a")) == ["b"]
    mirror = Kept(Path("home/mirrors/m"), 5, NOW - 400)
    assert gone(PLENTY, [mirror, *FOUND]) == ["a", "b"]
