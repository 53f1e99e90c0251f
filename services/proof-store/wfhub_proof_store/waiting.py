"""Waiting: announcements whose blob is not here yet; so many of a runner, and no more.

All of them wait among the ACK_PENDING_MAX messages that the broker has given out: without a bound
of its own one runner's would leave no place for anybody else's. What finds none is dropped: its
runner announces anew what gets no receipt. Places are of one process.
Units: seconds, monotonic.
"""

from collections import defaultdict

WAITING_OF_A_RUNNER_MAX = 500
# It comes back sooner (admission.RETRY_MAX_S); else another process has it, or the stream is gone.
FORGOTTEN_S = 60.0


class Waiting:
    def __init__(self) -> None:
        # By runner: when each message was last seen, the latest last.
        self._seen: defaultdict[str, dict[int, float]] = defaultdict(dict)

    def takes(self, runner_id: str, seq: int, now: float) -> bool:
        """Whether this message, a new one or one that waits already, may wait on."""
        seen = self._seen[runner_id]
        seen.pop(seq, None)
        while seen and next(iter(seen.values())) < now - FORGOTTEN_S:
            del seen[next(iter(seen))]
        if len(seen) >= WAITING_OF_A_RUNNER_MAX:
            return False
        seen[seq] = now
        return True

    def ended(self, runner_id: str, seq: int) -> None:
        if runner_id in self._seen:
            self._seen[runner_id].pop(seq, None)
            if not self._seen[runner_id]:
                del self._seen[runner_id]
