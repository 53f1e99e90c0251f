"""Budgets of model use: what a task, each of its attempts, and a project may spend.

As people give them: `usd` is a decimal number or its text ("2.50"), `wall_s` the seconds that its
requests to models are open, added up. As the gateway is told them (SpendingLimit): integers only,
nano-USD (`*_nusd`, 10^-9 USD) and milliseconds, one limit a scope. Days and minutes are UTC's.
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from wfhub_common.messages.base import Command, Fact

NUSD_PER_USD = 1_000_000_000
TOKENS_MAX = 10**15
REQUESTS_MAX = 10**12
WALL_S_MAX = 10**9
USD_MAX = 1_000_000_000


def _plain(usd: Decimal) -> Decimal:
    """One spelling for one amount: 2.50 and 2.5 are the same budget."""
    return Decimal(f"{usd.normalize():f}")


Usd = Annotated[Decimal, Field(gt=0, le=USD_MAX, decimal_places=9), AfterValidator(_plain)]
TokenCount = Annotated[int, Field(ge=1, le=TOKENS_MAX)]
RequestCount = Annotated[int, Field(ge=1, le=REQUESTS_MAX)]
WallSeconds = Annotated[int, Field(ge=1, le=WALL_S_MAX)]


class Budget(Command):
    """What is left out is not limited."""

    tokens: TokenCount | None = None
    usd: Usd | None = None
    requests: RequestCount | None = None
    wall_s: WallSeconds | None = None


class ProjectBudget(Budget):
    """All tasks of a project together: in total, each day, and each minute (a rate)."""

    tokens_per_day: TokenCount | None = None
    usd_per_day: Usd | None = None
    requests_per_day: RequestCount | None = None
    wall_s_per_day: WallSeconds | None = None
    requests_per_minute: RequestCount | None = None
    tokens_per_minute: TokenCount | None = None


SpendingScope = Literal["project", "day", "minute", "task", "attempt"]


class SpendingLimit(Fact):
    """What one scope of a token's attempt may spend."""

    scope: SpendingScope
    tokens: int | None = None
    nusd: int | None = None
    requests: int | None = None
    wall_ms: int | None = None


def limits_of(
    *, attempt: Budget, task: Budget, project: ProjectBudget
) -> tuple[SpendingLimit, ...]:
    """The limits that are set, in the order in which the gateway locks them."""
    daily = Budget(
        tokens=project.tokens_per_day,
        usd=project.usd_per_day,
        requests=project.requests_per_day,
        wall_s=project.wall_s_per_day,
    )
    rate = Budget(tokens=project.tokens_per_minute, requests=project.requests_per_minute)
    given: tuple[tuple[SpendingScope, Budget], ...] = (
        ("project", project),
        ("day", daily),
        ("minute", rate),
        ("task", task),
        ("attempt", attempt),
    )
    return tuple(_limits(given))


def _limits(given: tuple[tuple[SpendingScope, Budget], ...]) -> Iterator[SpendingLimit]:
    for scope, budget in given:
        limit = SpendingLimit(
            scope=scope,
            tokens=budget.tokens,
            nusd=None if budget.usd is None else int(budget.usd * NUSD_PER_USD),
            requests=budget.requests,
            wall_ms=None if budget.wall_s is None else budget.wall_s * 1000,
        )
        if limit != SpendingLimit(scope=scope):
            yield limit
