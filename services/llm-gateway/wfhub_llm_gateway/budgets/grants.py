"""What a request may reserve, of what its scopes have left. Pure.

A scope is a project, its day, its minute, a task, an attempt; an account says what of a scope's
limit is used, and held by open requests. A grant is given by all accounts or by none.
Units: tokens, nano-USD (`nusd`), milliseconds. Raises: Refused, which names scope and measure.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wfhub_common.messages import SpendingLimit

from wfhub_llm_gateway.budgets.prices import FREE, Price

Measure = Literal["tokens", "usd", "requests", "wall time"]
UNLIMITED = 2**62  # of whatever is not limited
RATE_SCOPE = "minute"  # refuses what would begin; what runs is never cut for it


@dataclass(frozen=True)
class Amount:
    tokens: int = 0
    nusd: int = 0
    wall_ms: int = 0
    requests: int = 0

    def __add__(self, other: "Amount") -> "Amount":
        return Amount(
            self.tokens + other.tokens,
            self.nusd + other.nusd,
            self.wall_ms + other.wall_ms,
            self.requests + other.requests,
        )


@dataclass(frozen=True)
class Account:
    """`taken`: used and held."""

    limit: SpendingLimit
    taken: Amount

    def left(self) -> Amount:
        limit = self.limit
        return Amount(
            _left(limit.tokens, self.taken.tokens),
            _left(limit.nusd, self.taken.nusd),
            _left(limit.wall_ms, self.taken.wall_ms),
            _left(limit.requests, self.taken.requests),
        )


@dataclass(frozen=True)
class Ask:
    """`prompt` and `requests` are wanted in full, of the rest at least the `_min`."""

    prompt: int
    completion: int
    wall_ms: int
    completion_min: int = 1
    wall_ms_min: int = 1
    requests: int = 1
    price: Price = FREE
    more: bool = False  # for a request that is under way


@dataclass(frozen=True)
class Grant:
    prompt: int
    completion: int
    wall_ms: int
    requests: int
    nusd: int

    @property
    def amount(self) -> Amount:
        return Amount(self.prompt + self.completion, self.nusd, self.wall_ms, self.requests)


@dataclass(eq=False)
class Refused(Exception):
    """`left` may be less than nothing: an answer that no stream could cut passed the limit."""

    limit: SpendingLimit
    measure: Measure
    left: int


def grant(accounts: Sequence[Account], ask: Ask) -> Grant:
    completion, wall_ms = ask.completion, ask.wall_ms
    for account in accounts:
        if ask.more and account.limit.scope == RATE_SCOPE:
            continue
        left = account.left()
        if left.requests < ask.requests:
            raise Refused(account.limit, "requests", left.requests)
        if ask.prompt + ask.completion_min:  # else it is free: to count tokens, say
            if left.tokens < ask.prompt + ask.completion_min:
                raise Refused(account.limit, "tokens", left.tokens)
            if _affordable(left.nusd, ask) < ask.completion_min:
                raise Refused(account.limit, "usd", left.nusd)
            completion = min(completion, left.tokens - ask.prompt, _affordable(left.nusd, ask))
        if left.wall_ms < ask.wall_ms_min:
            raise Refused(account.limit, "wall time", left.wall_ms)
        wall_ms = min(wall_ms, left.wall_ms)
    nusd = ask.price.reserve(ask.prompt, completion)
    return Grant(ask.prompt, completion, wall_ms, ask.requests, nusd)


def _affordable(nusd: int, ask: Ask) -> int:
    """Tokens of an answer, after its prompt; -1: not even that."""
    rest = nusd - ask.price.reserve(ask.prompt, 0)
    if rest < 0:
        return -1
    return rest // ask.price.output if ask.price.output else UNLIMITED


def _left(limit: int | None, taken: int) -> int:
    return UNLIMITED if limit is None else limit - taken
