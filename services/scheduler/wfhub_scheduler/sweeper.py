"""The sweeper: what nobody asks for. Leases that ran out, and rows that aged out.

Every scheduler sweeps; one transaction an attempt, so sweeping at once is harmless.
After an outage of the database or the broker, or a long pause of this process, a lease is given
one TTL before its silence counts (timing.Calm).
Units: seconds.
"""

import time

from wfhub_scheduler import ledger
from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.runners import EXPIRE_BATCH, expired, lose
from wfhub_scheduler.timing import Calm

SWEEP_S_MAX = 1.0
PAUSE_S_MIN = 1.0  # a busy machine is no outage
FORGET_S = 600.0


class Sweeper:
    def __init__(self, core: Core) -> None:
        ttl_s = core.timing.lease_ttl_s
        self._core = core
        self._calm = Calm(ttl_s=ttl_s, pause_s=max(ttl_s / 3, PAUSE_S_MIN))
        self._forget_at = 0.0  # monotonic
        self.period_s = min(SWEEP_S_MAX, ttl_s / 5)

    async def turn(self) -> bool:
        """Asks the database even while nothing may expire: that is how an outage is noticed."""
        try:
            silent = await expired(self._core)
        except Exception:
            self._calm.turn(time.monotonic(), healthy=False)
            raise
        if not self._calm.turn(time.monotonic(), healthy=self._core.connected):
            return False
        for attempt_id, runner_id in silent:
            await lose(self._core, attempt_id, runner_id, reason="lease-expired", if_expired=True)
        await self._forget()
        return len(silent) == EXPIRE_BATCH

    async def _forget(self) -> None:
        if time.monotonic() < self._forget_at:
            return

        async def work(tx: Tx) -> int:
            return await ledger.forget_old(tx.connection)

        if await self._core.commit(work) < ledger.FORGET_ROWS_MAX:
            self._forget_at = time.monotonic() + FORGET_S
