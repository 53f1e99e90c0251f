"""What a running attempt says to the scheduler: steps on the way, and its end.

A step is told on a best-effort basis (the attempt's end is what counts) but its answer may be
"cancel" or "no longer yours". A completion is repeated until it is answered.
Raises: LeaseLost.
"""

import asyncio
import random
from typing import Any, Literal

from faststream.nats import NatsBroker
from wfhub_common import broker as rpc
from wfhub_common import messages
from wfhub_common.errors import LeaseLost, RetryLater
from wfhub_common.log import get_logger
from wfhub_common.messages import AttemptState

from wfhub_agent_runner.leases import Held

COMPLETE_BACKOFF_S_MAX = 10.0

log = get_logger(__name__)


class SchedulerLink:
    def __init__(self, broker: NatsBroker, runner_id: str) -> None:
        self._broker = broker
        self._runner_id = runner_id

    async def step(
        self,
        held: Held,
        name: str,
        *,
        state: Literal[AttemptState.RUNNING, AttemptState.VERIFYING] | None = None,
        **fields: Any,
    ) -> None:
        report = messages.Report(attempt_id=held.attempt_id, state=state, step=name, fields=fields)
        try:
            reply = await rpc.ask(
                self._broker, self._runner_id, "report", report, messages.Reported
            )
        except RetryLater as e:
            log.warning("step not told", step=name, attempt_id=held.attempt_id, error=e.code)
            return
        except LeaseLost:
            held.lose()
            raise
        if reply.cancel:
            held.cancel.set()

    async def complete(self, held: Held, complete: messages.Complete) -> messages.Completed:
        turn = 0
        while True:
            try:
                return await rpc.ask(
                    self._broker, self._runner_id, "complete", complete, messages.Completed
                )
            except RetryLater as e:
                if held.lost:
                    raise LeaseLost("lease-lost", "the lease was lost before the end") from e
                log.warning("completion not answered", attempt_id=held.attempt_id, error=e.code)
                pause_s = min(COMPLETE_BACKOFF_S_MAX, 0.2 * 2 ** min(turn, 8))
                await asyncio.sleep(pause_s * random.uniform(0.5, 1))  # noqa: S311 - jitter
                turn += 1
