"""The floor: an id of the outbox below which no row is without a position, nor will be.

Sequence order is not commit order: a row may appear below others that were placed long ago. But
once every transaction has ended that was under way when the sequence stood at some id, nothing
appears at or below it. (A row's id is drawn after its transaction has an xid: an event follows a
write. The barrier is taken a look later all the same, and all is looked through now and then.)
Without a floor the search passes all rows that a long-lived snapshot, of a backup say, keeps on
disk. Pure. Units: seconds (monotonic).
"""

from dataclasses import dataclass

LOOK_THROUGH_S = 60.0


@dataclass(frozen=True)
class Look:
    """Read in one statement: the sequence's last id, and the snapshot's xmin and xmax."""

    last_id: int
    xmin: int  # every transaction below has ended
    xmax: int  # none at or above has begun


@dataclass
class Floor:
    id: int = 0
    _candidate: int | None = None
    _barrier: int | None = None
    _through_at: float = 0.0

    def above(self, now: float) -> int:
        """Where to search from: the floor, or everything when that was long ago."""
        if now - self._through_at < LOOK_THROUGH_S:
            return self.id
        self._through_at = now
        return 0

    def placed(self, look: Look, *, up_to: int) -> None:
        """After a search that began with `look` and left no visible row at or below `up_to`."""
        if self._candidate is None:
            self._candidate = up_to
        elif self._barrier is None:
            self._barrier = look.xmax
        elif up_to >= self._candidate and look.xmin >= self._barrier:
            self.id, self._candidate, self._barrier = self._candidate, None, None
