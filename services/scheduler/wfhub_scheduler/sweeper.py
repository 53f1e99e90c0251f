"""The sweeper: what nobody asks for. Leases and times that ran out, and rows that aged out.

Every scheduler sweeps; what one has locked the others skip, so sweeping at once is harmless.
After an outage of the database or the broker, or a long pause of this process, a lease is given
one TTL before its silence counts (timing.Calm).
Units: seconds.
"""

import time

from wfhub_scheduler import ledger
from wfhub_scheduler.core import Core, Tx
from wfhub_scheduler.dead_letters import LETTERS
from wfhub_scheduler.runners import lose_expired
from wfhub_scheduler.states import TaskEvent
from wfhub_scheduler.timeouts import end_overdue
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
            late = await end_overdue(self._core, TaskEvent.QUEUE_TIMEOUT)
            late |= await end_overdue(self._core, TaskEvent.REVIEW_TIMEOUT)
            late |= await end_overdue(self._core, TaskEvent.DEADLINE)
        except Exception:
            self._calm.turn(time.monotonic(), healthy=False)
            raise
        if not self._calm.turn(time.monotonic(), healthy=self._core.connected):
            return late
        silent = await lose_expired(self._core)
        await self._forget()
        return late or silent

    async def _forget(self) -> None:
        if time.monotonic() < self._forget_at:
            return

        async def work(tx: Tx) -> int:
            await LETTERS.forget_old(tx.connection)
            return await ledger.forget_old(tx.connection)

        if await self._core.commit(work) < ledger.FORGET_BATCHES_MAX:
            self._forget_at = time.monotonic() + FORGET_S
