"""Retries: what follows from an attempt to deliver. Units: seconds."""

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

RETRY_S_MAX = 3600.0
RETRY_AFTER_S_MAX = 6 * 3600.0
DOUBLINGS_MAX = 30
GIVE_UP_AFTER_S = 5 * 24 * 3600.0  # of nothing but failures
GONE = 410


@dataclass(frozen=True)
class Delivered:
    status: int
    outcome = "delivered"


@dataclass(frozen=True)
class Refused:
    """The receiver answered, and not with 2xx."""

    status: int
    retry_after_s: float | None = None
    outcome = "refused"


@dataclass(frozen=True)
class Unreached:
    """`outcome`: timeout, unreachable, unresolved, forbidden-address or secret-unopened; `why` for
    people."""

    outcome: str
    why: str
    status = None


Outcome = Delivered | Refused | Unreached


def delay_s(
    failures: int, *, base_s: float, jitter: float, retry_after_s: float | None = None
) -> float:
    """Before the next try after so many failures in a row. `jitter` is drawn from 0 to 1. Never
    sooner than asked for, within bounds, nor than our own wait."""
    doubled = base_s * 2.0 ** min(failures - 1, DOUBLINGS_MAX)
    own = min(doubled, RETRY_S_MAX) * (0.5 + jitter / 2)
    return max(own, min(retry_after_s or 0.0, RETRY_AFTER_S_MAX))


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """Of a header: seconds, or a date. None: there is none that can be read."""
    if value is None or len(value) > 64:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - now).total_seconds())


def disabling(outcome: Outcome, *, failing_s: float) -> str | None:
    """Why nothing is sent any more, after a failure; None: it is tried again."""
    if outcome.status == GONE:
        return "the receiver answered 410: it is gone"
    if failing_s >= GIVE_UP_AFTER_S:
        return f"nothing but failures for {failing_s / 86400:.0f} days; the last: {outcome.outcome}"
    return None
