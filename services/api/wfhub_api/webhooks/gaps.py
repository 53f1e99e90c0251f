"""Gaps: what a webhook was not told of, because the log does not have it any more.

Positions are dense within a generation; a generation begins at 1 after a restore.
"""

from wfhub_api.positions import START, Position


def gap(reached: Position, following: Position) -> str | None:
    """Said in the webhook's row; None: `following` is what comes next."""
    if reached == START:  # the log was empty then
        return None
    if following.generation != reached.generation:
        missing = f", whose first {following.pos - 1} events are gone" if following.pos > 1 else ""
        return f"after {reached} the log began generation {following.generation}{missing}"
    missed = following.pos - reached.pos - 1
    if missed > 0:
        return f"{missed} events after {reached} were gone with age: it went on at {following}"
    return None
