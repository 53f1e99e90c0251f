"""The log of an attempt's egress proxy: one JSON line a decision, and one with the sums.

A decision is {at, target, decision, reason, address, sent_bytes, received_bytes, duration_ms}:
`target` is host:port ("" when what was asked for is none), never a path, a header or other words
of the agent's; `decision` is allowed | refused, `reason` why it was refused or how it ended.
Of each kind the first EGRESS_LOG_LINES_MAX are kept, so that no flood of the one hides the other.
"""

import json
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wfhub_common.log import get_logger

EGRESS_LOG_LINES_MAX = 1000  # of each kind

log = get_logger(__name__)


class EgressLog:
    def __init__(self, path: Path, *, lines_max: int = EGRESS_LOG_LINES_MAX) -> None:
        self.path = path
        self._lines_max = lines_max
        self._lines: list[dict[str, Any]] = []
        self._counts: Counter[str] = Counter()
        self._sent_bytes = self._received_bytes = 0

    def add(
        self,
        *,
        target: str,
        allowed: bool,
        reason: str,
        address: str = "",
        sent_bytes: int = 0,
        received_bytes: int = 0,
        duration_s: float = 0.0,
    ) -> None:
        decision = "allowed" if allowed else "refused"
        self._counts[decision] += 1
        self._sent_bytes += sent_bytes
        self._received_bytes += received_bytes
        if self._counts[decision] > self._lines_max:
            return
        self._lines.append(
            {
                "at": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "target": target,
                "decision": decision,
                "reason": reason,
                "address": address,
                "sent_bytes": sent_bytes,
                "received_bytes": received_bytes,
                "duration_ms": int(duration_s * 1000),
            }
        )

    def totals(self) -> dict[str, int]:
        return {
            "connections_allowed": self._counts["allowed"],
            "connections_refused": self._counts["refused"],
            "sent_bytes": self._sent_bytes,
            "received_bytes": self._received_bytes,
        }

    def write(self) -> None:
        """Raises: OSError."""
        sums = {**self.totals(), "lines_left_out": self._counts.total() - len(self._lines)}
        lines = [*self._lines, sums]
        log.info("egress of an attempt", file=str(self.path), **sums)
        self.path.write_text("".join(json.dumps(line) + "\n" for line in lines))
