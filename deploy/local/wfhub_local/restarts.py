"""When a process that ended by itself is started again. Pure.

A process may crash now and then (a killed server among many tests of it), so the cap counts ends
within a window; what ends again and again reaches it within a minute, whatever the backoff.
Before the stack was ready once, a second end is taken for a broken set-up, and said at once.
"""

from collections.abc import Sequence

RESTARTS_MAX = 15
RESTART_WINDOW_S = 60.0
ENDS_BEFORE_READY_MAX = 3
BACKOFF_FIRST_S = 0.1
BACKOFF_MAX_S = 2.0


def delay_s(ends: Sequence[float], *, now: float, was_ready: bool) -> float | None:
    """How long to wait before the next start, or None to give up. `ends`: when it ended, the
    last one included (seconds, monotonic)."""
    recent = sum(1 for at in ends if now - at < RESTART_WINDOW_S)
    most = RESTARTS_MAX if was_ready else ENDS_BEFORE_READY_MAX - 1
    if recent > most:
        return None
    return min(BACKOFF_MAX_S, float(BACKOFF_FIRST_S * 2 ** max(0, recent - 1)))
