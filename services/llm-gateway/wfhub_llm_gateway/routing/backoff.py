"""How long to wait before asking again. Pure. Units: seconds.

`Retry-After` is kept to: a wait that it makes longer than `backoff_max` is not waited for here.
"""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from wfhub_llm_gateway.routing.config import Retries


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """Of the header, in seconds or as a date; None where it is not there or is neither."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.replace(".", "", 1).isdigit():
        return float(text)
    try:
        at = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0.0, (at - now).total_seconds())


def wait_s(retries: Retries, turn: int, asked_s: float | None, luck: float) -> float | None:
    """Before the `turn`-th wait (from 0); `luck` in [0, 1). None: too long to wait for."""
    longest_s = retries.backoff_max_ms / 1000
    own_s = min(retries.backoff_ms / 1000 * 2.0 ** min(turn, 30), longest_s)
    jittered_s = own_s * (0.5 + luck / 2)
    if asked_s is None:
        return jittered_s
    return max(asked_s, jittered_s) if asked_s <= longest_s else None
