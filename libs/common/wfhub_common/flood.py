"""Log lines that others can cause, bounded: so many a period for each cause, then a count.

`if (unsaid := gate.admit(sender, code)) is not None: log.info("refused", …, unsaid=unsaid)`
Units: seconds (monotonic).
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

LINES_MAX = 10
PERIOD_S = 10.0
CAUSES_MAX = 1000  # remembered; the one quiet for longest is forgotten first


@dataclass
class _Cause:
    since: float
    lines: int = 0
    unsaid: int = 0


class FloodGate:
    def __init__(
        self,
        *,
        lines_max: int = LINES_MAX,
        period_s: float = PERIOD_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._lines_max, self._period_s, self._clock = lines_max, period_s, clock
        self._causes: OrderedDict[tuple[str, ...], _Cause] = OrderedDict()

    def admit(self, *cause: str) -> int | None:
        """How many lines of this cause were kept back since the last one; None: keep this back."""
        now = self._clock()
        found = self._causes.setdefault(cause, _Cause(now))
        self._causes.move_to_end(cause)
        if len(self._causes) > CAUSES_MAX:
            self._causes.popitem(last=False)
        if now - found.since >= self._period_s:
            found.since, found.lines = now, 0
        if found.lines >= self._lines_max:
            found.unsaid += 1
            return None
        found.lines += 1
        unsaid, found.unsaid = found.unsaid, 0
        return unsaid
