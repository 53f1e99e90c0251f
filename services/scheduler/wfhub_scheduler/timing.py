"""How long things wait: backoffs, and when silence may be taken for a loss.

Pure. Units: seconds. `luck` is a random number in [0, 1), so that a rule has one answer.
"""

from dataclasses import dataclass

from wfhub_common.messages import Retry

PUBLISH_DELAY_S_MAX = 300.0
SEAL_DELAY_S_MAX = 60.0
LOSS_DELAY_S_MAX = 60.0


@dataclass(frozen=True)
class Timing:
    lease_ttl_s: float
    heartbeat_s: float
    retry_base_s: float
    stop_grace_s: float = 300.0  # to stop in and hand in the evidence, before the lease ends
    attempt_margin_s: float = 3600.0  # beside an attempt's own limits: checkout, delivery, outages


def retry_delay_s(retry: Retry, tries: int, luck: float) -> float:
    """After the `tries`-th try, as the task's policy says."""
    grown_ms = retry.backoff_ms * float(retry.factor) ** min(tries - 1, 32)
    full_ms = min(grown_ms, float(retry.backoff_max_ms))
    return full_ms / 1000 * (1 - luck * retry.jitter_percent / 100)


def retried_on(retry: Retry, reason: str) -> bool:
    """Whether the task's policy names this reason; one that ends in `:` names all that begin so."""
    if retry.on is None:
        return True
    return any(reason == each or (each[-1] == ":" and reason.startswith(each)) for each in retry.on)


def publish_delay_s(base_s: float, tries: int, luck: float) -> float:
    """After the `tries`-th try: base, 2 base, 4 base …, each between a half and all of it."""
    return _spread(min(base_s * 2.0 ** min(tries - 1, 32), PUBLISH_DELAY_S_MAX), luck)


def loss_delay_s(losses: int, luck: float) -> float:
    """The first loss is the runner's; a unit that keeps losing runners may be the cause."""
    if losses <= 1:
        return 0.0
    return _spread(min(2.0 ** min(losses - 2, 32), LOSS_DELAY_S_MAX), luck)


def seal_delay_s(base_s: float, tries: int, luck: float) -> float:
    return _spread(min(base_s * 2.0 ** min(tries, 32), SEAL_DELAY_S_MAX), luck)


def _spread(delay_s: float, luck: float) -> float:
    return delay_s * (0.5 + luck / 2)


@dataclass
class Calm:
    """Whether leases may be expired: not until one TTL after an outage, seen or suspected.

    While the database, the broker or this process stood still, heartbeats could not arrive;
    their absence says nothing about the runners. `turn` is called once a sweep (monotonic time).
    """

    ttl_s: float
    pause_s: float  # a gap between two turns that counts as an outage of our own
    last_turn: float | None = None
    quiet_until: float = 0.0

    def turn(self, now: float, *, healthy: bool) -> bool:
        if self.last_turn is None or now - self.last_turn > self.pause_s or not healthy:
            self.quiet_until = now + self.ttl_s
        self.last_turn = now
        return now >= self.quiet_until
