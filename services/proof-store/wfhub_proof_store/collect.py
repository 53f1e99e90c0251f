"""RPC `receipts`: a runner waits until each of its artifacts has a receipt or a refusal.

A sender sees its own announcements only, whichever attempt it names.
"""

import asyncio
from contextlib import suppress

from sqlalchemy.ext.asyncio import AsyncEngine
from wfhub_common import db
from wfhub_common.messages import Receipts, ReceiptsOf

from wfhub_proof_store import artifacts
from wfhub_proof_store.arrivals import Arrivals

POLL_S = 0.5  # another replica's receipts are seen this late at worst


class Collector:
    def __init__(self, engine: AsyncEngine, arrivals: Arrivals) -> None:
        self._engine, self._arrivals = engine, arrivals

    async def receipts(self, sender: str, asked: ReceiptsOf) -> Receipts:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + asked.wait_s
        with self._arrivals.waiting(asked.attempt_id) as arrived:
            while True:
                arrived.clear()
                async with db.transaction(self._engine) as connection:
                    found = await artifacts.settled(
                        connection, attempt_id=asked.attempt_id, sender=sender, names=asked.names
                    )
                decided = {each.name for each in found.receipts} | found.refused.keys()
                left_s = deadline - loop.time()
                if decided >= set(asked.names) or left_s <= 0:
                    return found
                with suppress(TimeoutError):
                    await asyncio.wait_for(arrived.wait(), min(left_s, POLL_S))
