"""A circuit breaker, one a deployment: after failures in a row it is left alone for a while. Pure.

closed ──(failures in a row)──▶ open ──(open_s)──▶ half open: one request tries
   ▲                              ▲                    │
   └───────── it answers ─────────┼────────────────────┤
                                  └──── it fails ──────┘

`now` is a monotonic clock, in seconds. A try of which nothing is heard is over after open_s.
"""

from dataclasses import dataclass


@dataclass
class CircuitBreaker:
    failures_max: int
    open_s: float
    failures: int = 0
    opened_at: float | None = None
    tried_at: float | None = None

    def allows(self, now: float) -> bool:
        if self.opened_at is None:
            return True
        if now - self.opened_at < self.open_s:
            return False
        return self.tried_at is None or now - self.tried_at >= self.open_s

    def asked(self, now: float) -> None:
        if self.opened_at is not None:
            self.tried_at = now

    def answered(self) -> None:
        self.failures, self.opened_at, self.tried_at = 0, None, None

    def failed(self, now: float) -> None:
        self.failures += 1
        if self.opened_at is not None or self.failures >= self.failures_max:
            self.opened_at, self.tried_at = now, None
