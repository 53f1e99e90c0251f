"""Refusals of budgets and rates, as a caller is told them: what is used up, and who sets it."""

from wfhub_common.errors import Rejected, WfhubError
from wfhub_common.messages.budgets import NUSD_PER_USD

from wfhub_llm_gateway.budgets.accounts import Subjects
from wfhub_llm_gateway.budgets.grants import Refused
from wfhub_llm_gateway.formats.asked import UpstreamFailed

_WHERE = {
    "attempt": "a task's attempt_budget sets it",
    "task": "a task's budget sets it",
    "project": "`wfhub project update --budget` sets it",
    "day": "`wfhub project update --budget` sets it; a new day begins at 00:00 UTC",
    "minute": "`wfhub project update --budget` sets it",
}
_OWNER = {
    "attempt": "this attempt's budget",
    "task": "this task's budget",
    "project": "the project's budget",
    "day": "the project's budget of a day",
    "minute": "the project's rate",
}


class RateLimited(UpstreamFailed):
    """Too much for this minute: 429, and worth asking again."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__("rate-limited", message, status=429)
        self.retry_after_s = retry_after_s


def before(refused: Refused, subjects: Subjects) -> WfhubError:
    limit = refused.limit
    if limit.scope == "minute":
        return RateLimited(
            f"the project's rate of {_amount(refused)} a minute is reached; ask again in the next "
            f"minute. {_WHERE['minute']}",
            retry_after_s=subjects.seconds_to_next_minute(),
        )
    left = f"{_shown(refused, max(0, refused.left))} left"
    return _exceeded(refused, f"this request was not sent ({left})")


def within(refused: Refused) -> Rejected:
    return _exceeded(refused, "the answer was cut off there")


def lost() -> Rejected:
    return Rejected(
        "gateway-lost",
        "this gateway was out of touch for longer than its lease, and another one closed the "
        "request; ask again",
        status=409,
    )


def price_unknown(model: str) -> Rejected:
    return Rejected(
        "price-unknown",
        f"there is a budget in USD, and no price of {model or 'an unnamed model'!r} is known: the "
        "gateway's operator adds one to the file that LLM_PRICES names",
        status=403,
    )


def _exceeded(refused: Refused, what: str) -> Rejected:
    scope = refused.limit.scope
    return Rejected(
        "budget-exceeded",
        f"{_OWNER[scope]} of {_amount(refused)} is used up or held by other requests; {what}. "
        f"{_WHERE[scope][0].upper()}{_WHERE[scope][1:]}",
        status=429,
        scope=scope,
        measure=refused.measure,
    )


def _amount(refused: Refused) -> str:
    limit = refused.limit
    amounts = {
        "tokens": limit.tokens,
        "usd": limit.nusd,
        "requests": limit.requests,
        "wall time": limit.wall_ms,
    }
    return _shown(refused, amounts[refused.measure] or 0)


def _shown(refused: Refused, amount: int) -> str:
    match refused.measure:
        case "tokens":
            return f"{amount} model tokens"
        case "usd":
            return f"{amount / NUSD_PER_USD:.6f}".rstrip("0").rstrip(".") + " USD"
        case "requests":
            return f"{amount} requests"
    return f"{amount / 1000:g} s of model time"
